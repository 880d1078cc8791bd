//! Runs every attack against the release build within the memory limit of the chart, and writes the table of
//! `docs/security.md`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use e2e_tests::attack::limits::ControlGroup;
use e2e_tests::attack::{Measured, Setup, all, table};
use testkit::{artifacts, machine};

/// Attacks mirror-sidecar and the policy.
#[derive(Parser)]
struct Args {
    /// Run only attacks whose name contains this text, and write no document
    #[arg(long)]
    only: Option<String>,
    /// The document to write
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            log(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns `false` when a bound is missed.
fn run(args: &Args) -> anyhow::Result<bool> {
    let setup = Setup::CHART;
    let has_group = ControlGroup::new(setup.memory).is_some();
    log(if has_group {
        "the sidecar runs in a control group of 128 MiB"
    } else {
        "control groups cannot be made here; VmHWM is compared with 128 MiB"
    });
    let mut results = Vec::new();
    for attack in all() {
        if args
            .only
            .as_ref()
            .is_some_and(|only| !attack.name.contains(only.as_str()))
        {
            continue;
        }
        let measured = attack.run(setup);
        let Measured {
            value,
            is_within_bound,
        } = &measured;
        let verdict = if *is_within_bound { "ok    " } else { "MISSED" };
        log(&format!(
            "{verdict} {}: {value} (bound: {})",
            attack.name, attack.bound
        ));
        results.push((attack, measured));
    }
    let document = match (&args.out, &args.only) {
        (Some(path), _) => Some(path.clone()),
        (None, None) => Some(artifacts::workspace().join("docs/security.md")),
        (None, Some(_)) => None,
    };
    if let Some(path) = document {
        let mut machine = machine::describe();
        machine.push(
            if has_group {
                "memory limited by a control group"
            } else {
                "memory read as VmHWM"
            }
            .to_owned(),
        );
        let page = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let page = table::put(&page, &table::render(&results, &machine))?;
        std::fs::write(&path, page)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(results.iter().all(|(_, measured)| measured.is_within_bound))
}

fn log(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
