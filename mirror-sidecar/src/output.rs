//! Output of the commands: results on standard output, errors and progress on standard error.
//!
//! Nothing else writes to either. A failure to write results makes the command exit with 1, unless the reader closed its
//! pipe (`mirror-sidecar name … | head -1`).

pub mod escape;
mod terminal;

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressDrawTarget, TermLike as _};
use serde::Serialize;

/// Set by the first failure to write to standard output.
static FAILED: AtomicBool = AtomicBool::new(false);

/// The progress bars, which are hidden while other output is written.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

const BARS_PER_SECOND: u8 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// Plain text
    Text,
    /// One JSON object per line
    Json,
}

/// Writes a line to standard output.
pub fn line(text: &str) {
    raw(&format!("{text}\n"));
}

/// Writes text to standard output. The first failure is reported.
pub fn raw(text: &str) {
    let written = beside_bars(|| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    });
    if let Err(problem) = written
        && problem.kind() != io::ErrorKind::BrokenPipe
        && !FAILED.swap(true, Ordering::Relaxed)
    {
        error(&format!("cannot write to standard output: {problem}"));
    }
}

/// Returns whether a write to standard output failed. A pipe that the reader closed does not count.
pub fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

/// Writes a line with a JSON object to standard output.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(problem) => error(&format!("cannot write the result as JSON: {problem}")),
    }
}

/// Writes an error to standard error.
pub fn error(sentence: &str) {
    note(&format!("mirror-sidecar: {sentence}"));
}

/// Writes a line to standard error. Line breaks in `text` are escaped.
pub fn note(text: &str) {
    let text = escape::escape(text);
    beside_bars(|| {
        let _ = writeln!(io::stderr().lock(), "{text}");
    });
}

/// The progress bars on standard error.
pub fn bars() -> MultiProgress {
    let target =
        ProgressDrawTarget::term_like_with_hz(Box::<terminal::Stderr>::default(), BARS_PER_SECOND);
    BARS.get_or_init(|| MultiProgress::with_draw_target(target))
        .clone()
}

/// Columns of the terminal on standard error.
pub fn columns() -> u16 {
    terminal::Stderr::default().width()
}

/// Standard error for the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        beside_bars(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn beside_bars<T>(write: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Formats a number of bytes in binary units with one decimal: `12.3 MiB`.
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

/// Formats a number with its noun: `1 blob`, `2 blobs`.
pub fn count(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}
