//! Lists in pages: tags (distribution-spec, "Listing Tags") and referrers ("Listing Referrers").

use super::Asked;
use super::answer::{Answer, error, finish};
use super::manifests::subject_of;
use crate::scripted::fake::Fake;
use crate::scripted::images::OCI_INDEX;
use axum::http::{Response, header};
use serde_json::{Value, json};

pub(super) fn tags(fake: &Fake, asked: &Asked<'_>, repository: &str) -> Answer {
    let state = fake.state();
    let mut tags: Vec<_> = state
        .tags
        .keys()
        .filter(|(of, _)| of == repository)
        .map(|(_, tag)| tag.clone())
        .collect();
    tags.sort();
    if tags.is_empty() {
        return error(404, "NAME_UNKNOWN");
    }
    let (page, link) = page(asked, tags, state.knobs.page);
    let answer = Response::builder().header(header::CONTENT_TYPE, "application/json");
    let answer = link
        .into_iter()
        .fold(answer, |a, l| a.header(header::LINK, l));
    finish(
        answer,
        json!({"name": repository, "tags": page}).to_string(),
    )
}

pub(super) fn referrers(fake: &Fake, asked: &Asked<'_>, repository: &str, subject: &str) -> Answer {
    let state = fake.state();
    if !state.knobs.referrers {
        return error(404, "NOT_FOUND");
    }
    let mut found: Vec<_> = state
        .manifests
        .iter()
        .filter(|((of, _), (_, bytes))| {
            of == repository && subject_of(bytes).as_deref() == Some(subject)
        })
        .map(|((_, digest), (media_type, bytes))| descriptor(digest, media_type, bytes))
        .collect();
    found.sort_by_key(|descriptor| descriptor["digest"].to_string());
    let (page, link) = page(asked, found, state.knobs.page);
    let answer = Response::builder().header(header::CONTENT_TYPE, OCI_INDEX);
    let answer = link
        .into_iter()
        .fold(answer, |a, l| a.header(header::LINK, l));
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page});
    finish(answer, index.to_string())
}

/// What the list says of one referrer.
fn descriptor(digest: &str, media_type: &str, bytes: &[u8]) -> Value {
    let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let artifact_type = manifest
        .get("artifactType")
        .unwrap_or(&manifest["config"]["mediaType"]);
    json!({
        "mediaType": media_type,
        "digest": digest,
        "size": bytes.len(),
        "artifactType": artifact_type,
        "annotations": manifest["annotations"],
    })
}

/// The items of the page that is asked for, and the `Link` to the next one.
fn page<T>(asked: &Asked<'_>, items: Vec<T>, size: usize) -> (Vec<T>, Option<String>) {
    let parameters = asked.parameters();
    let first = parameters
        .get("after")
        .and_then(|after| after.parse().ok())
        .unwrap_or(0);
    let next = first + size.min(items.len());
    let more = next < items.len();
    let page = items.into_iter().skip(first).take(size).collect();
    let link = format!(r#"<{}?after={next}>; rel="next""#, asked.path);
    (page, Some(link).filter(|_| more))
}
