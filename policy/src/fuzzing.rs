//! Entry points for the fuzz targets in `fuzz/`, and for the test below that feeds them the kept corpus. They are
//! built for nothing else.
//!
//! Each takes arbitrary bytes for what comes from outside, and panics when what the policy makes of it is not as it
//! must be.

// A fuzz target and a test report a fault by panicking.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

mod answer;
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

/// The response to `payload`, as the host reads it.
///
/// # Panics
/// When it is not the JSON that the host expects.
pub fn response(payload: &[u8], host: &mut impl Host) -> ValidationResponse {
    let json = crate::evaluate(payload, host).to_json();
    serde_json::from_slice(&json.expect("it is written")).expect("the host can read it")
}

/// The first line of `data` is the payload of the host; each further line is what the host says to one question, see
/// [`sidecar`]. Questions beyond the last line get the answer that there is a copy.
///
/// # Panics
/// When the answer is not one that the host and the API server can use, when anything changes that must not, or when
/// the rewritten object is rewritten again.
pub fn validate(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let payload = lines.next().unwrap_or_default();
    let understood = str::from_utf8(payload).ok().and_then(|text| {
        let payload: Payload = serde_json::from_str(text).ok()?;
        Some((text, payload))
    });
    let Some((text, understood)) = understood else {
        let answer = response(payload, &mut Sidecar::that_is_not_asked());
        answer::check(&answer, &Value::Null);
        assert!(answer.mutated_object.is_none());
        assert_eq!(answer.warnings.map(|warnings| warnings.len()), Some(1));
        return;
    };
    let settings = understood.settings.map_or("{}", |settings| settings.get());
    let settings = serde_json::from_str(settings).unwrap_or_default();
    let request = understood.request;
    let mut sidecar = Sidecar::new(lines, &settings, request.dry_run == Some(true));
    let answer = response(payload, &mut sidecar);
    answer::check(&answer, &settings);
    if let Some(mutated) = &answer.mutated_object {
        check_edit(&request, mutated, &sidecar);
        check_again(text, &request, mutated, &settings, sidecar);
    }
}

/// `data` is what somebody configured.
///
/// # Panics
/// When wrong settings are not explained, or when [`crate::evaluate`] judges differently.
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
    let answer = response(payload.as_bytes(), &mut sidecar);
    answer::check(&answer, &settings);
    let warnings = answer.warnings.unwrap_or_default();
    let is_blamed = warnings.iter().any(|text| text.contains("settings"));
    assert_eq!(is_blamed, !verdict.valid, "{warnings:?}");
}

/// The mutated object is the request's, but for images that were replaced by their copies and what belongs to that.
fn check_edit(request: &Request<'_>, mutated: &Value, sidecar: &Sidecar<'_>) {
    let before: Value = request
        .object
        .and_then(|object| serde_json::from_str(object.get()).ok())
        .expect("an object that cannot be read is left alone");
    let edit = Edit::new(&request.kind, &before, mutated);
    assert_eq!(edit.rest, before);
    assert!(!edit.images.is_empty() || edit.secret.is_some() || edit.note.is_some());
    let old_object: Value = request
        .old_object
        .and_then(|object| serde_json::from_str(object.get()).ok())
        .unwrap_or_default();
    let noted_before = Edit::new(&request.kind, &old_object, &old_object).noted;
    for (old, new) in &edit.images {
        // A copy that replaces another one is that of the original.
        let original = edit.noted.get(old).or(noted_before.get(old));
        let original = original.unwrap_or(old);
        // Without a better copy, it is what it was before.
        let before = noted_before.get(new).map(|original| canonical(original));
        if before != Some(canonical(original)) {
            sidecar.check_copy(original, new);
        }
        let noted = edit.note.as_ref().map(|note| note.contains_key(new));
        assert_ne!(noted, Some(false), "{new} is not noted");
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
    let read: Value = serde_json::from_str(&mutated.to_string()).expect("the host can read it");
    assert_eq!(&read, mutated);
}

/// The same request for what it led to changes nothing, since the copies are in the backup registry already.
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
    let answer = response(again.as_bytes(), &mut sidecar.once_more());
    answer::check(&answer, settings);
    assert!(answer.accepted);
    assert_eq!(answer.mutated_object, None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What was found to matter once must not be forgotten where no fuzzer runs.
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
