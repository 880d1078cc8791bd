//! A filter that removes unwanted fields from JSON while it arrives.
//!
//! A Pod template with 1.4 MB of environment variables, a list of 50 of them, or 100,000 container entries must not be in
//! memory as a whole: tenants write them. So the bytes of a response pass through here as they arrive, and the output is
//! bounded for any input: only wanted fields, only the first elements of a list, no long strings.
//!
//! The output of valid JSON is valid JSON. That of invalid input is bounded, but may be invalid; the parser reports that.

use std::mem;

/// Depth of nested objects and lists that is kept. The fields of Kubernetes objects that are read are up to 10 deep.
const MAX_DEPTH: usize = 32;
/// Longest name of a field that is kept: keys of labels have up to 253 characters, a slash, and 63 more.
const MAX_NAME: usize = 253 + 1 + 63;
/// Longest number; Kubernetes has no longer ones.
const MAX_LITERAL: usize = 64;

/// The part of the JSON that is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// Returns whether fields of this name are kept, at any depth.
    pub is_wanted: fn(&str) -> bool,
    /// The field of this name, at any depth, is an object of which the first fields are kept, as many as elements of a list.
    pub whole: Option<&'static str>,
    /// Longest string in bytes, with escapes. A longer one becomes empty: its beginning could be mistaken for a name.
    pub string: usize,
    /// Elements of a list that are kept, from the first one. The list that is cut into its elements has no limit.
    pub elements: usize,
    /// Bytes of a value after which no more elements are kept. Fields are kept up to twice as many bytes, so that a long list
    /// hides none.
    pub bytes: usize,
}

/// A filter for a sequence of JSON values.
#[derive(Debug)]
pub(crate) struct JsonFilter {
    keep: Keep,
    /// The field of the outermost object whose elements are returned one by one, as [`Part::Element`].
    cut: Option<&'static str>,
    nesting: Vec<Nesting>,
    state: State,
    name: String,
    is_name_escaped: bool,
    out: Vec<u8>,
    /// Start of the current string or number in `out`.
    begins: usize,
    /// Start of the current element of the list that is cut.
    element_begins: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// An element of the list that is cut.
    Element(Vec<u8>),
    /// A value, after all elements of its list that is cut.
    Value(Vec<u8>),
}

#[derive(Debug)]
struct Nesting {
    is_list: bool,
    is_cut: bool,
    is_whole: bool,
    kept: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a value, a field name, or the end of the surrounding object or list.
    Between,
    /// In a field name.
    Name { is_escaped: bool },
    /// After a wanted field name.
    Named,
    /// In a string that is kept.
    Text { is_escaped: bool },
    /// In a string that is too long.
    LongText { is_escaped: bool },
    /// In a number, `true`, `false` or `null`.
    Literal,
    /// In a value that is skipped, at this depth of it.
    Skip { depth: usize, skip: Skip },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    /// Before the value.
    Before,
    /// Between the parts of an object or a list.
    Inside,
    Text {
        is_escaped: bool,
    },
    Literal,
}

impl JsonFilter {
    /// Creates a filter that returns the elements of the outermost field `cut` one by one.
    pub(crate) fn new(keep: Keep, cut: Option<&'static str>) -> Self {
        Self {
            keep,
            cut,
            nesting: Vec::new(),
            state: State::Between,
            name: String::new(),
            is_name_escaped: false,
            out: Vec::new(),
            begins: 0,
            element_begins: 0,
        }
    }

