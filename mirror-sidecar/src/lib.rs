//! The mirror-sidecar service and its command line.
//!
//! - [`args`]: flags and environment, parsed into types once, here at the edge;
//! - [`commands`]: what `serve`, `copy`, `name`, `check`, `completion` and `man` do: the wiring;
//! - [`facade`]: the endpoint that looks like an OCI registry and answers the policy;
//! - [`backup_health`]: whether the backup registry can be used;
//! - [`lookup`]: what is mirrored; the backup registry is the truth;
//! - [`copy_queue`]: the copies to make;
//! - [`cluster`]: who uses which image in the Kubernetes cluster, and what follows from it;
//! - [`images`]: from the contract's references to the engine's sources and targets;
//! - [`admin`]: health and metrics, on a port of their own;
//! - [`metrics`]: what the service did, in figures;
//! - [`server`]: HTTP and TLS connections, for both;
//! - [`backoff`]: how long to wait after failures;
//! - [`reason`]: why something failed, for those who asked and for the log;
//! - [`exit`]: exit codes and usage errors;
//! - [`logging`]: structured logs on standard error;
//! - [`output`]: the only place that writes to standard output, and the bars and sentences on standard error.

// No panic is reachable from outside: code that cannot avoid one says why with `#[expect(..., reason = "...")]`.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod admin;
pub mod args;
pub mod backoff;
pub mod backup_health;
pub mod cluster;
pub mod commands;
pub mod copy_queue;
pub mod exit;
pub mod facade;
pub mod former_backups;
pub mod locations;
pub mod logging;
pub mod lookup;
pub mod metrics;
pub mod namespace_budget;
pub mod output;
pub mod reason;
pub mod registry_metrics;
pub mod server;
mod token_bucket;

use std::process::ExitCode;

use args::Command;
use exit::{FAILURE, USAGE, UsageError};

/// Runs the program to its end: parses the command line, and carries out one command.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    logging::init(&cli.log.log_level, cli.log.log_format);
    let result = match cli.command {
        Command::Name(args) => commands::name::run(&args),
        Command::Copy(args) => block_on(commands::copy::run(args)),
        Command::Serve(args) => block_on(commands::serve::run(*args)),
        Command::Check(args) => block_on(commands::check::run(args)),
        Command::Completion(args) => Ok(commands::completion::run(&args)),
        Command::Man(args) => commands::man::run(&args),
    };
    let exit = result.unwrap_or_else(|error| {
        output::error(&format!("{error:#}"));
        let code = if error.is::<UsageError>() {
            USAGE
        } else {
            FAILURE
        };
        ExitCode::from(code)
    });
    if exit == ExitCode::SUCCESS && output::has_failed() {
        return ExitCode::from(FAILURE);
    }
    exit
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    // Everything that speaks TLS in this process uses the same provider; a second installation would only be refused.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    // A credential helper that hangs runs on a blocking thread; it must not keep the program from ending.
    runtime.shutdown_background();
    result
}
