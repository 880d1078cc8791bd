//! Measures `mirror-sidecar copy` against skopeo, crane, regctl, oras and the limit, and writes `docs/bench-copy.md`.
//!
//! - [`shapes`] are the rows, [`tools`] the columns, [`network`] (with [`delay`]) is what lies between;
//! - [`measure`] does the runs by [`launch`], [`flat`] those on memory;
//! - [`results`] keeps the figures, [`targets`], [`table`] and [`report`] say what they mean.
//!
//! Every figure in the document comes from a run; none is written by hand.

mod args;
mod delay;
mod flat;
mod interrupt;
mod launch;
mod limit;
mod machine;
mod measure;
mod network;
mod report;
mod results;
mod shapes;
mod table;
mod targets;
mod task;
mod tools;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use testkit::registry::DebianRegistry;
use testkit::tls::Tls;
use tokio::runtime::{Builder, Runtime};

use args::{Args, Mode};
use measure::{Bench, progress};
use report::Report;
use results::{Outcome, Results};
use shapes::Scale;
use tools::{Contender, Tool, Tools};

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.mode {
        Some(Mode::Launch) => launch::launcher().map(|()| ExitCode::SUCCESS),
        None => bench(&args),
    };
    result.unwrap_or_else(|error| {
        progress(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

/// Measures everything; fails when the program under test did.
fn bench(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        DebianRegistry::is_installed(),
        "docker-registry is not installed: make prepare"
    );
    let runtime = runtime()?;
    interrupt::listen(runtime.handle())?;
    let bench = prepare(args, &runtime)?;
    let mut results = match &args.figures {
        Some(path) => Results::load(path)?,
        None => Results::default(),
    };
    results.commands.push(command());
    if has_ours(&bench) && !args.no_flat {
        results.flat.clear();
        for mebibytes in if args.quick { flat::QUICK } else { flat::FULL } {
            interrupt::check()?;
            results.flat.push(flat::measure(&bench, mebibytes)?);
        }
    }
    for shape in args.shapes() {
        let stock = bench.stock(shape)?;
        for network in args.networks() {
            results.forget(shape, network);
            bench.row(&stock, network, &mut results)?;
            // A long run that is cut short leaves what it found out.
            write(args, &bench, &results)?;
            if let Some(path) = &args.figures {
                results.save(path)?;
            }
        }
    }
    if args.document().is_none() {
        let text = report(args, &bench, &results).render();
        std::io::stdout().write_all(text.as_bytes())?;
    }
    let failed = results.cells.iter().any(|cell| {
        cell.contender == Contender::OURS
            && cell
                .outcomes
                .iter()
                .any(|outcome| matches!(outcome, Outcome::Failed(_)))
    });
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Two workers: proxies and servers share the processor with what is measured.
fn runtime() -> anyhow::Result<Runtime> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.context("a tokio runtime cannot be started")
}

fn prepare(args: &Args, runtime: &Runtime) -> anyhow::Result<Bench> {
    let tools = Tools::find(&args.program, &args.tools)?;
    let ours_is_wanted = args.tools.is_empty() || args.tools.contains(&Tool::Ours);
    ensure!(
        !ours_is_wanted || tools.contenders().contains(&Contender::OURS),
        "{} is not there: cargo build --release -p mirror-sidecar",
        args.program.display()
    );
    for line in &tools.absent {
        progress(&format!("left out: {line}"));
    }
    Ok(Bench {
        runtime: runtime.handle().clone(),
        tools,
        scale: if args.quick {
            Scale::QUICK
        } else {
            Scale::FULL
        },
        tls: Arc::new(Tls::generate()?),
        runs: args.runs(),
        once_above: args.once_above(),
        give_up: args.give_up(),
    })
}

fn has_ours(bench: &Bench) -> bool {
    bench.tools.contenders().contains(&Contender::OURS)
}

/// How to do this again.
fn command() -> String {
    let flags: Vec<_> = std::env::args().skip(1).collect();
    match flags.as_slice() {
        [] => "make bench-copy".to_owned(),
        flags => format!("make bench-copy BENCH=\"{}\"", flags.join(" ")),
    }
}

fn report<'a>(args: &Args, bench: &'a Bench, results: &'a Results) -> Report<'a> {
    Report {
        bench,
        results,
        quick: args.quick,
    }
}

fn write(args: &Args, bench: &Bench, results: &Results) -> anyhow::Result<()> {
    let Some(path) = args.document() else {
        return Ok(());
    };
    let text = report(args, bench, results).render();
    std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
}
