//! Lists in pages: tags (distribution-spec, "Listing Tags") and referrers ("Listing Referrers").

use super::exchange::{Answer, Asked, error, finish};
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
    let query = asked.parameters();
    if let Some(last) = query.get("last") {
        tags.retain(|tag| tag > last);
    }
    let size = query.get("n").and_then(|n| n.parse().ok());
    let size = state.knobs.page.min(size.unwrap_or(usize::MAX));
    let answer = Response::builder().header(header::CONTENT_TYPE, "application/json");
    let answer = match tags.get(..size) {
        Some([.., last]) if tags.len() > size => {
            let link = format!(r#"<{}?n={size}&last={last}>; rel="next""#, asked.path);
            answer.header(header::LINK, link)
        }
        _ => answer,
    };
    tags.truncate(size);
    let list = json!({"name": repository, "tags": tags});
    finish(answer, list.to_string())
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
    let first = asked
        .parameters()
        .get("after")
        .and_then(|after| after.parse().ok())
        .unwrap_or(0_usize);
    let next = first.saturating_add(state.knobs.page).min(found.len());
    let answer = Response::builder().header(header::CONTENT_TYPE, OCI_INDEX);
    let answer = if next < found.len() {
        let link = format!(r#"<{}?after={next}>; rel="next""#, asked.path);
        answer.header(header::LINK, link)
    } else {
        answer
    };
    let page = found.get(first..next).unwrap_or_default();
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
