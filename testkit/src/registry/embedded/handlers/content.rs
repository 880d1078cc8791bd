//! Blobs, manifests and the lists of them, once they are stored.

use std::collections::HashMap;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, LINK, LOCATION, RANGE};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde_json::json;

use super::Shared;
use super::answer::{Answer, DIGEST, error, finish, refused, start};
use crate::registry::Document;

/// The specification lets registries refuse manifests over 4 MiB.
const MANIFEST_LIMIT: usize = 4 << 20;
/// A tag list page when the client does not ask for a size.
const TAG_PAGE: usize = 1000;

pub fn serve_blob(digest: &str, blob: &Bytes, headers: &HeaderMap) -> Answer {
    let builder = start(StatusCode::OK)
        .header(DIGEST, digest)
        .header(ACCEPT_RANGES, "bytes")
        .header(CONTENT_TYPE, "application/octet-stream");
    let Some(range) = headers.get(RANGE).and_then(|range| range.to_str().ok()) else {
        return finish(builder, blob.clone());
    };
    let total = blob.len();
    match parse_range(range, total) {
        Some((first, last)) => finish(
            builder
                .status(StatusCode::PARTIAL_CONTENT)
                .header(CONTENT_RANGE, format!("bytes {first}-{last}/{total}")),
            blob.slice(first..=last),
        ),
        None => finish(
            start(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(CONTENT_RANGE, format!("bytes */{total}")),
            Bytes::new(),
        ),
    }
}

/// One range of RFC 9110 section 14.1.2, as first and last byte; `None` when it cannot be satisfied.
fn parse_range(range: &str, total: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let end = total.checked_sub(1)?;
    let (first, last) = if first.is_empty() {
        let suffix: usize = last.parse().ok()?;
        (total.saturating_sub(suffix), end)
    } else {
        let last = if last.is_empty() {
            end
        } else {
            last.parse().ok()?
        };
        (first.parse().ok()?, last.min(end))
    };
    (first <= last).then_some((first, last))
}

pub async fn put_manifest(
    shared: &Shared,
    name: &str,
    reference: &str,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let Some(media_type) = headers.get(CONTENT_TYPE).and_then(|t| t.to_str().ok()) else {
        return error(
            StatusCode::BAD_REQUEST,
            "MANIFEST_INVALID",
            "no Content-Type",
        );
    };
    let Ok(bytes) = axum::body::to_bytes(body, MANIFEST_LIMIT).await else {
        return error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "SIZE_INVALID",
            "manifest too large",
        );
    };
    let document = Document {
        media_type: media_type.to_owned(),
        bytes,
    };
    let digest = document.digest();
    match shared.store().put_manifest(name, reference, document) {
        Ok(subject) => {
            let mut builder = start(StatusCode::CREATED)
                .header(LOCATION, format!("/v2/{name}/manifests/{digest}"))
                .header(DIGEST, digest);
            if let Some(subject) = subject {
                builder = builder.header("OCI-Subject", subject);
            }
            finish(builder, Bytes::new())
        }
        Err(refusal) => refused(&refusal),
    }
}

pub fn serve_manifest(document: &Document) -> Answer {
    finish(
        start(StatusCode::OK)
            .header(CONTENT_TYPE, &document.media_type)
            .header(DIGEST, document.digest()),
        document.bytes.clone(),
    )
}

pub fn list_tags(shared: &Shared, name: &str, query: &HashMap<String, String>) -> Answer {
    let Some(tags) = shared.store().tags(name) else {
        return error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", name);
    };
    let size = query
        .get("n")
        .and_then(|n| n.parse().ok())
        .unwrap_or(TAG_PAGE);
    let after = query.get("last");
    let rest: Vec<_> = tags
        .into_iter()
        .filter(|tag| after.is_none_or(|last| tag > last))
        .collect();
    let page = &rest[..size.min(rest.len())];
    let mut builder = start(StatusCode::OK).header(CONTENT_TYPE, "application/json");
    if let Some(last) = page.last().filter(|_| page.len() < rest.len()) {
        let link = format!("</v2/{name}/tags/list?n={size}&last={last}>; rel=\"next\"");
        builder = builder.header(LINK, link);
    }
    finish(builder, json!({ "name": name, "tags": page }).to_string())
}

pub fn list_referrers(shared: &Shared, name: &str, digest: &str) -> Answer {
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": shared.store().referrers(name, digest),
    });
    let builder = start(StatusCode::OK).header(CONTENT_TYPE, media_type);
    finish(builder, index.to_string())
}

pub fn deleted(found: bool, code: &str, what: &str) -> Answer {
    if found {
        finish(start(StatusCode::ACCEPTED), Bytes::new())
    } else {
        error(StatusCode::NOT_FOUND, code, what)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_range;
    use rstest::rstest;

    #[rstest]
    #[case::middle("bytes=2-4", Some((2, 4)))]
    #[case::open("bytes=7-", Some((7, 9)))]
    #[case::too_long("bytes=7-99", Some((7, 9)))]
    #[case::suffix("bytes=-3", Some((7, 9)))]
    #[case::beyond("bytes=10-", None)]
    #[case::backwards("bytes=4-2", None)]
    #[case::other_unit("lines=1-2", None)]
    fn ranges(#[case] range: &str, #[case] expected: Option<(usize, usize)>) {
        assert_eq!(parse_range(range, 10), expected);
    }
}
