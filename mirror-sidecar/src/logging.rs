//! Structured logs on standard error.

pub mod filter;
mod format;
mod throttle;

use std::io::IsTerminal as _;

use clap::ValueEnum;

use crate::args::LogArgs;
use crate::output::LogWriter;
use format::LineFormat;
pub use throttle::Throttle;

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. A second call in the same process changes nothing.
pub fn init(args: &LogArgs) {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter::filter(&args.log_level))
        // Colours are for terminals, not for files and log collectors.
        .with_ansi(std::io::stderr().is_terminal())
        .event_format(LineFormat(args.log_format))
        .with_writer(|| LogWriter)
        .try_init();
}
