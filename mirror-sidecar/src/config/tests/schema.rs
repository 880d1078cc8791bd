//! The published schema and the parser agree.

use std::collections::BTreeSet;

use regex::Regex;
use rstest::rstest;
use serde_json::{Map, Value};

use super::{flags, folder, in_folder};
use crate::config::parse::parse;

fn schema() -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.schema.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Whether a schema with the keywords of ours accepts `value`. Any other keyword is a failure of the test.
fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
    let schema = schema.as_object().unwrap();
    if let Some(reference) = schema.get("$ref") {
        let pointer = reference.as_str().unwrap().trim_start_matches('#');
        return accepts(root, root.pointer(pointer).unwrap(), value);
    }
    let keywords = schema.iter();
    keywords.fold(true, |is_accepted, (keyword, expected)| {
        is_accepted & accepts_keyword(root, schema, keyword, expected, value)
    })
}

fn accepts_keyword(
    root: &Value,
    schema: &Map<String, Value>,
    keyword: &str,
    expected: &Value,
    value: &Value,
) -> bool {
    let object = value.as_object();
    let list = expected.as_array();
    let length_of = |text: &str| u64::try_from(text.chars().count()).unwrap();
    match keyword {
        "$schema" | "$id" | "title" | "description" | "definitions" => true,
        "type" => match list {
            Some(types) => types.iter().any(|name| has_type(name, value)),
            None => has_type(expected, value),
        },
        "enum" => list.unwrap().contains(value),
        "required" => object.is_none_or(|object| {
            let mut keys = list.unwrap().iter();
            keys.all(|key| object.contains_key(key.as_str().unwrap()))
        }),
        "properties" => object.is_none_or(|object| {
            let mut properties = expected.as_object().unwrap().iter();
            properties.all(|(key, schema)| {
                object
                    .get(key)
                    .is_none_or(|value| accepts(root, schema, value))
            })
        }),
        "additionalProperties" => object.is_none_or(|object| {
            let known = schema.get("properties").and_then(Value::as_object);
            let mut others = object
                .iter()
                .filter(|(key, _)| !known.is_some_and(|known| known.contains_key(*key)));
            others.all(|(_, value)| *expected != false && accepts(root, expected, value))
        }),
        "propertyNames" => object.is_none_or(|object| {
            let mut keys = object.keys();
            keys.all(|key| accepts(root, expected, &Value::from(key.as_str())))
        }),
        "maxProperties" => {
            object.is_none_or(|object| object.len() as u64 <= expected.as_u64().unwrap())
        }
        "items" => value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| accepts(root, expected, item))),
        "maxItems" => value
            .as_array()
            .is_none_or(|items| items.len() as u64 <= expected.as_u64().unwrap()),
        "minimum" => value
            .as_f64()
            .is_none_or(|number| number >= expected.as_f64().unwrap()),
        "maxLength" => value
            .as_str()
            .is_none_or(|text| length_of(text) <= expected.as_u64().unwrap()),
        "pattern" => value.as_str().is_none_or(|text| {
            Regex::new(expected.as_str().unwrap())
                .unwrap()
                .is_match(text)
        }),
        "oneOf" => {
            let schemas = list.unwrap().iter();
            schemas
                .filter(|schema| accepts(root, schema, value))
                .count()
                == 1
        }
        keyword => panic!("the keyword {keyword} is not implemented here"),
    }
}

fn has_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        name => panic!("the type {name} is not implemented here"),
    }
}

