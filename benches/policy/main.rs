//! Takes the time of evaluations, beside another policy's if there is one, and writes `docs/bench-policy.md`.
//!
//! - [`server`] runs a policy as a policy server does;
//! - [`cpu_time`] is what is measured;
//! - [`report`] says what the figures are.
//!
//! What is measured is what waPC and the policy take: a fresh instance, its start, the call with the host's answers at
//! hand, and its end. What the policy server does around that (HTTP, reading the review, the JSON patch), and the time
//! that answers of the sidecar take, are the same for any policy and are not in the figures.

mod cpu_time;
mod report;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use criterion::Criterion;
use e2e_tests::fuel::{Case, Meter};
use serde_json::Value;
use testkit::artifacts;

use cpu_time::CpuTime;
use report::{Figure, Row};
use server::Server;

/// Path of another policy's module.
const AGAINST: &str = "POLICY_BENCH_AGAINST";
/// That policy's settings, as JSON.
const AGAINST_SETTINGS: &str = "POLICY_BENCH_AGAINST_SETTINGS";

/// A policy and its cases, in the order of [`Case::all`].
struct Contender {
    name: String,
    server: Server,
    meter: Meter,
    cases: Vec<Arc<Case>>,
}

fn main() -> anyhow::Result<()> {
    let own = artifacts::policy_module()?;
    let mut contenders = vec![Contender::new("image-mirror", own, None)?];
    if let Some(path) = std::env::var_os(AGAINST).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let settings = std::env::var(AGAINST_SETTINGS).unwrap_or_default();
        let settings = Some(settings.trim()).filter(|settings| !settings.is_empty());
        let settings: Value = serde_json::from_str(settings.unwrap_or("{}"))
            .with_context(|| format!("{AGAINST_SETTINGS} is not JSON"))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        contenders.push(Contender::new(&name, &path, Some(&settings))?);
    }
    for case in &contenders[0].cases {
        case.check(&contenders[0].server.run(case)?)?;
    }
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(Duration::from_secs(1))
        .configure_from_args();
    let rows = measure(&mut criterion, &contenders)?;
    criterion.final_summary();
    report::write(&contenders, &rows)
}

impl Contender {
    fn new(name: &str, path: &Path, settings: Option<&Value>) -> anyhow::Result<Self> {
        let wasm =
            std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            server: Server::new(&wasm)?,
            meter: Meter::new(&wasm)?,
            cases: Case::all(settings).into_iter().map(Arc::new).collect(),
        })
    }
}

/// Takes the time of every case, of all policies one after another, so that they meet the machine in the same mood.
fn measure(
    criterion: &mut Criterion<CpuTime>,
    contenders: &[Contender],
) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (index, case) in contenders[0].cases.iter().enumerate() {
        let mut group = criterion.benchmark_group(case.name);
        for contender in contenders {
            let case = &contender.cases[index];
            group.bench_function(contender.name.as_str(), |bencher| {
                bencher.iter(|| contender.server.run(case).expect("the policy answers"));
            });
        }
        group.finish();
        let figures = contenders.iter().map(|contender| {
            let spent = contender.meter.run(&contender.cases[index], 0)?;
            let time = report::median(case.name, &contender.name)?;
            Ok(Figure { time, spent })
        });
        rows.push(Row {
            name: case.name,
            request: case.payload.len(),
            figures: figures.collect::<anyhow::Result<_>>()?,
        });
    }
    Ok(rows)
}
