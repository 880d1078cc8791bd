//! What the commands say: results on standard output, sentences about what went wrong on standard error.
//!
//! Nothing else writes there. A reader that goes away (`mirror-sidecar name … | head -1`) is no error.

use std::io::Write as _;

use serde::Serialize;

/// The form of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A line on standard output.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// One JSON object on one line of standard output.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(problem) => error(&format!("cannot write the result as JSON: {problem}")),
    }
}

/// A sentence on standard error.
pub fn error(sentence: &str) {
    let _ = writeln!(std::io::stderr().lock(), "mirror-sidecar: {sentence}");
}
