//! Blob uploads: mounts, chunks, and the commit (distribution specification, "Pushing blobs").

use std::collections::HashMap;

use axum::body::Body;
use axum::http::header::{CONTENT_RANGE, LOCATION, RANGE};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::Shared;
use super::answer::{Answer, DIGEST, error, finish, refused, start};

pub fn begin_upload(shared: &Shared, name: &str, query: &HashMap<String, String>) -> Answer {
    let mut store = shared.store();
    if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from"))
        && store.mount(name, from, digest)
    {
        return blob_created(name, digest);
    }
    let id = store.start_upload(name);
    upload_progress(StatusCode::ACCEPTED, name, &id, 0)
}

/// Adds a body to an upload; `Content-Range` must continue where the upload stands.
pub async fn receive(
    shared: &Shared,
    name: &str,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<usize, Answer> {
    let mut length = shared
        .store()
        .upload_length(name, id)
        .ok_or_else(unknown_upload)?;
    if let Some(range) = headers.get(CONTENT_RANGE) {
        let first = range.to_str().ok().and_then(|range| {
            let (first, _last) = range.trim_start_matches("bytes ").split_once('-')?;
            first.parse::<usize>().ok()
        });
        if first != Some(length) {
            return Err(upload_progress(
                StatusCode::RANGE_NOT_SATISFIABLE,
                name,
                id,
                length,
            ));
        }
    }
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|cause| {
            error(
                StatusCode::BAD_REQUEST,
                "BLOB_UPLOAD_INVALID",
                &cause.to_string(),
            )
        })?;
        length = shared
            .store()
            .append(id, &chunk)
            .ok_or_else(unknown_upload)?;
    }
    Ok(length)
}

pub fn commit_upload(
    shared: &Shared,
    name: &str,
    id: &str,
    query: &HashMap<String, String>,
) -> Answer {
    let Some(digest) = query.get("digest") else {
        return error(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "no digest");
    };
    match shared.store().commit(id, digest) {
        Ok(()) => blob_created(name, digest),
        Err(refusal) => refused(&refusal),
    }
}

pub fn upload_progress(status: StatusCode, name: &str, id: &str, length: usize) -> Answer {
    finish(
        start(status)
            .header(LOCATION, format!("/v2/{name}/blobs/uploads/{id}"))
            .header("Docker-Upload-UUID", id)
            .header(RANGE, format!("0-{}", length.saturating_sub(1))),
        Bytes::new(),
    )
}

fn blob_created(name: &str, digest: &str) -> Answer {
    finish(
        start(StatusCode::CREATED)
            .header(LOCATION, format!("/v2/{name}/blobs/{digest}"))
            .header(DIGEST, digest),
        Bytes::new(),
    )
}

pub fn unknown_upload() -> Answer {
    error(
        StatusCode::NOT_FOUND,
        "BLOB_UPLOAD_UNKNOWN",
        "no such upload",
    )
}
