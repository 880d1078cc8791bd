//! The parser accepts the files that the published schema accepts: both are held to the cases in `cases.yaml`, the schema by the
//! tests of the chart. And both know the same keys.

use std::collections::{BTreeMap, BTreeSet};

use rstest::rstest;
use serde_json::Value;

use super::{flags, folder, in_folder};
use crate::config::parse::parse;

/// `valid` and `invalid` files by their names.
type Cases = BTreeMap<String, BTreeMap<String, Value>>;

#[test]
fn the_parser_agrees_with_the_cases_of_the_schema() {
    let folder = folder();
    let cases: Cases = yaml_serde::from_str(include_str!("cases.yaml")).unwrap();
    for (kind, files) in cases {
        for (name, file) in files {
            let text = in_folder(&file.to_string(), folder.path());
            let errors = parse(&text, &flags()).err();
            assert_eq!(errors.is_none(), kind == "valid", "{name}: {errors:?}");
        }
    }
}

fn schema() -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.schema.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// An unknown key at each level makes the parser list the known ones.
#[rstest]
#[case("/properties", "zzzzzzzz: 1", "zzzzzzzz")]
#[case(
    "/definitions/backup/properties",
    "backups: {default: {registry: a.b, zzzzzzzz: 1}}",
    "backups.default.zzzzzzzz"
)]
#[case(
    "/definitions/login/properties",
    "backups: {default: {registry: a.b, push: {zzzzzzzz: 1}}}",
    "backups.default.push.zzzzzzzz"
)]
#[case(
    "/definitions/target/properties",
    "targets: {c.d: {zzzzzzzz: 1}}",
    "targets[c.d].zzzzzzzz"
)]
fn schema_and_parser_have_the_same_keys(
    #[case] pointer: &str,
    #[case] text: &str,
    #[case] path: &str,
) {
    let errors = parse(text, &flags()).unwrap_err();
    let prefix = format!("{path}: unknown key; known keys: ");
    let keys = errors.iter().find_map(|error| error.strip_prefix(&prefix));
    let parser: BTreeSet<_> = keys
        .unwrap_or_else(|| panic!("{errors:?}"))
        .split(", ")
        .collect();
    let schema = schema();
    let properties = schema.pointer(pointer).unwrap().as_object().unwrap();
    assert_eq!(parser, properties.keys().map(String::as_str).collect());
}
