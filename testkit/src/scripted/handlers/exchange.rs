//! Requests whose body was read, and small responses to them.

use axum::body::Body;
use axum::http::response::Builder;
use axum::http::{HeaderMap, HeaderName, Method, Response};
use bytes::Bytes;
use std::collections::HashMap;

pub(super) type Answer = Response<Body>;

/// A request whose body was read.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) body: Bytes,
}

impl Asked<'_> {
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The query's parameters; of those that come twice the last one.
    pub(super) fn parameters(&self) -> HashMap<String, String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .into_owned()
            .collect()
    }
}

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
