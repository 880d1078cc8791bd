//! Measures the sidecar in a large cluster, and writes `docs/bench-cluster.md`.
//!
//! - [`objects`] are what the cluster stores, [`objects::Cluster`] lists them;
//! - [`registry`] stands for the upstream and the backup, which has every copy;
//! - [`process`] reads what the kernel counts, [`report`] says what it means.
//!
//! Both servers are scripted: a real one takes an hour to be filled, and only the sidecar is measured. Every figure in the
//! document comes from a run.

mod objects;
mod process;
mod registry;
mod report;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use testkit::api_server::ApiServer;
use testkit::sidecar::Sidecar;

use objects::{Cluster, Places, Scale};
use process::Process;
use registry::ScriptedRegistry;
use report::{Idle, Report, Run};

/// How long the first look at everything may take: 2000 images at a few a second.
const SETTLED_WITHIN: Duration = Duration::from_mins(20);
/// How long nothing new may be asked until the first look counts as over.
const SETTLED_AFTER: Duration = Duration::from_secs(15);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);
/// The repository in the backup.
const REPOSITORY: &str = "acme/mirror";

/// Measures mirror-sidecar in a large cluster.
#[derive(Parser)]
struct Args {
    /// Workloads but for Pods
    #[arg(long, default_value_t = 20_000)]
    workloads: usize,
    /// Pods
    #[arg(long, default_value_t = 50_000)]
    pods: usize,
    /// Images that they use
    #[arg(long, default_value_t = 2_000)]
    images: usize,
    /// Namespaces
    #[arg(long, default_value_t = 200)]
    namespaces: usize,
    /// Seconds that the idle sidecar is measured
    #[arg(long, default_value_t = 300)]
    idle: u64,
    /// A tenth of all, to see that the bench works
    #[arg(long)]
    quick: bool,
    /// The document to write (with --quick: standard output unless this is given)
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.quick {
        args.workloads /= 10;
        args.pods /= 10;
        args.images /= 10;
        args.namespaces /= 10;
        args.idle = args.idle.min(30);
    }
    match bench(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// `false` when a target is missed.
fn bench(args: &Args) -> anyhow::Result<bool> {
    let none = Scale {
        workloads: 0,
        pods: 0,
        images: 0,
        namespaces: args.namespaces,
    };
    let full = Scale {
        workloads: args.workloads,
        pods: args.pods,
        images: args.images,
        namespaces: args.namespaces,
    };
    let empty = measure(none, Duration::from_secs(10))?;
    let full_run = measure(full, Duration::from_secs(args.idle))?;
    let report = Report {
        scale: full,
        empty,
        full: full_run,
    };
    let document = match (&args.out, args.quick) {
        (Some(path), _) => Some(path.clone()),
        (None, false) => Some(testkit::artifacts::workspace().join("docs/bench-cluster.md")),
        (None, true) => None,
    };
    let text = report.render(&command());
    match document {
        Some(path) => std::fs::write(&path, &text)
            .with_context(|| format!("{} cannot be written", path.display()))?,
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    Ok(report.meets_its_target())
}

/// Runs the sidecar in a cluster of this size.
fn measure(scale: Scale, idle: Duration) -> anyhow::Result<Run> {
    let registry = Arc::new(ScriptedRegistry::default());
    let upstream = registry::start(&registry, "upstream");
    let upstream = format!("localhost:{}", upstream.address.port());
    let backup = registry::start(&registry, "backup").host();
    let places = Places::new(&backup, &upstream)?;
    say(&format!("making {} objects", scale.workloads + scale.pods));
    let cluster = Arc::new(Cluster::new(&scale, &places));
    let listed = Arc::clone(&cluster);
    let server = ApiServer::start(move |path, from, limit| listed.page(path, from, limit));

    let folder = tempfile::tempdir()?;
    let kubeconfig = server.kubeconfig()?;
    let password = folder.path().join("pull-password");
    std::fs::write(&password, "pull")?;
    let mut builder = Sidecar::builder()
        .environment("KUBECONFIG", kubeconfig.path())
        .insecure_registry(&backup)
        .insecure_registry(&upstream)
        .argument("--pull-password-file")
        .argument(&password);
    for argument in [
        "--kubernetes=on",
        "--repository",
        REPOSITORY,
        "--registry",
        &backup,
        "--pull-secret=image-mirror-pull",
        "--max-workloads=100000",
        "--pull-username=puller",
        "--replica=one",
        "--own-namespace=image-mirror",
    ] {
        builder = builder.argument(argument);
    }
    let start = Instant::now();
    let sidecar = builder.start()?;
    let ready = start.elapsed();
    let process = Process::of(sidecar.pid());
    say(&format!("ready after {:.2} s", ready.as_secs_f64()));
    wait_for(Duration::from_mins(5), || {
        let mut lists = cluster.lists.keys();
        lists.all(|list| server.is_watched(list))
    })?;
    let complete = start.elapsed();
    let cpu_complete = process.cpu()?;
    say(&format!(
        "model complete after {:.2} s",
        complete.as_secs_f64()
    ));
    let settled = wait_until_settled(&registry, scale.images, start)?;
    say(&format!(
        "settled after {:.1} s, idle now",
        settled.as_secs_f64()
    ));

    server.server.clear_log();
    let before = registry.counts();
    let cpu = process.cpu()?;
    // What is measured is that nothing happens.
    std::thread::sleep(idle);
    let after = registry.counts();
    let rss = process.rss()?;
    Ok(Run {
        ready,
        complete,
        cpu_complete,
        settled,
        rss,
        peak: process.peak()?,
        object_bytes: cluster.bytes(),
        idle: Idle {
            time: idle,
            cpu: process.cpu()?.saturating_sub(cpu),
            calls: server.calls(),
            backup: after.backup - before.backup,
            upstream: after.upstream - before.upstream,
        },
    })
}

/// The first look is over when every image was asked for in the backup, or when nothing has been asked for a while.
fn wait_until_settled(
    registry: &ScriptedRegistry,
    images: usize,
    start: Instant,
) -> anyhow::Result<Duration> {
    let mut last = (registry.counts().backup, Instant::now());
    wait_for(SETTLED_WITHIN, || {
        let counts = registry.counts();
        if counts.backup != last.0 {
            last = (counts.backup, Instant::now());
        }
        let is_all_seen = images > 0 && counts.images >= images;
        is_all_seen || last.1.elapsed() > SETTLED_AFTER
    })?;
    Ok(start.elapsed())
}

fn wait_for(within: Duration, mut is_there: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !is_there() {
        if start.elapsed() > within {
            bail!("it did not happen within {} s", within.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// How to do this again.
fn command() -> String {
    let flags: Vec<_> = std::env::args().skip(1).collect();
    match flags.as_slice() {
        [] => "make bench-cluster".to_owned(),
        flags => format!("make bench-cluster BENCH=\"{}\"", flags.join(" ")),
    }
}

/// Progress; whoever closed the pipe wants to read no more.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
