//! Parses JSON of registries in bounded memory.
//!
//! No document becomes a tree of values: a few bytes such as `{"":0},` would take a hundred times their size. Known fields
//! are slices of the document ([`RawValue`]) whose length is checked before they are read. Everything else is skipped.

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::marker::PhantomData;

/// Maximum nesting of lists and objects. Manifests have 4 levels. The parser keeps a byte for each level.
const MAX_DEPTH: usize = 64;

/// Maximum length of a field name, in bytes. Names of annotations have below 300. The parser copies names with escapes.
const MAX_NAME: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonError {
    /// The document is not JSON, or has another structure. Line and column of the first fault, from 1.
    Malformed { line: usize, column: usize },
    /// Lists and objects are nested deeper than [`MAX_DEPTH`].
    Depth,
    /// A field's name is longer than [`MAX_NAME`].
    Name,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { line, column } => {
                write!(f, "it is not well-formed at line {line}, column {column}")
            }
            Self::Depth => write!(f, "it is nested deeper than {MAX_DEPTH} levels"),
            Self::Name => write!(f, "a field's name is longer than {MAX_NAME} bytes"),
        }
    }
}

/// Parses a document. `T` must bound everything that it keeps.
pub(crate) fn from_slice<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, JsonError> {
    count_objects(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| JsonError::Malformed {
        line: error.line(),
        column: error.column(),
    })
}

/// Returns the number of objects in a document: no less than the number of descriptors that it can have. Does not check
/// that it is JSON.
pub(crate) fn count_objects(bytes: &[u8]) -> Result<usize, JsonError> {
    let (mut depth, mut objects) = (0_usize, 0);
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                objects += usize::from(*byte == b'{');
                if depth > MAX_DEPTH {
                    return Err(JsonError::Depth);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let length = skip_string(&mut rest);
                if length > MAX_NAME && is_name(rest.as_slice()) {
                    return Err(JsonError::Name);
                }
            }
            _ => {}
        }
    }
    Ok(objects)
}

/// Moves behind the end of a string whose first quote was read. Returns its length as it is written.
fn skip_string(rest: &mut std::slice::Iter<'_, u8>) -> usize {
    let before = rest.len();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => drop(rest.next()),
            b'"' => break,
            _ => {}
        }
    }
    before - rest.len()
}

/// Returns whether the string that ended here is a field name.
fn is_name(rest: &[u8]) -> bool {
    rest.trim_ascii_start().starts_with(b":")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoText {
    Long,
    OtherType,
}

/// Returns the text of a string of at most `max` bytes.
pub(crate) fn text(raw: &RawValue, max: usize) -> Result<String, NoText> {
    let raw = raw.get();
    if !raw.starts_with('"') {
        return Err(NoText::OtherType);
    }
    // The longest escape has 6 bytes for one of the text.
    if raw.len() > 6 * max + 2 {
        return Err(NoText::Long);
    }
    let text: String = serde_json::from_str(raw).map_err(|_| NoText::OtherType)?;
    if text.len() > max {
        return Err(NoText::Long);
    }
    Ok(text)
}

/// Returns the text of a string of at most `max` bytes, and `None` for everything else.
pub(crate) fn optional_text(raw: Option<&RawValue>, max: usize) -> Option<String> {
    text(raw?, max).ok()
}

/// Parses an optional value. Returns `None` if it has another type or structure.
pub(crate) fn optional<'de, T: Deserialize<'de>>(raw: Option<&'de RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

/// Parses an object. A list, which serde accepts for a structure as well, is refused.
pub(crate) fn object<'de, T: Deserialize<'de>>(raw: &'de RawValue) -> Option<T> {
    let raw = raw.get();
    raw.starts_with('{')
        .then(|| serde_json::from_str(raw).ok())
        .flatten()
}

/// Returns an object with another list in its field `name`: the items that `keep` accepts, and behind them `more`, which are
/// JSON. Everything else stays unchanged. Returns `None` if it is no object, or if the list has more than `MAX` items.
pub(crate) fn with_list<const MAX: usize>(
    bytes: &[u8],
    name: &str,
    keep: impl Fn(&RawValue) -> bool,
    more: &[&str],
) -> Option<Vec<u8>> {
    let object: Members<'_> = from_slice(bytes).ok()?;
    let mut out =
        Vec::with_capacity(bytes.len() + more.iter().map(|item| item.len() + 1).sum::<usize>());
    let list = |raw: Option<&RawValue>, out: &mut Vec<u8>| {
        let listed: Bounded<&RawValue, MAX> = optional(raw).unwrap_or_default();
        let kept = listed.items.iter().filter(|item| keep(item));
        let items = kept.map(|item| item.get()).chain(more.iter().copied());
        out.push(b'[');
        for (index, item) in items.enumerate() {
            out.extend(std::iter::repeat_n(b',', usize::from(index > 0)));
            out.extend_from_slice(item.as_bytes());
        }
        out.push(b']');
        (!listed.is_cut).then_some(())
    };
    out.push(b'{');
    let mut has_list = false;
    for (field, raw) in &object.0 {
        out.extend(std::iter::repeat_n(b',', usize::from(out.len() > 1)));
        serde_json::to_writer(&mut out, field).ok()?;
        out.push(b':');
        if field == name {
            has_list = true;
            list(Some(raw), &mut out)?;
        } else {
            out.extend_from_slice(raw.get().as_bytes());
        }
    }
    if !has_list {
        out.extend(std::iter::repeat_n(b',', usize::from(out.len() > 1)));
        serde_json::to_writer(&mut out, name).ok()?;
        out.push(b':');
        list(None, &mut out)?;
    }
    out.push(b'}');
    Some(out)
}

/// The members of an object in their order. More than [`MAX_MEMBERS`] are an error, and so is a name that occurs twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

/// Maximum number of members of an object that is rewritten. An index has half a dozen.
const MAX_MEMBERS: usize = 64;

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersReader)
    }
}