    /// Reads until a part is complete or `input` is empty. Unread bytes stay in `input`.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Option<Part> {
        while let Some((&byte, rest)) = input.split_first() {
            // Consumes a whole run of bytes per step, because most of an object is skipped.
            let run = self.run(input);
            if let Some((run, rest)) = input
                .split_at_checked(run)
                .filter(|(run, _)| !run.is_empty())
            {
                self.extend(run);
                *input = rest;
                continue;
            }
            let is_used = self.step(byte);
            if is_used {
                *input = rest;
            }
            if let Some(part) = self.take_part() {
                return Some(part);
            }
        }
        None
    }

    /// Returns whether the input so far ends after a whole value.
    pub(crate) fn is_between_values(&self) -> bool {
        self.state == State::Between && self.nesting.is_empty()
    }

    /// Returns the number of bytes that do not change the state.
    fn run(&self, input: &[u8]) -> usize {
        let is_in_text = matches!(
            self.state,
            State::Text { is_escaped: false }
                | State::LongText { is_escaped: false }
                | State::Skip {
                    skip: Skip::Text { is_escaped: false },
                    ..
                }
        );
        let is_inside = matches!(
            self.state,
            State::Skip {
                skip: Skip::Inside,
                ..
            }
        );
        if is_in_text {
            let end = input.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            end.unwrap_or(input.len())
        } else if is_inside {
            let is_structure = |byte: &u8| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']');
            input.iter().position(is_structure).unwrap_or(input.len())
        } else {
            0
        }
    }

    /// Appends bytes of a string, unless it is skipped.
    fn extend(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Text { .. }) {
            return;
        }
        let length = self.out.len().saturating_sub(self.begins) + bytes.len();
        // With both quotation marks.
        if length > self.keep.string + 2 {
            self.out.truncate(self.begins);
            self.state = State::LongText { is_escaped: false };
        } else {
            self.out.extend_from_slice(bytes);
        }
    }

    /// Reads a byte; returns `false` if it must be read again in the new state.
    fn step(&mut self, byte: u8) -> bool {
        match self.state {
            State::Between => self.between(byte),
            State::Named => {
                if !matches!(byte, b':') && !byte.is_ascii_whitespace() {
                    self.begin_value(byte);
                }
                true
            }
            State::Name { is_escaped } => {
                self.in_name(byte, is_escaped);
                true
            }
            State::Text { is_escaped } => {
                self.extend(&[byte]);
                match self.state {
                    State::Text { .. } if byte == b'"' && !is_escaped => {
                        self.state = State::Between;
                    }
                    State::Text { .. } => {
                        self.state = State::Text {
                            is_escaped: byte == b'\\' && !is_escaped,
                        };
                    }
                    // Too long with this byte.
                    _ => return self.in_long_text(byte, is_escaped),
                }
                true
            }
            State::LongText { is_escaped } => self.in_long_text(byte, is_escaped),
            State::Literal => self.in_literal(byte),
            State::Skip { depth, skip } => self.skip(byte, depth, skip),
        }
    }

    fn in_long_text(&mut self, byte: u8, is_escaped: bool) -> bool {
        if byte == b'"' && !is_escaped {
            self.out.extend_from_slice(b"\"\"");
            self.state = State::Between;
        } else {
            self.state = State::LongText {
                is_escaped: byte == b'\\' && !is_escaped,
            };
        }
        true
    }

    fn between(&mut self, byte: u8) -> bool {
        match byte {
            b'}' | b']' => {
                if self.nesting.pop().is_some() {
                    self.out.push(byte);
                }
            }
            b',' | b':' => {}
            byte if byte.is_ascii_whitespace() => {}
            b'"' if self.nesting.last().is_some_and(|nesting| !nesting.is_list) => {
                self.name.clear();
                self.is_name_escaped = false;
                self.state = State::Name { is_escaped: false };
            }
            _ => {
                let has_room = self.length() < self.keep.bytes;
                let elements = self.keep.elements;
                let is_kept = match self.nesting.last() {
                    Some(list) => list.is_cut || (list.kept < elements && has_room),
                    None => true,
                };
                if !is_kept {
                    self.state = State::Skip {
                        depth: 0,
                        skip: Skip::Before,
                    };
                    return false;
                }
                self.separate();
                self.begin_value(byte);
            }
        }
        true
    }

    fn in_name(&mut self, byte: u8, is_escaped: bool) {
        if byte == b'"' && !is_escaped {
            let elements = self.keep.elements;
            let is_in_whole = self.nesting.last();
            let is_in_whole =
                is_in_whole.is_some_and(|object| object.is_whole && object.kept < elements);
            let is_wanted = !self.is_name_escaped
                && self.length() < self.keep.bytes.saturating_mul(2)
                && (is_in_whole || (self.keep.is_wanted)(&self.name));
            self.state = if is_wanted {
                self.separate();
                self.out.push(b'"');
                self.out.extend_from_slice(self.name.as_bytes());
                self.out.extend_from_slice(b"\":");
                State::Named
            } else {
                State::Skip {
                    depth: 0,
                    skip: Skip::Before,
                }
            };
            return;
        }
        // No wanted name has such characters, so kept names are ASCII.
        if byte == b'\\' || !byte.is_ascii() || self.name.len() >= MAX_NAME {
            self.is_name_escaped = true;
        } else {
            self.name.push(char::from(byte));
        }
        self.state = State::Name {
            is_escaped: byte == b'\\' && !is_escaped,
        };
    }

    fn in_literal(&mut self, byte: u8) -> bool {
        if byte.is_ascii_whitespace()
            || matches!(byte, b',' | b'}' | b']' | b'{' | b'[' | b'"' | b':')
        {
            self.state = State::Between;
            return false;
        }
        if self.out.len().saturating_sub(self.begins) < MAX_LITERAL {
            self.out.push(byte);
        }
        true
    }

    fn skip(&mut self, byte: u8, depth: usize, skip: Skip) -> bool {
        let inside = |depth| State::Skip {
            depth,
            skip: Skip::Inside,
        };
        let ended = |depth| {
            if depth == 0 {
                State::Between
            } else {
                inside(depth)
            }
        };
        self.state = match (skip, byte) {
            (Skip::Text { is_escaped: false }, b'"') => ended(depth),
            (Skip::Text { is_escaped }, _) => State::Skip {
                depth,
                skip: Skip::Text {
                    is_escaped: byte == b'\\' && !is_escaped,
                },
            },
            (Skip::Before | Skip::Inside, b'"') => State::Skip {
                depth,
                skip: Skip::Text { is_escaped: false },
            },
            (Skip::Before | Skip::Inside, b'{' | b'[') => inside(depth.saturating_add(1)),
            (Skip::Inside, b'}' | b']') => ended(depth.saturating_sub(1)),
            (Skip::Before | Skip::Literal, b'}' | b']' | b',') => {
                self.state = State::Between;
                return false;
            }
            (Skip::Before, _) if byte == b':' || byte.is_ascii_whitespace() => self.state,
            (Skip::Before | Skip::Literal, _) => State::Skip {
                depth,
                skip: Skip::Literal,
            },
            (Skip::Inside, _) => self.state,
        };
        true
    }

    /// Counts a kept member of the surrounding object or list, and separates it from the previous one.
    fn separate(&mut self) {
        let Some(surrounding) = self.nesting.last_mut() else {
            return;
        };
        if surrounding.is_cut {
            self.element_begins = self.out.len();
            return;
        }
        if surrounding.kept > 0 {
            self.out.push(b',');
        }
        surrounding.kept = surrounding.kept.saturating_add(1);
    }

    /// Returns the kept bytes of the current value.
    fn length(&self) -> usize {
        self.out.len().saturating_sub(self.element_begins)
    }

    fn begin_value(&mut self, byte: u8) {
        self.begins = self.out.len();
        match byte {
            b'{' | b'[' if self.nesting.len() >= MAX_DEPTH => {
                self.out.extend_from_slice(b"null");
                self.state = State::Skip {
                    depth: 1,
                    skip: Skip::Inside,
                };
            }
            b'{' | b'[' => {
                let is_list = byte == b'[';
                let is_cut = is_list && self.nesting.len() == 1 && self.cut == Some(&*self.name);
                // The elements of a list have no name.
                let is_named = self.nesting.last().is_some_and(|outer| !outer.is_list);
                let is_whole = !is_list && is_named && self.keep.whole == Some(&*self.name);
                self.nesting.push(Nesting {
                    is_list,
                    is_cut,
                    is_whole,
                    kept: 0,
                });
                self.out.push(byte);
                self.state = State::Between;
            }
            b'"' => {
                self.out.push(byte);
                self.state = State::Text { is_escaped: false };
            }
            _ => {
                self.out.push(byte);
                self.state = State::Literal;
            }
        }
    }

    fn take_part(&mut self) -> Option<Part> {
        if self.state != State::Between {
            return None;
        }
        match self.nesting.last() {
            None if !self.out.is_empty() => {
                self.element_begins = 0;
                Some(Part::Value(mem::take(&mut self.out)))
            }
            Some(list) if list.is_cut && self.element_begins > 0 => {
                let begins = mem::take(&mut self.element_begins);
                let element = self.out.split_off(begins);
                Some(Part::Element(element))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const KEEP: Keep = Keep {
        is_wanted: |name| matches!(name, "a" | "list" | "items" | "object" | "metadata"),
        whole: Some("metadata"),
        string: 8,
        elements: 3,
        bytes: 1000,
    };

    /// The parts of `text`, which arrives in chunks of this size.
    fn parts(keep: Keep, cut: Option<&'static str>, text: &[u8], chunk: usize) -> Vec<Part> {
        let mut filter = JsonFilter::new(keep, cut);
        let mut parts = Vec::new();
        for mut input in text.chunks(chunk) {
            parts.extend(std::iter::from_fn(|| filter.next(&mut input)));
            assert!(input.is_empty());
        }
        parts
    }

    fn value(part: &Part) -> Value {
        let (Part::Element(bytes) | Part::Value(bytes)) = part;
        serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {part:?}"))
    }

    /// The output for `value`, without a list that is cut.
    fn expected(value: &Value) -> Value {
        match value {
            Value::String(text) => {
                let escaped = Value::String(text.clone()).to_string();
                json!(if escaped.len() > KEEP.string + 2 {
                    ""
                } else {
                    text
                })
            }
            Value::Array(list) => list.iter().take(KEEP.elements).map(expected).collect(),
            Value::Object(fields) => {
                let fields = fields.iter().filter(|(name, _)| (KEEP.is_wanted)(name));
                let fields = fields.map(|(name, value)| (name.clone(), expected(value)));
                Value::Object(fields.collect())
            }
            other => other.clone(),
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a\"\\\\\n{}\\[\\],:é]{0,12}".prop_map(Value::from),
        ];
        scalar.prop_recursive(5, 64, 6, |inner| {
            let name = prop_oneof![Just("a"), Just("list"), Just("b"), Just("\"a"), Just("a\\")];
            let name = name.prop_map(str::to_owned);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn only_wanted_fields_are_kept(
            values in prop::collection::vec(any_value(), 1..4), chunk in 1..40_usize, is_pretty: bool,
        ) {
            let texts = values.iter().map(|value| {
                if is_pretty { format!("{value:#}") } else { value.to_string() }
            });
            // Only the next byte ends a number.
            let text = texts.map(|text| text + "\n").collect::<String>();
            let found: Vec<_> = parts(KEEP, None, text.as_bytes(), chunk).iter().map(value).collect();
            prop_assert_eq!(found, values.iter().map(expected).collect::<Vec<_>>());
        }

        #[test]
        fn elements_of_a_list_are_returned_one_by_one(
            items in prop::collection::vec(any_value(), 0..8), chunk in 1..40_usize, comes_last: bool,
        ) {
            let items_text = json!(items);
            let text = if comes_last {
                format!(r#"{{"metadata":{{"a":1}},"items":{items_text}}}"#)
            } else {
                format!(r#"{{"items" : {items_text:#} , "metadata":{{"a":1}}}}"#)
            };
            let found = parts(KEEP, Some("items"), text.as_bytes(), chunk);
            let (last, elements) = found.split_last().unwrap();
            prop_assert!(matches!(last, Part::Value(_)));
            prop_assert_eq!(value(last), json!({"metadata": {"a": 1}, "items": []}));
            prop_assert!(elements.iter().all(|part| matches!(part, Part::Element(_))));
            let found: Vec<_> = elements.iter().map(value).collect();
            prop_assert_eq!(found, items.iter().map(expected).collect::<Vec<_>>());
        }

        /// For invalid JSON too.
        #[test]
        fn the_output_is_bounded(
            pieces in prop::collection::vec(prop::sample::select(&[
                "{", "}", "[", "]", "\"", "\\", ":", ",", "\"a\":", "\"list\":[", "1", "é", " ", "\"a\"",
            ][..]), 0..200),
        ) {
            let text = pieces.concat().repeat(200);
            let mut filter = JsonFilter::new(KEEP, Some("list"));
            for mut input in text.as_bytes().chunks(100) {
                while let Some(part) = filter.next(&mut input) {
                    let (Part::Element(bytes) | Part::Value(bytes)) = part;
                    prop_assert!(bytes.len() < 3 * KEEP.bytes);
                }
                prop_assert!(filter.out.len() < 4 * KEEP.bytes && filter.nesting.len() <= MAX_DEPTH);
            }
        }
    }

    #[test]
    fn an_object_is_kept_whole() {
        let long = "k".repeat(MAX_NAME);
        let object = json!({"b": 1, "metadata": {"b": "x", "c.d/e": {"b": 1, "a": 1}, long: "y"}, "list": [{"b": 1}]});
        let found = parts(KEEP, None, format!("{object}\n").as_bytes(), 5);
        let mut expected = object.clone();
        expected.as_object_mut().unwrap().remove("b");
        expected["metadata"]["c.d/e"] = json!({"a": 1});
        expected["list"] = json!([{}]);
        assert_eq!(value(&found[0]), expected);
    }

    #[test]
    fn fields_after_a_long_list_are_kept() {
        let object =
            json!({"items": [{"list": vec![json!({"a": "1234567"}); 100], "object": {"a": true}}]});
        let keep = Keep {
            elements: usize::MAX,
            bytes: 100,
            ..KEEP
        };
        let text = object.to_string();
        let found = parts(keep, Some("items"), text.as_bytes(), 7);
        let element = value(&found[0]);
        assert_eq!(element["object"], json!({"a": true}));
        assert!(element.to_string().len() < 200, "{element}");
        assert!(element["list"][0] == json!({"a": "1234567"}), "{element}");
    }
}
