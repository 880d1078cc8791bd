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

/// A number of bytes in binary units with one decimal: `12.3 MiB`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        None => format!("{bytes} B"),
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
    }
}
