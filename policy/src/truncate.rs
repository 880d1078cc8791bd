//! Text from outside, for messages of one line and bounded length.

use std::collections::BTreeSet;
use std::fmt::Write as _;

pub use mirror_contract::text::shorten;
use mirror_contract::text::{CUT, on_one_line};

/// Bytes of the lines of a report that are kept, more than is ever shown.
const MAX_BYTES: usize = 32 * 1024;

/// Returns `text` on one line with at most `max` characters, cut at the end.
pub fn cut(text: &str, max: usize) -> String {
    let line = text.chars().map(on_one_line);
    if text.chars().nth(max).is_none() {
        return line.collect();
    }
    line.take(max.saturating_sub(CUT.len()))
        .chain(CUT.chars())
        .collect()
}

/// Lines of a report, sorted and without duplicates. Those that would not be shown are only counted.
#[derive(Debug, Default)]
pub struct Lines {
    kept: BTreeSet<String>,
    bytes: usize,
    more: usize,
}

impl Lines {
    /// Adds a line; `false` if it is known to be a duplicate.
    pub fn add(&mut self, line: String) -> bool {
        if self.bytes > MAX_BYTES {
            let is_new = !self.kept.contains(&line);
            self.more += usize::from(is_new);
            return is_new;
        }
        self.bytes += line.len();
        self.kept.insert(line)
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Joins lines of up to `max` bytes, and appends the number of the others.
    pub fn join(&self, max: usize) -> String {
        let mut joined = String::new();
        let mut more = self.more;
        let mut is_full = false;
        for line in &self.kept {
            is_full |= !joined.is_empty() && joined.len() + line.len() > max;
            if is_full {
                more += 1;
                continue;
            }
            if !joined.is_empty() {
                joined.push_str("; ");
            }
            joined.push_str(line);
        }
        if more > 0 {
            // Writing to a String cannot fail.
            let _ = write!(joined, "; and {more} more");
        }
        joined
    }
}
