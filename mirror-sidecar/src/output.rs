//! What the commands say: results on standard output, sentences about what went wrong on standard error, and progress
//! bars there while they are wanted.
//!
//! Nothing else writes to either. A reader that closes its pipe (`mirror-sidecar name … | head -1`) is no error, every other
//! failure to write results is one: the command then exits with 1.

pub mod escape;
mod terminal;

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressDrawTarget, TermLike as _};
use serde::Serialize;

/// Set by the first failure to write to standard output.
static FAILED: AtomicBool = AtomicBool::new(false);

/// The bars that everything else on the screen has to make way for.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// How often bars are drawn in a second, at most.
const BARS_PER_SECOND: u8 = 10;

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
    raw(&format!("{text}\n"));
}

/// Text on standard output as it is.
///
/// The first failure to write is reported, and remembered for [`has_failed`].
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

/// Whether something could not be written to standard output. A reader that closed its pipe does not count.
#[must_use]
pub fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

/// One JSON object on one line of standard output.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(problem) => error(&format!("cannot write the result as JSON: {problem}")),
    }
}

/// A sentence on standard error. It may contain text from elsewhere.
pub fn error(sentence: &str) {
    note(&format!("mirror-sidecar: {sentence}"));
}

/// A line on standard error: progress, for people or programs. Whatever `text` contains, it stays one line.
pub fn note(text: &str) {
    let text = escape::escape(text);
    beside_bars(|| {
        let _ = writeln!(io::stderr().lock(), "{text}");
    });
}

/// Where bars are drawn: on standard error, whatever it is. Everything that this module writes later makes way for them.
#[must_use]
pub fn bars() -> MultiProgress {
    let target =
        ProgressDrawTarget::term_like_with_hz(Box::<terminal::Stderr>::default(), BARS_PER_SECOND);
    BARS.get_or_init(|| MultiProgress::with_draw_target(target))
        .clone()
}

/// Columns of the terminal that bars are drawn on.
#[must_use]
pub fn columns() -> u16 {
    terminal::Stderr::default().width()
}

/// Standard error for the log, which makes way for bars.
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

/// A number with its noun: `1 blob`, `2 blobs`.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}
