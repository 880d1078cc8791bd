//! The blackout drill: runs workloads of every kind, takes the upstream registry away for good, deletes and creates
//! everything again, and pulls every image that the API server then stores. The exit code says whether all could be pulled.
//!
//! With `--stop backup` it stops the backup registry instead, and creates the Pods of all workloads again: they must use
//! their originals by digest, and copies again when the registry is back.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use e2e_tests::drill::Scale;
use e2e_tests::drill::blackout::{self, Stopped};

/// Shows that a cluster survives the loss of a registry.
#[derive(Parser)]
struct Args {
    /// What tells one drill from another; the same number makes the same one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// 16 workloads instead of 60
    #[arg(long)]
    small: bool,
    /// The registry that stops
    #[arg(long, value_enum, default_value = "upstream")]
    stop: Stopped,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let scale = if args.small {
        Scale::SMALL
    } else {
        Scale::FULL
    };
    let start = Instant::now();
    let say = |text: &str| {
        print(&format!(
            "{:6.1} s  {text}\n",
            start.elapsed().as_secs_f64()
        ));
    };
    match blackout::run(scale, args.seed, args.stop, &say) {
        Ok(Some(report)) => {
            print(&format!("\n{report}"));
            if report.is_good() {
                return ExitCode::SUCCESS;
            }
        }
        Ok(None) => print("there is no API server to be had: run e2e-tests/apiserver.sh\n"),
        Err(error) => print(&format!("error: {error:#}\n")),
    }
    ExitCode::FAILURE
}

/// Whoever closed the pipe wants to read no more.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
