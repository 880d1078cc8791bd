//! A cursor over JSON text, and edits of that text.
//!
//! Objects of a tenant are never parsed into a tree: a tree takes many times the memory of its text, and does not keep the
//! form of numbers, the order of keys, and duplicate keys. The text is read once from front to back, the needed parts are
//! kept as slices, and everything that is not edited is copied unchanged.

use std::borrow::Cow;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::rc::Rc;

/// Levels of nesting. The host's parser stops at 127, and the response adds one level around the object.
const MAX_DEPTH: usize = 126;

/// A position in JSON text whose syntax has been checked (`serde_json::value::RawValue`). Other text leads to wrong values, but
/// neither to a panic nor to an endless loop.
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    deepest: usize,
}

/// The key of a member whose value is next.
pub struct Key<'a> {
    /// Without escapes.
    pub name: Cow<'a, str>,
    pub start: usize,
}

/// Texts by key. One type for many uses, since each instance of the generic code adds some KiB to the module.
pub type Texts<'a> = BTreeMap<Cow<'a, str>, Cow<'a, str>>;

/// A member of an object, as positions in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    start: usize,
    pub value: Range<usize>,
}

/// A value that a member may be added to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Holder {
    #[default]
    Absent,
    Null(Range<usize>),
    Object {
        /// The position after its opening brace.
        inside: usize,
        is_empty: bool,
    },
    Other,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            deepest: 0,
        }
    }

    /// Whether the text so far is nested too deeply for the host.
    pub fn is_too_deep(&self) -> bool {
        self.deepest > MAX_DEPTH
    }

    /// The position of the next value.
    pub fn position(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    /// The text from `start` up to the value that was read last.
    pub fn since(&self, start: usize) -> Range<usize> {
        start..self.at
    }

    pub fn text_of(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    /// Enters an object; skips any other value and returns `false`.
    pub fn enter_object(&mut self) -> bool {
        self.enter(b'{')
    }

    /// Enters an array; skips any other value and returns `false`.
    pub fn enter_array(&mut self) -> bool {
        self.enter(b'[')
    }

    /// Moves to the value of the next member, which must be read or skipped; `None` at the end of the object.
    pub fn next_key(&mut self) -> Option<Key<'a>> {
        if !self.has_next() {
            return None;
        }
        let start = self.at;
        let name = self.string();
        self.skip_space();
        self.at += 1; // the colon
        name.map(|name| Key { name, start })
    }

    /// Moves to the next element, which must be read or skipped; `false` at the end of the array.
    pub fn next_element(&mut self) -> bool {
        self.has_next()
    }

    /// Reads `null`; `false` for any other value, which is not skipped.
    pub fn null(&mut self) -> bool {
        let is_null = self.peek() == Some(b'n');
        if is_null {
            self.skip();
        }
        is_null
    }

    /// Reads a string; skips any other value and returns `None`.
    pub fn string(&mut self) -> Option<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            self.skip();
            return None;
        }
        let start = self.at;
        let is_escaped = self.skip_string();
        let quoted = self.text.get(start..self.at)?;
        let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
        if is_escaped {
            return Some(Cow::Owned(serde_json::from_str(quoted).ok()?));
        }
        Some(Cow::Borrowed(inner))
    }

    /// Skips a value and returns its text.
    pub fn raw(&mut self) -> &'a str {
        let start = self.position();
        self.skip();
        self.text.get(start..self.at).unwrap_or_default()
    }

    pub fn skip(&mut self) {
        match self.peek() {
            Some(b'"') => _ = self.skip_string(),
            Some(b'{' | b'[') => self.skip_nested(),
            _ => {
                let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']') || is_space(*byte);
                self.at += rest.iter().position(is_end).unwrap_or(rest.len());
            }
        }
    }

    /// Enters the value if it is an object.
    pub fn enter_holder(&mut self) -> Holder {
        let start = self.position();
        if self.null() {
            return Holder::Null(self.since(start));
        }
        if !self.enter_object() {
            return Holder::Other;
        }
        Holder::Object {
            inside: self.at,
            is_empty: self.peek() == Some(b'}'),
        }
    }

    fn enter(&mut self, bracket: u8) -> bool {
        if self.peek() != Some(bracket) {
            self.skip();
            return false;
        }
        self.at += 1;
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        true
    }

    /// Moves to the next member of an object or array; leaves it and returns `false` if there is none.
    fn has_next(&mut self) -> bool {
        if self.peek() == Some(b',') {
            self.at += 1;
        }
        match self.peek() {
            None => false,
            Some(b'}' | b']') => {
                self.at += 1;
                self.depth = self.depth.saturating_sub(1);
                false
            }
            Some(_) => true,
        }
    }

    fn skip_nested(&mut self) {
        let outside = self.depth;
        loop {
            match self.text.as_bytes().get(self.at) {
                None => return,
                Some(b'"') => {
                    self.skip_string();
                    continue;
                }
                Some(b'{' | b'[') => {
                    self.depth += 1;
                    self.deepest = self.deepest.max(self.depth);
                }
                Some(b'}' | b']') => self.depth = self.depth.saturating_sub(1),
                Some(_) => {}
            }
            self.at += 1;
            if self.depth <= outside {
                return;
            }
        }
    }

    /// Skips a string; `true` if it has escapes.
    fn skip_string(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        let mut is_escaped = false;
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    is_escaped = true;
                    self.at += 1;
                }
                _ => {}
            }
        }
        is_escaped
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(true) = self.text.as_bytes().get(self.at).copied().map(is_space) {
            self.at += 1;
        }
    }
}

