//! Entry points of the fuzz targets, and a test that feeds them the corpus.
//!
//! This is a module of the policy for tests and fuzzing (`src/lib.rs`), since it needs private items. Each entry point takes
//! arbitrary bytes as input from outside, and panics if the policy breaks an invariant.

// A fuzz target and a test report a fault by panicking.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

mod checks;
mod edit;
mod sidecar;

use std::cmp::Reverse;

use kubewarden_policy_sdk::response::ValidationResponse;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Host;
use crate::old_object::canonical;
use crate::request::{Operation, Payload, Request};
pub(crate) use edit::{Edit, SecretEdit};
use sidecar::Sidecar;

/// The response to `payload`, as the host parses it.
///
/// # Panics
/// If it is not the JSON that the host expects.
pub fn response(payload: &[u8], host: &mut impl Host) -> ValidationResponse {
    let json = crate::evaluate(payload, host).to_json();
    serde_json::from_slice(&json.expect("it can be serialised")).expect("the host can parse it")
}

/// The first line of `data` is the payload of the host; each further line is the response of the host to one request, see
/// [`sidecar`]. Requests beyond the last line get the response that there is a copy.
///
/// # Panics
/// If the host or the API server cannot use the response, if anything changes that must not, or if the rewritten object is
/// rewritten again.
pub fn validate(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let payload = lines.next().unwrap_or_default();
    let parsed = str::from_utf8(payload).ok().and_then(|text| {
        let payload: Payload = serde_json::from_str(text).ok()?;
        Some((text, payload))
    });
    let Some((text, parsed)) = parsed else {
        let response = response(payload, &mut Sidecar::unreachable());
        checks::check_response(&response, &Value::Null);
        assert!(response.mutated_object.is_none());
        assert_eq!(response.warnings.map(|warnings| warnings.len()), Some(1));
        return;
    };
    let settings = parsed.settings.map_or("{}", |settings| settings.get());
    let settings = serde_json::from_str(settings).unwrap_or_default();
    let request = parsed.request;
    let mut sidecar = Sidecar::new(lines, &settings, request.dry_run == Some(true));
    let response = response(payload, &mut sidecar);
    checks::check_response(&response, &settings);
    if let Some(mutated) = &response.mutated_object {
        check_edit(&request, mutated, &sidecar);
        check_again(text, &request, mutated, &settings, sidecar);
    }
}

/// `data` is the payload of `validate_settings`.
///
/// # Panics
/// If invalid settings are not explained, or if [`crate::evaluate`] accepts them.
pub fn validate_settings(data: &[u8]) {
    let verdict = crate::validate_settings(data);
    assert_eq!(verdict.valid, verdict.message.is_none());
    let message = verdict.message.unwrap_or_default();
    assert!(verdict.valid || !message.trim().is_empty());
    assert!(!message.chars().any(char::is_control), "{message:?}");

    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let Ok(settings) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let request = json!({
        "kind": {"group": "", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": "shop",
        "object": {"spec": {"containers": [{"image": "nginx"}]}}
    });
    let payload = format!(r#"{{"request":{request},"settings":{text}}}"#);
    let mut sidecar = Sidecar::new(std::iter::empty(), &settings, false);
    let response = response(payload.as_bytes(), &mut sidecar);
    checks::check_response(&response, &settings);
    let warnings = response.warnings.unwrap_or_default();
    let is_reported = warnings.iter().any(|text| text.contains("settings"));
    assert_eq!(is_reported, !verdict.valid, "{warnings:?}");
}

/// Checks that only images, pull Secrets and the annotation differ from the object of the request.
fn check_edit(request: &Request<'_>, mutated: &Value, sidecar: &Sidecar<'_>) {
    let before: Value = request
        .object
        .and_then(|object| serde_json::from_str(object.get()).ok())
        .expect("an object that cannot be read is left alone");
    let edit = Edit::new(&request.kind, &before, mutated);
    assert_eq!(edit.rest, before);
    assert!(!edit.images.is_empty() || edit.secret.is_some() || edit.annotation.is_some());
    let old_object: Value = request
        .old_object
        .and_then(|object| serde_json::from_str(object.get()).ok())
        .unwrap_or_default();
    let annotated_before = Edit::new(&request.kind, &old_object, &old_object).annotated_before;
    for (old, new) in &edit.images {
        // A copy that replaces another one is that of the original.
        let original = edit.annotated_before.get(old).or(annotated_before.get(old));
        let original = original.unwrap_or(old);
        // A copy of the old object may be used without a response.
        let before = annotated_before
            .get(new)
            .map(|original| canonical(original));
        if before != Some(canonical(original)) {
            sidecar.check_copy(original, new);
        }
        let annotated = edit
            .annotation
            .as_ref()
            .map(|annotation| annotation.contains_key(new));
        assert_ne!(annotated, Some(false), "{new} is not annotated");
    }
    if let Some(SecretEdit::Added(secret)) = &edit.secret {
        let name = secret["name"].as_str().unwrap_or_default();
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        assert!(!name.is_empty() && name.len() <= 253, "{secret}");
        assert!(name.chars().all(is_plain), "{secret}");
        assert_eq!(*secret, json!({ "name": name }));
    }
    let is_pod = (request.kind.group.as_str(), request.kind.kind.as_str()) == ("", "Pod");
    if is_pod && request.operation == Operation::Update {
        assert!(edit.secret.is_none());
    }
    let read: Value = serde_json::from_str(&mutated.to_string()).expect("the host can parse it");
    assert_eq!(&read, mutated);
}

/// Checks that the mutated object is not rewritten again, since its images are in the backup already.
fn check_again(
    payload: &str,
    request: &Request<'_>,
    mutated: &Value,
    settings: &Value,
    sidecar: Sidecar<'_>,
) {
    let mutated = mutated.to_string();
    let place = |object: &RawValue| object.get().as_ptr().addr() - payload.as_ptr().addr();
    let mut objects: Vec<_> = [request.object, request.old_object]
        .into_iter()
        .flatten()
        .collect();
    objects.sort_by_key(|object| Reverse(place(object)));
    let mut again = payload.to_owned();
    for object in objects {
        let start = place(object);
        again.replace_range(start..start + object.get().len(), &mutated);
    }
    let response = response(again.as_bytes(), &mut sidecar.next_request());
    checks::check_response(&response, settings);
    assert!(response.accepted);
    assert_eq!(response.mutated_object, None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[rstest::rstest]
    #[case("validate", validate)]
    #[case("validate_settings", validate_settings)]
    fn the_kept_corpus_passes(#[case] target: &str, #[case] feed: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut samples = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let sample = std::fs::read(&path).unwrap();
            let fed = std::panic::catch_unwind(|| feed(&sample));
            assert!(fed.is_ok(), "{}", path.display());
            samples += 1;
        }
        assert!(samples >= 10, "{samples} samples of {target}");
    }
}
