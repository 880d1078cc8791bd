//! Structured logs on standard error.

pub mod filter;
mod format;
mod throttle;

use std::io::IsTerminal as _;

use crate::output::LogWriter;
use format::LineFormat;
pub use format::LogFormat;
pub use throttle::Throttle;

/// Starts logging with a level that [`filter::check`] accepts. A second call in the same process changes nothing.
pub fn init(level: &str, format: LogFormat) {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter::filter(level))
        // No colours in files and log collectors.
        .with_ansi(std::io::stderr().is_terminal())
        .event_format(LineFormat(format))
        .with_writer(|| LogWriter)
        .try_init();
}
