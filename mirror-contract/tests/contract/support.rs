//! Generators of references, shared by the property tests.

use proptest::prelude::*;

/// A path component with every separator that the grammar knows.
pub fn component() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,6}((\\.|_|__|-{1,4})[a-z0-9]{1,4}){0,3}"
}

/// A repository path of one to four components.
pub fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(component(), 1..=4).prop_map(|components| components.join("/"))
}

/// A registry that is written out: it has a dot or a port, or is `localhost`.
pub fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("docker.io".to_owned()),
        Just("localhost".to_owned()),
        "[a-z0-9]{1,5}(-{1,3}[a-z0-9]{1,3}){0,2}\\.[a-z]{2,4}",
        "[a-z0-9]{1,5}(-{1,3}[a-z0-9]{1,3}){0,2}(\\.[a-z]{2,4}){0,2}:[0-9]{1,5}",
    ]
}

/// A tag of any legal character.
pub fn tag() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"
}

/// A digest that fits into a tag.
pub fn short_digest() -> impl Strategy<Value = String> {
    prop_oneof!["sha256:[0-9a-f]{64}", "sha384:[0-9a-f]{96}"]
}

/// `:tag`, `@digest` or both.
pub fn version() -> impl Strategy<Value = String> {
    prop_oneof![
        tag().prop_map(|tag| format!(":{tag}")),
        short_digest().prop_map(|digest| format!("@{digest}")),
        (tag(), short_digest()).prop_map(|(tag, digest)| format!(":{tag}@{digest}")),
    ]
}

/// A whole reference with a written-out registry.
pub fn image() -> impl Strategy<Value = String> {
    (host(), path(), version()).prop_map(|(host, path, version)| format!("{host}/{path}{version}"))
}

/// A text that is nearly a reference: legal pieces joined by anything.
pub fn near_miss() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        component(),
        tag(),
        Just("sha256:".to_owned()),
        "[A-Z.:/@_\\-\\[\\]]{1,3}",
        "\\PC{0,3}",
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}