impl Key<'_> {
    /// The member, after `cursor` has passed its value, which started at `value`.
    pub fn member(&self, value: usize, cursor: &Cursor<'_>) -> Member {
        Member {
            start: self.start,
            value: cursor.since(value),
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Returns `text` as a JSON string. Smaller than the `Display` of a `Value`, which can also be indented.
pub fn quoted(text: &str) -> String {
    // A string can always be serialised.
    serde_json::to_string(text).unwrap_or_default()
}

/// A text with edits.
pub struct Edited<'a> {
    text: &'a str,
    edits: Vec<Edit>,
}

struct Edit {
    range: Range<usize>,
    new: New,
}

enum New {
    Json(String),
    Text(Rc<str>),
}

impl<'a> Edited<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            edits: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Bytes of the edited text, at most.
    pub fn size(&self) -> usize {
        let new = self.edits.iter().map(|edit| match &edit.new {
            New::Json(json) => json.len(),
            New::Text(text) => text.len() + 2,
        });
        self.text.len() + new.sum::<usize>()
    }

    pub fn text_of(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    pub fn replace(&mut self, range: Range<usize>, json: String) {
        let new = New::Json(json);
        self.edits.push(Edit { range, new });
    }

    pub fn replace_string(&mut self, range: Range<usize>, text: Rc<str>) {
        let new = New::Text(text);
        self.edits.push(Edit { range, new });
    }

    /// Adds the member `"<key>":<value>` to an object, or replaces `null` by an object with it; `false` for any other value.
    pub fn add(&mut self, holder: &Holder, key: &str, value: &str) -> bool {
        match holder {
            Holder::Object { inside, is_empty } => {
                let comma = if *is_empty { "" } else { "," };
                self.replace(*inside..*inside, format!("\"{key}\":{value}{comma}"));
            }
            Holder::Null(range) => self.replace(range.clone(), format!("{{\"{key}\":{value}}}")),
            Holder::Absent | Holder::Other => return false,
        }
        true
    }

    /// Removes a member and its comma.
    pub fn remove(&mut self, member: &Member) {
        let (start, end) = (member.start, member.value.end);
        let after = self.text.get(end..).unwrap_or_default();
        let before = self.text.get(..start).unwrap_or_default();
        let range = if let Some(rest) = after.trim_start().strip_prefix(',') {
            start..self.text.len() - rest.len()
        } else if let Some(rest) = before.trim_end().strip_suffix(',') {
            rest.len()..end
        } else {
            start..end
        };
        self.replace(range, String::new());
    }

    /// Appends the edited text to `target`.
    pub fn write(&self, target: &mut Vec<u8>) {
        let edits = self.edits.iter().enumerate();
        let starts: BinaryHeap<_> = edits
            .map(|(index, edit)| (edit.range.start, index))
            .collect();
        let mut done = 0;
        for (_, index) in starts.into_sorted_vec() {
            let Some(Edit { range, new }) = self.edits.get(index) else {
                continue;
            };
            target.extend_from_slice(self.slice(done..range.start));
            match new {
                New::Json(json) => target.extend_from_slice(json.as_bytes()),
                New::Text(text) => {
                    // Writing to memory cannot fail.
                    let _ = serde_json::to_writer(&mut *target, &**text);
                }
            }
            done = range.end;
        }
        target.extend_from_slice(self.slice(done..self.text.len()));
    }

    fn slice(&self, range: Range<usize>) -> &'a [u8] {
        self.text.as_bytes().get(range).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
