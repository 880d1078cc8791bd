//! The fault matrix: every fault of a server at every request that is sent to it. `docs/faults.md` is its result.
//!
//! - [`fault`]: the rows; [`request`]: the columns, and which pairs of both exist;
//! - [`copy`] runs the cells of the copy engine, [`cluster`] those of the Kubernetes API;
//! - [`page`] renders the document; [`log`] captures all log lines.
//!
//! A cell that hangs, panics, leaves a wrong tag or shows a secret fails the test, whatever the document says.

mod cluster;
mod copy;
mod fault;
pub mod log;
mod page;
mod request;

use fault::Fault;
use futures_util::StreamExt as _;
use request::Request;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Cells that run at the same time; most of their time is waiting.
const AT_ONCE: usize = 24;

/// The longest that a cell may take. With the timeouts and attempts of [`copy`] the longest fault takes about half of it.
const BOUND: Duration = Duration::from_secs(30);

/// Rewrites the document instead of comparing with it.
const WRITE: &str = "FAULTS_WRITE";

/// What a cell showed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cell {
    /// The fault cannot happen to this request.
    NotApplicable(&'static str),
    /// What came of it.
    Outcome(String),
}

/// The outcome of a cell and everything that must never happen.
struct Run {
    outcome: String,
    violations: Vec<String>,
}

type Cells = BTreeMap<(Request, Fault), Cell>;

#[test]
fn every_fault_at_every_request_has_the_documented_outcome() {
    let log = log::Captured::default();
    let guard = log.subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (cells, mut violations) = runtime.block_on(run_all());
    drop(runtime);
    drop(guard);
    violations.extend(log.leaks());
    assert!(violations.is_empty(), "{}", violations.join("\n"));

    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/faults.md");
    let page = page::render(&cells);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(path, page).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let differences: Vec<_> = page
        .lines()
        .filter(|line| !committed.contains(line))
        .collect();
    assert!(
        page == committed,
        "docs/faults.md differs; `make faults` rewrites it. New lines:\n{}",
        differences.join("\n")
    );
}

async fn run_all() -> (Cells, Vec<String>) {
    let mut cells = Cells::new();
    let mut runs = Vec::new();
    for request in Request::ALL {
        for fault in Fault::ALL {
            match request.not_applicable(fault) {
                Some(reason) => {
                    cells.insert((request, fault), Cell::NotApplicable(reason));
                }
                None => runs.push((request, fault)),
            }
        }
    }
    let results = futures_util::stream::iter(runs)
        .map(|(request, fault)| async move { (request, fault, guarded(request, fault).await) })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let mut violations = Vec::new();
    for (request, fault, run) in results {
        let name = format!("{} at {}", fault.name(), request.name());
        violations.extend(run.violations.iter().map(|what| format!("{name}: {what}")));
        cells.insert((request, fault), Cell::Outcome(run.outcome));
    }
    (cells, violations)
}

/// Runs a cell within [`BOUND`], and survives its panic.
async fn guarded(request: Request, fault: Fault) -> Run {
    let started = Instant::now();
    let task = tokio::spawn(async move {
        if request.is_of_kubernetes() {
            cluster::run(request, fault).await
        } else {
            copy::run(request, fault).await
        }
    });
    let failed = |what: String| Run {
        outcome: String::new(),
        violations: vec![what],
    };
    let run = match tokio::time::timeout(BOUND, task).await {
        Ok(Ok(run)) => run,
        Ok(Err(error)) => failed(format!("panic: {error}")),
        Err(_) => failed(format!("no end within {} s", BOUND.as_secs())),
    };
    if std::env::var_os("FAULTS_TRACE").is_some() {
        let took = started.elapsed().as_secs_f32();
        tracing::info!(
            took,
            request = request.name(),
            fault = fault.name(),
            outcome = run.outcome,
            "cell"
        );
    }
    run
}
