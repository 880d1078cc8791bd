//! Text from outside in messages of one line.

use alloc::string::String;

/// Replaces the part of a text that was cut out. ASCII, since warnings are sent in an HTTP header.
pub const CUT: &str = "...";

/// Replaces control characters, such as line breaks, with a space.
#[must_use]
pub fn on_one_line(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// Returns `text` on one line with at most `max` characters, cut in the middle: the registry and the tag of an image matter
/// most.
#[must_use]
pub fn shorten(text: &str, max: usize) -> String {
    let count = text.chars().count();
    if count <= max {
        return text.chars().map(on_one_line).collect();
    }
    let kept = max.saturating_sub(CUT.len());
    let tail = kept / 2;
    let head = text.chars().take(kept - tail);
    let end = text.chars().skip(count - tail);
    head.chain(CUT.chars())
        .chain(end)
        .map(on_one_line)
        .collect()
}
