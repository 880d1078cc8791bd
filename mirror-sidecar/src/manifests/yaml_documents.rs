//! YAML documents. A line that begins with `---` begins a document, and no line inside a document may (YAML 1.2.2, section 9.1.2).
//!
//! A `List` that is too long for one document is cut into its items, as `kubectl get --output yaml` writes them: no line inside an
//! item begins at the dash of the item before it, or left of that.

use std::io::{self, BufRead, Read as _};
use std::mem;
use std::sync::Arc;

use super::document::{Content, Document, MAX_DOCUMENT, Place};

/// Passes each document to `send`, until that returns `false`. The first one begins in `line`.
pub(super) fn split(
    file: &Arc<str>,
    mut input: impl BufRead,
    line: u64,
    send: &mut dyn FnMut(Document) -> bool,
) -> io::Result<()> {
    let mut splitter = Splitter {
        file,
        send,
        is_wanted: true,
        document: 1,
        current: Part::starting_at(line),
        cut: Cut::No,
    };
    let mut text = Vec::new();
    let (mut line, mut is_start) = (line, true);
    while splitter.is_wanted {
        text.clear();
        let length = input
            .by_ref()
            .take(MAX_DOCUMENT as u64)
            .read_until(b'\n', &mut text)?;
        if length == 0 {
            break;
        }
        if is_start {
            splitter.line(&text, line);
        } else {
            // The rest of a line that is longer than any document.
            splitter.current.push(&text);
        }
        is_start = text.ends_with(b"\n");
        line += u64::from(is_start);
    }
    splitter.end_document(line);
    Ok(())
}

struct Splitter<'s> {
    file: &'s Arc<str>,
    send: &'s mut dyn FnMut(Document) -> bool,
    is_wanted: bool,
    /// The number of the current document.
    document: u32,
    current: Part,
    cut: Cut,
}

/// Whether a list is cut into its items.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    No,
    /// Yes, and no item has begun.
    BeforeItems,
    /// In an item, whose dash is in this column.
    InItem(usize),
}

/// A document, or an item of a list.
struct Part {
    text: Vec<u8>,
    line: u64,
    has_content: bool,
    is_too_long: bool,
}

impl Splitter<'_> {
    fn line(&mut self, line: &[u8], number: u64) {
        if let Some(rest) = after_marker(line, b"---") {
            let has_rest = !rest.trim_ascii().is_empty();
            self.end_document(number + u64::from(!has_rest));
            if has_rest {
                // The columns stay as they are.
                self.current.push(b"   ");
                self.current.add(rest);
            }
            return;
        }
        if after_marker(line, b"...").is_some() {
            self.end_document(number + 1);
            return;
        }
        if line.starts_with(b"%") && !self.current.has_content {
            // A directive, such as `%YAML 1.2`.
            return;
        }
        self.content(line, number);
    }

    fn content(&mut self, line: &[u8], number: u64) {
        match self.cut {
            Cut::BeforeItems => self.line_of_list(line, number, None),
            Cut::InItem(column) => self.line_of_list(line, number, Some(column)),
            Cut::No
                if self.current.text.len() + line.len() > MAX_DOCUMENT
                    && is_list(&self.current.text) =>
            {
                self.cut = Cut::BeforeItems;
                let (text, first) = (mem::take(&mut self.current.text), self.current.line);
                self.current = Part::starting_at(first);
                for (number, line) in (first..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
                    self.content(line, number);
                }
                self.content(line, number);
            }
            Cut::No => self.current.add(line),
        }
    }

    fn line_of_list(&mut self, line: &[u8], number: u64, column: Option<usize>) {
        let indentation = line.iter().take_while(|byte| **byte == b' ').count();
        let rest = line.get(indentation..).unwrap_or_default();
        let is_item = rest == b"-\n" || rest.starts_with(b"- ") || rest == b"-\r\n";
        if is_item && column.is_none_or(|column| column == indentation) {
            self.send_current(number);
            self.cut = Cut::InItem(indentation);
            let mut item = line.to_vec();
            if let Some(dash) = item.get_mut(indentation) {
                *dash = b' ';
            }
            self.current.add(&item);
        } else if column.is_some_and(|column| indentation <= column) && is_content(line) {
            // A field of the list itself, after its items.
            self.send_current(number);
            self.cut = Cut::BeforeItems;
        } else if column.is_some() {
            self.current.add(line);
        }
    }

    fn end_document(&mut self, next: u64) {
        self.send_current(next);
        self.document = self.document.saturating_add(1);
        self.cut = Cut::No;
    }

    /// Sends the current part. The next one begins in line `next`.
    fn send_current(&mut self, next: u64) {
        let current = mem::replace(&mut self.current, Part::starting_at(next));
        if !current.has_content && !current.is_too_long {
            // The lines of the marker do not count as a document.
            self.document = self.document.saturating_sub(u32::from(self.cut == Cut::No));
            return;
        }
        let place = Place {
            file: Arc::clone(self.file),
            document: self.document,
            line: current.line,
        };
        let content = current.into_content();
        self.is_wanted &= (self.send)(Document { place, content });
    }
}

impl Part {
    fn starting_at(line: u64) -> Self {
        Self {
            text: Vec::new(),
            line,
            has_content: false,
            is_too_long: false,
        }
    }

    /// Adds a line.
    fn add(&mut self, line: &[u8]) {
        self.has_content |= is_content(line);
        self.push(line);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.is_too_long |= self.text.len() + bytes.len() > MAX_DOCUMENT;
        if self.is_too_long {
            self.text = Vec::new();
        } else {
            self.text.extend_from_slice(bytes);
        }
    }

    fn into_content(self) -> Content {
        if self.is_too_long {
            return Content::too_long();
        }
        String::from_utf8(self.text).map_or_else(
            |error| {
                let valid = error.utf8_error().valid_up_to();
                let before = error.as_bytes().get(..valid).unwrap_or_default();
                let lines = before.iter().map(|byte| u64::from(*byte == b'\n'));
                let lines: u64 = lines.sum();
                Content::Unreadable(format!("line {} is not UTF-8 text", self.line + lines))
            },
            Content::Yaml,
        )
    }
}

/// Returns the rest of a line that begins with a marker of documents.
fn after_marker<'l>(line: &'l [u8], marker: &[u8]) -> Option<&'l [u8]> {
    let rest = line.strip_prefix(marker)?;
    let is_marker = rest.first().is_none_or(u8::is_ascii_whitespace);
    is_marker.then_some(rest)
}

/// Returns whether a line is neither empty nor a comment.
fn is_content(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    !line.is_empty() && !line.starts_with(b"#")
}

/// Returns whether a document has a field `items` with a list in block style.
fn is_list(text: &[u8]) -> bool {
    let mut lines = text.split(|byte| *byte == b'\n');
    lines.any(|line| {
        line.strip_prefix(b"items:")
            .is_some_and(|rest| !is_content(rest))
    })
}
