//! Runs the release build of the sidecar under load for a long time, and writes `docs/bench-soak.md`.
//!
//! - [`registry`]: an upstream of thousands of images with faults, and a backup;
//! - [`load`]: requests of the facade as Kubewarden sends them, a new TLS connection for each;
//! - [`report`]: what the figures say.

mod load;
mod registry;
mod report;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use e2e_tests::attack::limits::{peak, resident};
use testkit::sidecar::Sidecar;

use load::Load;
use registry::Registries;
use report::{Report, Sample};

/// The repository in the backup.
const REPOSITORY: &str = "acme/mirror";
/// How long the last copies may take after the load has ended.
const SETTLED_WITHIN: Duration = Duration::from_mins(10);
/// How often the process is looked at.
const SAMPLE: Duration = Duration::from_secs(5);

/// Measures mirror-sidecar under a long load.
#[derive(Clone, Parser)]
struct Args {
    /// Seconds of load
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// Requests per second
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Different images
    #[arg(long, default_value_t = 5000)]
    images: usize,
    /// Requests of a thousand that the registries answer with a fault
    #[arg(long, default_value_t = 10)]
    faults_per_mille: u64,
    /// The document to write; a run of less than 5 minutes prints it instead
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match soak(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            log(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns `false` when a target is missed.
fn soak(args: &Args) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let registries = Registries::start(&runtime, args.images, args.faults_per_mille);
    let mut sidecar = Sidecar::builder()
        .insecure_registry(&registries.backup())
        .insecure_registry(&registries.upstream())
        .argument("--registry")
        .argument(registries.backup())
        .argument("--repository")
        .argument(REPOSITORY)
        .start()?;
    let pid = sidecar.pid();
    let load = Load::start(&runtime, &sidecar, &registries.upstream(), args)?;
    let started = Instant::now();
    let length = Duration::from_secs(args.seconds);
    let mut samples = Vec::new();
    while started.elapsed() < length {
        std::thread::sleep(SAMPLE.min(length.saturating_sub(started.elapsed())));
        samples.push(sample(pid, started)?);
        registries.clear_logs();
        if let Some(status) = sidecar.ended()? {
            anyhow::bail!("the sidecar ended with {status}");
        }
        if samples.len().is_multiple_of(12) {
            log(&format!(
                "{} s: {} images in the backup",
                started.elapsed().as_secs(),
                registries.copies()
            ));
        }
    }
    let requests = runtime.block_on(load.end())?;
    while registries.copies() < args.images && started.elapsed() < length + SETTLED_WITHIN {
        // An image that failed is copied when it is asked for again, as a Pod does that is created again.
        runtime.block_on(load::ask_for_missing(&sidecar, &registries, args.images))?;
        std::thread::sleep(SAMPLE);
    }
    let report = Report {
        args: args.clone(),
        requests,
        settled_after: started.elapsed().saturating_sub(length),
        copies: registries.copies(),
        faults: registries.faults(),
        peak: peak(pid).context("the memory cannot be read")?,
        samples,
    };
    let text = report.render();
    match (&args.out, args.seconds >= 300) {
        (Some(path), _) => std::fs::write(path, text)?,
        (None, true) => std::fs::write(
            testkit::artifacts::workspace().join("docs/bench-soak.md"),
            text,
        )?,
        (None, false) => std::io::stdout().write_all(text.as_bytes())?,
    }
    Ok(report.meets_its_targets())
}

fn sample(pid: u32, started: Instant) -> anyhow::Result<Sample> {
    Ok(Sample {
        at: started.elapsed(),
        resident: resident(pid).context("the memory cannot be read")?,
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
    })
}

fn log(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