struct MembersReader;

impl<'de> Visitor<'de> for MembersReader {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<(String, &RawValue)> = Vec::new();
        while let Some((name, raw)) = map.next_entry::<String, &'de RawValue>()? {
            if members.len() >= MAX_MEMBERS || members.iter().any(|(other, _)| *other == name) {
                return Err(A::Error::custom("too many members, or a duplicate"));
            }
            members.push((name, raw));
        }
        Ok(Members(members))
    }
}

/// The first `MAX` items of a list. The others are skipped: they must be JSON, and take no memory.
#[derive(Debug)]
pub(crate) struct Bounded<T, const MAX: usize> {
    pub(crate) items: Vec<T>,
    /// The list has more items.
    pub(crate) is_cut: bool,
}

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            is_cut: false,
        }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Reader(PhantomData))
    }
}

struct Reader<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Reader<T, MAX> {
    type Value = Bounded<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut read = Bounded::default();
        while read.items.len() < MAX {
            match list.next_element()? {
                Some(item) => read.items.push(item),
                None => return Ok(read),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            read.is_cut = true;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("[]", &[], false)]
    #[case("[1,2]", &[1, 2], false)]
    #[case(r#"[1,2,3,"x",{}]"#, &[1, 2], true)]
    fn what_is_kept(#[case] json: &str, #[case] items: &[u8], #[case] is_cut: bool) {
        let read: Bounded<u8, 2> = serde_json::from_str(json).unwrap();
        assert_eq!((read.items.as_slice(), read.is_cut), (items, is_cut));
    }

    #[rstest::rstest]
    #[case(r#"[1,"x"]"#)]
    #[case("[1,2,3")]
    #[case("{}")]
    fn what_is_no_such_list(#[case] json: &str) {
        assert!(serde_json::from_str::<Bounded<u8, 2>>(json).is_err());
    }

    #[test]
    fn depth_and_names_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let named = |length: usize| format!(r#"{{"{}" :1}}"#, "n".repeat(length));
        let read = |text: &str| from_slice::<IgnoredAny>(text.as_bytes()).err();
        assert_eq!(read(&nested(MAX_DEPTH)), None);
        assert_eq!(read(&nested(MAX_DEPTH + 1)), Some(JsonError::Depth));
        assert_eq!(read(&"[".repeat(1 << 20)), Some(JsonError::Depth));
        assert_eq!(read(&named(MAX_NAME - 1)), None);
        assert_eq!(read(&named(MAX_NAME)), Some(JsonError::Name));
        // Brackets and quotes in a string, and strings that are long values.
        assert_eq!(read(&format!(r#""{}\"""#, "[".repeat(100))), None);
        assert_eq!(read(&format!(r#"["{}"]"#, "v".repeat(1 << 20))), None);
        assert_eq!(
            read("{\n]"),
            Some(JsonError::Malformed { line: 2, column: 1 })
        );
    }

    #[test]
    fn objects_are_counted() {
        let count = |text: &str| count_objects(text.as_bytes());
        assert_eq!(count(r#"{"a":[{},{"b":"{}\"{"}]}"#), Ok(3));
        assert_eq!(count(r#""{"#), Ok(0));
    }

    #[rstest::rstest]
    #[case(
        r#"{"a":1.50,"l":[1, 2,{"x": 3}],"b":[ ]}"#,
        Some(r#"{"a":1.50,"l":[2,{"x": 3},7,8],"b":[ ]}"#)
    )]
    #[case(r#"{"l":[]}"#, Some(r#"{"l":[7,8]}"#))]
    #[case(r#"{"l":"no list"}"#, Some(r#"{"l":[7,8]}"#))]
    #[case(r#"{"a\"":1}"#, Some(r#"{"a\"":1,"l":[7,8]}"#))]
    #[case("{}", Some(r#"{"l":[7,8]}"#))]
    #[case(r#"{"l":[1,2,3,4,5]}"#, None)]
    #[case(r#"{"l":[1],"l":[2]}"#, None)]
    #[case("[1]", None)]
    fn a_list_is_replaced_and_the_rest_stays(#[case] json: &str, #[case] expected: Option<&str>) {
        let keep = |raw: &RawValue| raw.get() != "1";
        let written = with_list::<4>(json.as_bytes(), "l", keep, &["7", "8"]);
        let written = written.map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(written.as_deref(), expected);
    }

    #[rstest::rstest]
    #[case(r#""abcd""#, Ok("abcd"))]
    #[case(r#""\u0061bcd""#, Ok("abcd"))]
    #[case(r#""abcde""#, Err(NoText::Long))]
    #[case(r#""\u0061\u0061\u0061\u0061\u0061""#, Err(NoText::Long))]
    #[case("7", Err(NoText::OtherType))]
    #[case(r#"["a"]"#, Err(NoText::OtherType))]
    fn texts_are_bounded(#[case] json: &str, #[case] expected: Result<&str, NoText>) {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        assert_eq!(text(raw, 4).as_deref().map_err(|error| *error), expected);
    }
}
