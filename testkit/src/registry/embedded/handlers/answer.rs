//! How answers are put together.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::response::Builder;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::json;

use crate::registry::embedded::store::Refusal;

/// Header with the digest of what is served.
pub const DIGEST: &str = "Docker-Content-Digest";

pub type Answer = Response<Body>;

pub fn refused(refusal: &Refusal) -> Answer {
    let status = if refusal.code.ends_with("UPLOAD_UNKNOWN") {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::BAD_REQUEST
    };
    error(status, refusal.code, &refusal.message)
}

pub fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    envelope(start(status), code, message)
}

/// The error body of the specification ("Error Codes").
pub fn envelope(builder: Builder, code: &str, message: &str) -> Answer {
    let body = json!({ "errors": [{ "code": code, "message": message }] });
    finish(
        builder.header(CONTENT_TYPE, "application/json"),
        body.to_string(),
    )
}

pub fn start(status: StatusCode) -> Builder {
    Response::builder()
        .status(status)
        .header("Docker-Distribution-Api-Version", "registry/2.0")
}

/// `Content-Length` is set by hand, so that HEAD has it too.
pub fn finish(builder: Builder, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    builder
        .header(CONTENT_LENGTH, body.len())
        .body(Body::from(body))
        .unwrap_or_else(|_| {
            // A client sent something that is not allowed in a header.
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            answer
        })
}
