use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Map, Value, json};

use super::{Cursor, Edited};

/// Reads a tree with nothing but the cursor.
fn read(cursor: &mut Cursor<'_>) -> Value {
    match cursor.peek() {
        Some(b'{') => {
            let mut map = Map::new();
            assert!(cursor.enter_object());
            while let Some(key) = cursor.next_key() {
                map.insert(key.name.into_owned(), read(cursor));
            }
            map.into()
        }
        Some(b'[') => {
            let mut list = Vec::new();
            assert!(cursor.enter_array());
            while cursor.next_element() {
                list.push(read(cursor));
            }
            list.into()
        }
        Some(b'"') => cursor.string().unwrap().into(),
        _ => serde_json::from_str(cursor.raw()).unwrap(),
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\\u{0}-\\u{20}é\\\\\"]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-c\\\\\"]{0,2}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_cursor_reads_what_serde_reads(value in any_json(), is_pretty in any::<bool>()) {
        let text = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        prop_assert_eq!(read(&mut Cursor::new(&text)), value);
        let mut cursor = Cursor::new(&text);
        prop_assert_eq!(cursor.raw(), text.as_str());
    }

    #[test]
    fn any_text_comes_to_an_end(text in "[\\[\\]{}\",:\\\\a1é ]{0,30}") {
        let mut cursor = Cursor::new(&text);
        let mut steps = 0;
        while cursor.enter_object() || cursor.enter_array() || cursor.next_key().is_some() || cursor.next_element() {
            cursor.skip();
            steps += 1;
            if steps > 100 { break; }
        }
    }
}

#[rstest]
#[case::first(r#"{"x":1,"b":2}"#, r#"{"b":2}"#)]
#[case::last(r#"{"b":2 , "x" : 1}"#, r#"{"b":2 }"#)]
#[case::middle(r#"{"a":0,"x":{"y":[","]},"b":2}"#, r#"{"a":0,"b":2}"#)]
#[case::alone(r#"{ "x":1 }"#, "{  }")]
fn a_member_is_removed_with_its_comma(#[case] text: &str, #[case] expected: &str) {
    let mut cursor = Cursor::new(text);
    let mut edited = Edited::new(text);
    assert!(cursor.enter_object());
    while let Some(key) = cursor.next_key() {
        let value = cursor.position();
        cursor.skip();
        if key.name == "x" {
            edited.remove(&key.member(value, &cursor));
        }
    }
    let mut out = Vec::new();
    edited.write(&mut out);
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[rstest]
#[case(r#"{"a":1}"#, json!({"k": [1], "a": 1}))]
#[case("{ }", json!({"k": [1]}))]
#[case("null", json!({"k": [1]}))]
fn a_member_is_added(#[case] text: &str, #[case] expected: Value) {
    let holder = Cursor::new(text).enter_holder();
    let mut edited = Edited::new(text);
    assert!(edited.add(&holder, "k", "[1]"));
    let mut out = Vec::new();
    edited.write(&mut out);
    assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
}

#[rstest]
#[case(126, false)]
#[case(127, true)]
fn depth_is_counted(#[case] depth: usize, #[case] is_too_deep: bool) {
    let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let mut cursor = Cursor::new(&text);
    cursor.skip();
    assert_eq!(cursor.is_too_deep(), is_too_deep);
}