#[rstest]
#[case::least("", true)]
#[case::all_keys(
    "repository: acme/x, naming: nested, formerLocations: [a.b/y], maxImageSize: 20GiB, parallelCopies: 4",
    true
)]
#[case::login("push: {username: u, passwordFile: FILES/password}", true)]
#[case::user_in_a_file("pull: {usernameFile: FILES/user, passwordFile: FILES/password}", true)]
#[case::docker_config("pull: {dockerConfig: FILES/config.json}", true)]
#[case::bytes("maxImageSize: 1048576", true)]
#[case::zero("maxImageSize: 0", true)]
#[case::no_limit("maxImageSize: none", true)]
#[case::no_user("push: {passwordFile: FILES/password}", false)]
#[case::no_password("push: {username: u}", false)]
#[case::no_login("push: {}", false)]
#[case::two_users(
    "push: {username: u, usernameFile: FILES/user, passwordFile: FILES/password}",
    false
)]
#[case::two_logins(
    "push: {username: u, passwordFile: FILES/password, dockerConfig: FILES/config.json}",
    false
)]
#[case::user_and_docker_config("push: {username: u, dockerConfig: FILES/config.json}", false)]
#[case::inline_password("push: {username: u, password: s3cret}", false)]
#[case::both_passwords(
    "push: {username: u, password: s3cret, passwordFile: FILES/password}",
    false
)]
#[case::relative("push: {username: u, passwordFile: password}", false)]
#[case::colon("push: {username: 'a:b', passwordFile: FILES/password}", false)]
#[case::empty_user("push: {username: '', passwordFile: FILES/password}", false)]
#[case::number_as_user("push: {username: 1, passwordFile: FILES/password}", false)]
#[case::unknown("registryHost: a.b", false)]
#[case::unknown_in_login("push: {username: u, passwordFile: FILES/password, token: t}", false)]
#[case::no_value("push: ", false)]
#[case::naming("naming: deep", false)]
#[case::upper_case("repository: Acme", false)]
#[case::slash("repository: acme/", false)]
#[case::size("maxImageSize: 1.5G", false)]
#[case::negative("maxImageSize: -1", false)]
#[case::fraction("parallelCopies: 1.5", false)]
#[case::none("parallelCopies: 0", false)]
#[case::text("parallelCopies: '4'", false)]
#[case::location("formerLocations: [A.b/y]", false)]
#[case::single_location("formerLocations: a.b/y", false)]
fn schema_and_parser_agree_on_a_backup(#[case] keys: &str, #[case] valid: bool) {
    check(
        &format!("backups: {{default: {{registry: a.b, {keys}}}}}"),
        valid,
    );
}

#[rstest]
#[case::targets("targets: {c.d/hub: {pull: {dockerConfig: FILES/config.json}}}", true)]
#[case::no_targets("targets: {}", true)]
#[case::target_without_login("targets: {c.d/hub: {}}", false)]
#[case::path_in_upper_case("targets: {c.d/Hub: {pull: {dockerConfig: FILES/config.json}}}", false)]
#[case::push_to_a_target(
    "targets: {c.d/hub: {pull: {dockerConfig: FILES/config.json}, push: {dockerConfig: FILES/config.json}}}",
    false
)]
#[case::list("targets: []", false)]
#[case::unknown("rules: []", false)]
fn schema_and_parser_agree_on_the_file(#[case] keys: &str, #[case] valid: bool) {
    check(
        &format!("backups: {{default: {{registry: a.b}}}}\n{keys}"),
        valid,
    );
}

#[rstest]
#[case("team-a: {registry: c.d}", true)]
#[case("'1': {registry: c.d}", true)]
#[case("team_a: {registry: c.d}", false)]
#[case("team-a-: {registry: c.d}", false)]
#[case("team-a: {registry: 'https://c.d'}", false)]
#[case("team-a: {registry: c.d/team-a}", false)]
#[case("team-a: {repository: team-a}", false)]
#[case("team-a: c.d", false)]
fn schema_and_parser_agree_on_names(#[case] keys: &str, #[case] valid: bool) {
    check(
        &format!("backups: {{default: {{registry: a.b}}, {keys}}}"),
        valid,
    );
}

fn check(text: &str, valid: bool) {
    let folder = folder();
    let text = in_folder(text, folder.path());
    let errors = parse(&text, &flags()).err();
    assert_eq!(errors.is_none(), valid, "parser: {errors:?}");
    let (root, value) = (schema(), yaml_serde::from_str(&text).unwrap());
    assert_eq!(accepts(&root, &root, &value), valid, "schema");
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
