//! Says how large the policy's module is and what takes the space, and fails where that is too much.
//!
//! - [`module`] reads the sizes of a module's functions and sections;
//! - [`owner`] says which crate a function belongs to.
//!
//! The published module has no names, so they come from a second link that kept them. Its code is nearly the same: cargo gives
//! other flags other hashes of symbols, which decide about the order of optimisations.

mod module;
mod owner;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;

use module::Sizes;

/// Crates that have no place in the policy's code: the SDK depends on some of them, but nothing may call them. Each is
/// larger than the rest of the policy, or brings such a one along.
const UNWANTED: [&str; 10] = [
    "chrono",
    "k8s_openapi",
    "kube",
    "num_bigint",
    "oci_spec",
    "regex",
    "regex_automata",
    "serde_yaml",
    "slog",
    "url",
];

/// Percent by which the two builds may differ before they are taken for builds of different sources.
const TOLERANCE: usize = 3;

/// Shows the size of a policy's module, and what takes the space.
#[derive(Parser)]
struct Args {
    /// The module that is published.
    module: PathBuf,
    /// The same code, built with the names of its functions.
    #[arg(long)]
    names: PathBuf,
    /// The largest that the module may be, in KiB.
    #[arg(long, value_name = "KIB")]
    budget: usize,
    /// How many crates to show.
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Shows this many functions, too.
    #[arg(long, default_value_t = 0)]
    functions: usize,
}

fn main() -> ExitCode {
    match report(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "policy-size: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn report(args: &Args) -> anyhow::Result<()> {
    let published = read(&args.module)?;
    let named = read(&args.names)?;
    ensure!(
        !named.functions.is_empty(),
        "{} has no names of functions",
        args.names.display()
    );
    let crates = by_crate(&named);
    let mut out = std::io::stdout().lock();
    let mut line = |bytes: usize, what: &str| {
        let kib = tenths(bytes * 10 / 1024);
        let percent = tenths(bytes * 1000 / published.total.max(1));
        writeln!(out, "{kib:>7} KiB {percent:>5} %  {what}")
    };
    let title = format!(
        "{} ({} KiB are allowed)",
        args.module.display(),
        args.budget
    );
    line(published.total, &title)?;
    line(published.code, "code, by crate:")?;
    for (owner, bytes) in crates.iter().take(args.top) {
        line(*bytes, &format!("    {owner}"))?;
    }
    let rest: usize = crates.iter().skip(args.top).map(|(_, bytes)| bytes).sum();
    line(rest, "    the rest")?;
    line(published.data, "data: texts, tables, places of panics")?;
    line(
        published.total - published.code - published.data,
        "everything else",
    )?;
    let mut functions: Vec<_> = named.functions.iter().collect();
    functions.sort_by_key(|function| std::cmp::Reverse(function.bytes));
    for function in functions.into_iter().take(args.functions) {
        line(function.bytes, &owner::readable(&function.name))?;
    }
    check(args, &published, &named, &crates)
}

/// Fails where the policy became too large, or contains what it should not.
fn check(
    args: &Args,
    published: &Sizes,
    named: &Sizes,
    crates: &[(String, usize)],
) -> anyhow::Result<()> {
    ensure!(
        published.code.abs_diff(named.code) * 100 <= published.code * TOLERANCE,
        "{} and {} are not builds of the same sources",
        args.module.display(),
        args.names.display()
    );
    let found: BTreeSet<_> = crates
        .iter()
        .map(|(owner, _)| owner.as_str())
        .filter(|owner| UNWANTED.contains(owner))
        .collect();
    if !found.is_empty() {
        let found: Vec<_> = found.into_iter().collect();
        bail!(
            "the policy contains code that it should do without: {}",
            found.join(", ")
        );
    }
    ensure!(
        published.total <= args.budget * 1024,
        "{} has {} bytes, {} KiB ({} bytes) are allowed",
        args.module.display(),
        published.total,
        args.budget,
        args.budget * 1024
    );
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Sizes> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Sizes::of(&bytes).with_context(|| format!("{} is not a module", path.display()))
}

/// The bytes of code of each crate, the largest first.
fn by_crate(module: &Sizes) -> Vec<(String, usize)> {
    let mut crates = BTreeMap::<String, usize>::new();
    for function in &module.functions {
        *crates.entry(owner::of(&function.name)).or_default() += function.bytes;
    }
    let mut crates: Vec<_> = crates.into_iter().collect();
    crates.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    crates
}

/// A number of tenths, as a decimal.
fn tenths(value: usize) -> String {
    format!("{}.{}", value / 10, value % 10)
}
