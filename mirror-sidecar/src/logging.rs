//! Structured logs on standard error.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::args::LogArgs;
use crate::output::LogWriter;

/// What the client of the API server says by itself is said here too, once and not at each attempt; and it shows whole
/// answers that it cannot read. Who asks for these modules gets them.
const QUIET: &str = "kube_client=error,kube_runtime=error";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. A second call in the same process changes nothing.
pub fn init(args: &LogArgs) {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", args.log_level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours are for terminals, not for files and log collectors.
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(|| LogWriter);
    let _ = match args.log_format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
