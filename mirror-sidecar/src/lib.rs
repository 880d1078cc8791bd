//! The mirror-sidecar service and its command line.
//!
//! - `args`: flags and environment variables, parsed into types;
//! - [`config`]: the configuration file: backups, and targets of rewrites;
//! - `commands`: the commands, which connect the other modules;
//! - `manifests`: Kubernetes objects in files;
//! - `facade`: the endpoint for the policy, which looks like an OCI registry;
//! - [`lookup`]: the status of an image; the backup registry is the source of truth;
//! - [`target_lookup`]: whether the target of a rewrite has an image;
//! - [`original_lookup`]: originals that new Pods use while the backup is unavailable;
//! - [`copy_queue`]: copies that wait or run;
//! - [`namespace_budget`]: daily budgets of new images;
//! - [`locations`], [`former_backups`]: sources and targets of copies;
//! - [`backups`]: values by backup;
//! - `backup_health`: whether the backup registry can be used;
//! - [`cluster`]: the images that a Kubernetes cluster uses, and everything that is written there;
//! - `admin`: probes and metrics, on a port of their own;
//! - [`metrics`], `registry_metrics`: the metrics of all modules, and those of registries;
//! - `server`: HTTP and TLS connections;
//! - `backoff`, `token_bucket`: waits after failures, and rate limits;
//! - `reason`: reasons of failures, for users and for the operator;
//! - `exit`: exit codes, usage errors and stop signals;
//! - `logging`: structured logs on standard error;
//! - `output`: results on standard output, errors and progress on standard error.

// Panics are never reachable from outside. Exceptions have a reason: `#[expect(..., reason = "...")]`.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod admin;
mod args;
mod backoff;
mod backup_health;
pub mod backups;
pub mod cluster;
mod commands;
pub mod config;
pub mod copy_queue;
mod exit;
mod facade;
pub mod former_backups;
pub mod locations;
mod logging;
pub mod lookup;
mod manifests;
pub mod metrics;
pub mod namespace_budget;
pub mod origin;
pub mod original_lookup;
mod output;
mod reason;
mod registry_metrics;
mod server;
mod single_flight;
pub mod status;
pub mod target_lookup;
mod token_bucket;
mod yaml;

use std::process::ExitCode;

use args::Command;
use exit::{FAILURE, USAGE, UsageError};

/// Parses the command line and runs the command.
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
        Command::Plan(args) => block_on(commands::plan::run(*args)),
        Command::Status(args) => block_on(commands::status::run(*args)),
        Command::Verify(args) => block_on(commands::verify::run(*args)),
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
    // The only error is a provider that is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    // A credential helper may hang on a blocking thread.
    runtime.shutdown_background();
    result
}
