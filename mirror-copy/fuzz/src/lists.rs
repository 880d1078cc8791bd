//! Checks of bodies: lists of referrers, errors and tokens.

use crate::fuzzing::check_digest;
use crate::json;
use crate::registry::referrer_list::{MAX_REFERRERS, ReferrerList};
use crate::registry::response::first_error;
use crate::registry::token::TokenResponse;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

/// The data is parsed as each kind of body: lists of referrers, errors, tokens, and an index that is rewritten.
///
/// # Panics
/// If an invariant is violated.
pub fn lists(data: &[u8]) {
    for list in [ReferrerList::of_api(data), ReferrerList::of_tag(data)] {
        list.iter().for_each(check_list);
    }
    if let Some((code, message)) = first_error(data) {
        for text in [code, message] {
            assert!(text.chars().count() <= 301, "{text}");
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
    let token = TokenResponse::read(data).and_then(|token| token.into_token(Instant::now(), None));
    assert!(token.is_none_or(|token| token.header.len() <= 16 * 1024 + 7));
    let entry = r#"{"digest":"new"}"#;
    let keep = |_: &RawValue| true;
    if let Some(written) = json::with_list::<64>(data, "manifests", keep, &[entry]) {
        let written: Value = match serde_json::from_slice(&written) {
            Ok(written) => written,
            // Numbers that fit into no type, in fields that are not parsed.
            Err(error) => return assert!(error.to_string().contains("out of range"), "{error}"),
        };
        let last = written["manifests"].as_array().and_then(|list| list.last());
        assert_eq!(last, Some(&serde_json::json!({"digest": "new"})));
    }
}

fn check_list(list: &ReferrerList) {
    assert!(list.count() <= MAX_REFERRERS);
    for referrer in &list.referrers {
        let descriptor = &referrer.descriptor;
        check_digest(&descriptor.digest);
        assert!(descriptor.urls.is_empty() && descriptor.data.is_none());
        assert!(
            referrer.entry.len() <= 10 * 1024,
            "{}",
            referrer.entry.len()
        );
        let Ok(entry) = serde_json::from_str::<Value>(&referrer.entry) else {
            continue;
        };
        assert_eq!(entry["digest"].as_str(), Some(descriptor.digest.as_ref()));
        assert_eq!(entry["size"].as_u64(), Some(descriptor.size));
        let allowed = ["mediaType", "digest", "size", "artifactType", "annotations"];
        let fields = entry
            .as_object()
            .map(|entry| entry.keys().collect::<Vec<_>>());
        let fields = fields.unwrap_or_default();
        assert!(fields.iter().all(|name| allowed.contains(&name.as_str())));
    }
}
