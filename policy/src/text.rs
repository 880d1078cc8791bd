//! Foreign text made fit for messages: one line, bounded.

use std::fmt::Write as _;

/// What stands for the part that was cut out. ASCII, since warnings travel in an HTTP header.
const CUT: &str = "...";

/// `text` on one line and at most `max` characters long; the middle goes first, since an image's registry and tag say more.
pub fn shorten(text: &str, max: usize) -> String {
    let count = text.chars().count();
    let line = |c: char| if c.is_control() { ' ' } else { c };
    if count <= max {
        return text.chars().map(line).collect();
    }
    let kept = max.saturating_sub(CUT.len());
    let tail = kept / 2;
    let head = text.chars().take(kept - tail);
    let end = text.chars().skip(count - tail);
    head.chain(CUT.chars()).chain(end).map(line).collect()
}

/// `text` on one line and at most `max` characters long; the end goes first.
pub fn cut(text: &str, max: usize) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().nth(max).is_none() {
        return line.collect();
    }
    line.take(max.saturating_sub(CUT.len()))
        .chain(CUT.chars())
        .collect()
}

/// The items, separated, up to `max` bytes of them, and how many more there are.
pub fn join(items: impl IntoIterator<Item = String>, max: usize) -> String {
    let mut joined = String::new();
    let mut more = 0_usize;
    for item in items {
        if joined.is_empty() || (more == 0 && joined.len() + item.len() <= max) {
            let separator = if joined.is_empty() { "" } else { "; " };
            joined.push_str(separator);
            joined.push_str(&item);
        } else {
            more += 1;
        }
    }
    if more > 0 {
        // Writing to a String cannot fail.
        let _ = write!(joined, "; and {more} more");
    }
    joined
}
