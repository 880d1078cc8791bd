//! What holds for every answer.

use kubewarden_policy_sdk::response::ValidationResponse;
use serde_json::Value;

/// So many warnings, and one that counts the rest.
const MAX_WARNINGS: usize = 6;
/// Characters.
const MAX_WARNING: usize = 120;
/// Bytes of a message or an audit annotation, with room for the count of what was left out.
const MAX_TEXT: usize = 17 * 1024;

/// Panics if the host or the API server could not use `answer`, or if it denies without being told to.
pub fn check(answer: &ValidationResponse, settings: &Value) {
    if answer.accepted {
        assert!(answer.message.is_none() && answer.code.is_none());
    } else {
        let may_reject = ["whenNotMirrored", "whenUnavailable"]
            .iter()
            .any(|key| settings[key] == "reject");
        assert!(may_reject, "{:?}", answer.message);
        assert!(answer.message.is_some() && answer.code == Some(403));
        assert!(answer.mutated_object.is_none());
    }
    let warnings = answer.warnings.as_deref().unwrap_or_default();
    assert!(warnings.len() <= MAX_WARNINGS, "{warnings:?}");
    for warning in warnings {
        assert!(warning.starts_with("image-mirror: "), "{warning}");
        assert!(warning.chars().count() <= MAX_WARNING, "{warning}");
        check_text(warning);
    }
    answer.message.iter().for_each(|text| check_text(text));
    for text in answer
        .audit_annotations
        .iter()
        .flatten()
        .map(|(_, text)| text)
    {
        check_text(text);
    }
    serde_json::to_vec(answer).expect("the host gets it as JSON");
}

/// A text for people: it must not flood an audit log, nor steer a terminal.
fn check_text(text: &str) {
    assert!(!text.is_empty());
    assert!(text.len() <= MAX_TEXT, "{} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
