//! Text from outside, made fit for messages of one line.

/// Returns a space for a control character, and any other character as it is.
#[must_use]
pub fn on_one_line(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}
