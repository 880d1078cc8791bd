//! Manifests: reading, and writing with the checks that registries make.

use super::exchange::{Answer, Asked, error, finish, plain};
use crate::scripted::fake::Fake;
use crate::scripted::images::digest_of;
use crate::scripted::state::State;
use axum::body::Body;
use axum::http::{Method, Response, header};
use serde_json::Value;

pub(super) fn read(fake: &Fake, asked: &Asked<'_>, repository: &str, name: &str) -> Answer {
    let state = fake.state();
    let key = |name: &str| (repository.to_owned(), name.to_owned());
    let by_tag = state.tags.get(&key(name));
    let digest = by_tag.map_or(name, String::as_str);
    let Some((media_type, bytes)) = state.manifests.get(&key(digest)) else {
        return error(404, "MANIFEST_UNKNOWN");
    };
    let accepted = asked.headers.get_all(header::ACCEPT);
    let accepts = |text: &str| text.contains("*/*") || text.contains(media_type.as_str());
    if !accepted
        .iter()
        .any(|value| value.to_str().is_ok_and(accepts))
    {
        return error(404, "MANIFEST_UNKNOWN");
    }
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header("Docker-Content-Digest", digest)
        .header(header::CONTENT_LENGTH, bytes.len());
    let body = if *asked.method == Method::HEAD {
        Body::empty()
    } else {
        bytes.clone().into()
    };
    finish(answer, body)
}

pub(super) fn write(fake: &Fake, asked: &Asked<'_>, repository: &str, name: &str) -> Answer {
    let mut state = fake.state();
    let body = asked.body.clone();
    let digest = digest_of(&body).to_string();
    if state.knobs.verify {
        if name.contains(':') && name != digest {
            return error(400, "DIGEST_INVALID");
        }
        if let Some(code) = incomplete(&state, repository, &body) {
            return error(400, code);
        }
    }
    let Some(media_type) = asked.header(&header::CONTENT_TYPE).map(str::to_owned) else {
        return error(400, "MANIFEST_INVALID");
    };
    let key = |name: &str| (repository.to_owned(), name.to_owned());
    if !name.contains(':') {
        state.tags.insert(key(name), digest.clone());
    }
    let mut answer = Response::builder()
        .status(201)
        .header(
            header::LOCATION,
            format!("/v2/{repository}/manifests/{digest}"),
        )
        .header("Docker-Content-Digest", &digest);
    let subject = subject_of(&body).filter(|_| state.knobs.referrers);
    if let Some(subject) = subject {
        answer = answer.header("OCI-Subject", subject);
    }
    state.manifests.insert(key(&digest), (media_type, body));
    finish(answer, Body::empty())
}

/// Removes a tag, or a manifest and all its tags.
pub(super) fn delete(fake: &Fake, repository: &str, name: &str) -> Answer {
    let mut state = fake.state();
    let key = (repository.to_owned(), name.to_owned());
    let is_tag = state.tags.remove(&key).is_some();
    if !is_tag && state.manifests.remove(&key).is_none() {
        return error(404, "MANIFEST_UNKNOWN");
    }
    state
        .tags
        .retain(|(of, _), digest| of != repository || digest != name);
    plain(202, "")
}

/// The digest of the manifest that this one refers to.
pub(super) fn subject_of(manifest: &[u8]) -> Option<String> {
    let manifest: Value = serde_json::from_slice(manifest).ok()?;
    manifest["subject"]["digest"].as_str().map(str::to_owned)
}

/// The code for a manifest that names something that is not there.
fn incomplete(state: &State, repository: &str, body: &[u8]) -> Option<&'static str> {
    let manifest: Value = serde_json::from_slice(body).ok()?;
    let digests = |field: &str| -> Vec<String> {
        let items = manifest[field].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .chain(manifest.get(field).filter(|value| value.is_object()))
            .filter(|item| !is_foreign(item))
            .filter_map(|item| item["digest"].as_str().map(str::to_owned))
            .collect()
    };
    let key = |digest: String| (repository.to_owned(), digest);
    for digest in ["config", "layers", "blobs"].into_iter().flat_map(digests) {
        if !state.blobs.contains_key(&key(digest)) {
            return Some("MANIFEST_BLOB_UNKNOWN");
        }
    }
    for digest in digests("manifests") {
        let key = key(digest);
        let known = state.manifests.contains_key(&key) || state.blobs.contains_key(&key);
        if !known && !state.knobs.sparse {
            return Some("MANIFEST_BLOB_UNKNOWN");
        }
    }
    None
}

fn is_foreign(descriptor: &Value) -> bool {
    let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
    media_type.contains("foreign") || media_type.contains("nondistributable")
}
