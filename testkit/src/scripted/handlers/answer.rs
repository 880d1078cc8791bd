//! Small answers.

use axum::body::Body;
use axum::http::Response;
use axum::http::response::Builder;

pub(super) type Answer = Response<Body>;

pub(super) fn plain(status: u16, text: &'static str) -> Answer {
    finish(Response::builder().status(status), text)
}

/// An error as the distribution specification writes it ("Error Codes").
pub(super) fn error(status: u16, code: &str) -> Answer {
    let body =
        format!(r#"{{"errors":[{{"code":"{code}","message":"the registry says {code}"}}]}}"#);
    finish(Response::builder().status(status), body)
}

pub(super) fn finish(builder: Builder, body: impl Into<Body>) -> Answer {
    builder
        .body(body.into())
        .expect("a fake writes well-formed headers")
}
