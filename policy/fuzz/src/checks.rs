//! Invariants of every response.

use kubewarden_policy_sdk::response::ValidationResponse;
use serde_json::Value;

/// Including the one that counts the others.
const MAX_WARNINGS: usize = 6;
/// Characters.
const MAX_WARNING: usize = 120;
/// Bytes of a message or an audit annotation, with room for the count of what was left out.
const MAX_TEXT: usize = 17 * 1024;

/// Panics if the host or the API server could not use `response`, or if it denies although the settings do not say `reject`.
pub fn check_response(response: &ValidationResponse, settings: &Value) {
    if response.accepted {
        assert!(response.message.is_none() && response.code.is_none());
    } else {
        let may_reject = ["whenNotMirrored", "whenUnavailable"]
            .iter()
            .any(|key| settings[key] == "reject");
        assert!(may_reject, "{:?}", response.message);
        assert!(response.message.is_some() && response.code == Some(403));
        assert!(response.mutated_object.is_none());
    }
    let warnings = response.warnings.as_deref().unwrap_or_default();
    assert!(warnings.len() <= MAX_WARNINGS, "{warnings:?}");
    for warning in warnings {
        assert!(warning.starts_with("image-mirror: "), "{warning}");
        assert!(warning.chars().count() <= MAX_WARNING, "{warning}");
        check_text(warning);
    }
    response.message.iter().for_each(|text| check_text(text));
    for text in response
        .audit_annotations
        .iter()
        .flatten()
        .map(|(_, text)| text)
    {
        check_text(text);
    }
    serde_json::to_vec(response).expect("it can be serialised");
}

/// Texts must neither flood an audit log nor control a terminal.
fn check_text(text: &str) {
    assert!(!text.is_empty());
    assert!(text.len() <= MAX_TEXT, "{} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
