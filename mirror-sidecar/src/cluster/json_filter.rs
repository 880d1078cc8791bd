//! Removes from JSON what is not needed, while it arrives.
//!
//! A Pod template with 1.4 MB of environment variables, a list of 50 of them, or 100,000 container entries must not be in
//! memory as a whole: their authors are tenants. So the bytes of a response pass through here as they come, and what comes
//! out is bounded whatever goes in: only the wanted fields, only the first elements of a list, no long strings.
//!
//! The output of valid JSON is valid JSON. Of invalid input nothing is promised but the bounds: whoever parses the output
//! reports it.

use std::mem;

/// Nested objects and lists that are kept. The fields of Kubernetes objects that matter here are 10 deep.
const MAX_DEPTH: usize = 32;
/// Longest name of a field that can be wanted.
const MAX_NAME: usize = 64;
/// Longest number; there are no longer ones.
const MAX_LITERAL: usize = 64;

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// Returns whether fields of this name are kept, wherever they are.
    pub is_wanted: fn(&str) -> bool,
    /// Longest string in bytes, as it is escaped. A longer one counts as empty: a part of it could be mistaken for a name.
    pub string: usize,
    /// Elements of a list; the first ones are kept. The list that is cut into its elements has no limit.
    pub elements: usize,
    /// Bytes of a value, after which no more elements are kept. Fields are, up to twice as many, so that a long list hides
    /// none.
    pub bytes: usize,
}

/// A filter for a sequence of JSON values.
#[derive(Debug)]
pub(super) struct JsonFilter {
    keep: Keep,
    /// The field of the outermost object whose elements come out one by one, as [`Part::Element`].
    cut: Option<&'static str>,
    nesting: Vec<Nesting>,
    state: State,
    name: String,
    is_name_escaped: bool,
    out: Vec<u8>,
    /// Where the current string, number or element that is cut out begins in `out`.
    begins: usize,
    element_begins: usize,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An element of the list that is cut.
    Element(Vec<u8>),
    /// A value, after all elements of the list in it.
    Value(Vec<u8>),
}

#[derive(Debug)]
struct Nesting {
    is_list: bool,
    /// Whether this is the list whose elements come out one by one.
    is_cut: bool,
    kept: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a value, or a name in an object, or the end of what surrounds it.
    Between,
    /// In the name of a field.
    Name { is_escaped: bool },
    /// Behind a name that is wanted.
    Named,
    /// In a string that is kept.
    Text { is_escaped: bool },
    /// In a string that turned out to be too long.
    LongText { is_escaped: bool },
    /// In a number, or `true`, `false`, `null`.
    Literal,
    /// In a value that is skipped, `depth` deep in it.
    Skip { depth: usize, skip: Skip },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    /// Before it begins.
    Before,
    /// Between its parts.
    Inside,
    Text {
        is_escaped: bool,
    },
    Literal,
}

impl JsonFilter {
    /// A filter that keeps this; the elements of the outermost field `cut` come out one by one.
    pub(super) fn new(keep: Keep, cut: Option<&'static str>) -> Self {
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

    /// Reads on, until a part is complete or `input` is used up. What is not read yet stays in `input`.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Option<Part> {
        while let Some((&byte, rest)) = input.split_first() {
            // Whatever is skipped goes in large steps.
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

    /// How many bytes change nothing of the state.
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

    /// Bytes of a string, of which the kept ones go to the output.
    fn extend(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Text { .. }) {
            return;
        }
        let length = self.out.len().saturating_sub(self.begins) + bytes.len();
        // Both quotation marks are there at the end.
        if length > self.keep.string + 2 {
            self.out.truncate(self.begins);
            self.state = State::LongText { is_escaped: false };
        } else {
            self.out.extend_from_slice(bytes);
        }
    }

    /// Reads a byte; `false` if it is to be read once more, in the new state.
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
                    // It is too long by this byte.
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
            let is_wanted = !self.is_name_escaped
                && self.length() < self.keep.bytes.saturating_mul(2)
                && (self.keep.is_wanted)(&self.name);
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
        // No wanted name has such characters; so the name is ASCII as far as it is kept.
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

    /// Counts one more kept member of what surrounds it, and separates it from the last one.
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

    /// Bytes of the current value that are kept so far.
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
                self.nesting.push(Nesting {
                    is_list,
                    is_cut,
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

    /// What is complete now.
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

    /// The same, in the simplest way; lists of the outermost object are not cut.
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
        fn what_is_wanted_comes_out_and_nothing_else(
            values in prop::collection::vec(any_value(), 1..4), chunk in 1..40_usize, is_pretty: bool,
        ) {
            let texts = values.iter().map(|value| {
                if is_pretty { format!("{value:#}") } else { value.to_string() }
            });
            // Numbers end where something else begins.
            let text = texts.map(|text| text + "\n").collect::<String>();
            let found: Vec<_> = parts(KEEP, None, text.as_bytes(), chunk).iter().map(value).collect();
            prop_assert_eq!(found, values.iter().map(expected).collect::<Vec<_>>());
        }

        #[test]
        fn a_list_comes_out_in_its_elements(
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

        /// Nothing that is no JSON is kept without end either.
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
    fn fields_behind_a_long_list_are_kept() {
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
