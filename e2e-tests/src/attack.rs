//! Attacks on the sidecar and the policy by whoever may create a Pod, and by registries.
//!
//! `make attack` runs all of them against the release build within the memory limit of the chart and writes the table of
//! `docs/security.md`; a test runs the short ones against a debug build. Each attack has a bound that the project
//! promises, and a measured value.
//!
//! - [`site`]: the attacked sidecar, its backup and hostile registries; [`limits`]: its memory limit;
//! - [`documents`]: manifests, lists and tokens that a parser must survive;
//! - [`foreign_bytes`], [`logs`], [`private_networks`], [`connections`], [`floods`], [`starvation`], [`policy`], [`objects`],
//!   [`crash_loop`]: the attacks;
//! - [`table`]: the table.

pub mod connections;
mod crash_loop;
pub mod documents;
mod floods;
mod foreign_bytes;
pub mod limits;
mod logs;
mod objects;
mod policy;
mod private_networks;
pub mod site;
mod starvation;
pub mod table;

/// How the attacks are run.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The most memory that the sidecar may use, in bytes.
    pub memory: u64,
    /// Copies that run at the same time (`--parallel-copies`).
    pub parallel_copies: usize,
    /// The largest document that hostile registries send, in bytes.
    pub document: usize,
    /// Images that are asked for at the same time.
    pub images: usize,
    /// Whether the sidecar runs in a control group with this memory limit, where the machine allows one.
    pub is_limited: bool,
}

impl Setup {
    /// What the chart sets.
    pub const CHART: Self = Self {
        memory: 128 << 20,
        parallel_copies: 4,
        document: documents::MANIFEST,
        images: 24,
        is_limited: true,
    };

    /// For a debug build, which is several times as large itself and parses slowly. A parser that keeps a hundred times
    /// what it reads exceeds this limit with these documents, too.
    pub const DEBUG: Self = Self {
        memory: 160 << 20,
        document: 1 << 20,
        images: 8,
        is_limited: false,
        ..Self::CHART
    };
}

/// One attack.
#[derive(Clone, Copy)]
pub struct Attack {
    /// What the attacker does, as the table says it.
    pub name: &'static str,
    /// What must hold, as the table says it.
    pub bound: &'static str,
    /// Whether it is deterministic and takes few seconds of CPU in a debug build.
    pub is_short: bool,
    run: fn(Setup) -> anyhow::Result<Measured>,
}

/// What an attack showed.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The measured value, as the table says it.
    pub value: String,
    /// Whether it is within the bound.
    pub is_within_bound: bool,
}

impl Attack {
    /// Runs the attack. An attack that cannot be carried out counts as one that broke its bound.
    #[must_use]
    pub fn run(&self, setup: Setup) -> Measured {
        (self.run)(setup).unwrap_or_else(|error| Measured {
            value: format!("not measured: {error:#}")
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
            is_within_bound: false,
        })
    }
}

/// All attacks, in the order of the table.
#[must_use]
pub fn all() -> Vec<Attack> {
    [
        foreign_bytes::ATTACKS,
        logs::ATTACKS,
        private_networks::ATTACKS,
        floods::ATTACKS,
        starvation::ATTACKS,
        policy::ATTACKS,
        objects::ATTACKS,
        crash_loop::ATTACKS,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect()
}
