//! Escapes untrusted text, so that it stays on one line and cannot control a terminal.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Replaces line breaks, control characters and invisible formatting characters by escape sequences.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(must_escape) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    // Writing to a string cannot fail.
    let _ = Escaped::new(&mut escaped, usize::MAX).write_str(text);
    escaped.into()
}

pub(crate) fn must_escape(character: char) -> bool {
    !mirror_copy::is_printable(character)
}

/// A writer that escapes and truncates text.
pub(crate) struct Escaped<'a> {
    text: &'a mut String,
    left: usize,
    is_cut: bool,
    must_escape: fn(char) -> bool,
}

impl<'a> Escaped<'a> {
    /// Appends at most `limit` bytes to `text`, and an ellipsis if there are more.
    pub(crate) fn new(text: &'a mut String, limit: usize) -> Self {
        Self::only(text, limit, must_escape)
    }

    /// Escapes only some characters, for formats that escape the others.
    pub(crate) fn only(text: &'a mut String, limit: usize, must_escape: fn(char) -> bool) -> Self {
        Self {
            text,
            left: limit,
            is_cut: false,
            must_escape,
        }
    }

    fn push(&mut self, piece: &str) {
        match self.left.checked_sub(piece.len()) {
            Some(left) if !self.is_cut => {
                self.left = left;
                self.text.push_str(piece);
            }
            _ if self.is_cut => {}
            _ => {
                self.is_cut = true;
                self.text.push('…');
            }
        }
    }
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((position, character)) = rest
            .char_indices()
            .find(|(_, character)| (self.must_escape)(*character))
        {
            self.fill(rest.get(..position).unwrap_or_default());
            match character {
                '\n' => self.push("\\n"),
                '\r' => self.push("\\r"),
                '\t' => self.push("\\t"),
                other => {
                    let escaped: String = other.escape_unicode().collect();
                    self.push(&escaped);
                }
            }
            if self.is_cut {
                return Ok(());
            }
            rest = rest
                .get(position + character.len_utf8()..)
                .unwrap_or_default();
        }
        self.fill(rest);
        Ok(())
    }
}

impl Escaped<'_> {
    /// Appends as much as fits.
    fn fill(&mut self, text: &str) {
        let fitting = text.floor_char_boundary(self.left);
        let (fits, rest) = text.split_at_checked(fitting).unwrap_or((text, ""));
        self.push(fits);
        if !rest.is_empty() {
            self.left = 0;
            self.push(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::plain("nginx:1.27 läuft", "nginx:1.27 läuft")]
    #[case::line("a\nERROR forged\r\n", "a\\nERROR forged\\r\\n")]
    #[case::terminal("\x1b[2J\x07\u{9b}31m", "\\u{1b}[2J\\u{7}\\u{9b}31m")]
    #[case::separators("a\u{2028}b\u{85}c", "a\\u{2028}b\\u{85}c")]
    #[case::direction("\u{202e}txt.exe\u{2066}", "\\u{202e}txt.exe\\u{2066}")]
    #[case::invisible("a\u{200b}\u{feff}\0", "a\\u{200b}\\u{feff}\\u{0}")]
    fn what_is_no_text_is_escaped(#[case] text: &str, #[case] escaped: &str) {
        assert_eq!(escape(text), escaped);
    }

    #[rstest]
    #[case("12345678", "12345678")]
    #[case("123456789", "12345678…")]
    #[case("1234567ä", "1234567…")]
    #[case("1234567\n8", "1234567…")]
    #[case("123456\n8", "123456\\n…")]
    fn long_text_is_cut_at_a_character(#[case] text: &str, #[case] cut: &str) {
        let mut whole = String::new();
        Escaped::new(&mut whole, 8).write_str(text).unwrap();
        assert_eq!(whole, cut);
        let mut pieces = String::new();
        let mut escaped = Escaped::new(&mut pieces, 8);
        text.chars()
            .for_each(|character| escaped.write_char(character).unwrap());
        assert_eq!(pieces, cut);
    }
}
