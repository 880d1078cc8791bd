//! Text from outside in messages of one line.

/// Replaces control characters, such as line breaks, with a space.
#[must_use]
pub fn on_one_line(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}
