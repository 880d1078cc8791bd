//! Blobs: whole, from a byte on, or somewhere else.

use super::Asked;
use super::answer::{Answer, error, finish};
use crate::scripted::fake::Fake;
use axum::body::Body;
use axum::http::{Method, Response, header};

pub(super) fn read(fake: &Fake, asked: &Asked<'_>, repository: &str, name: &str) -> Answer {
    let mut state = fake.state();
    if let Some(store) = state.knobs.redirect_blobs.clone() {
        state.signatures_made += 1;
        let signature = state.signatures_made;
        let there = format!("http://{store}{}?X-Signature={signature}", asked.path);
        let answer = Response::builder()
            .status(307)
            .header(header::LOCATION, there)
            .header(header::SET_COOKIE, "tracking=yes; Path=/");
        return finish(answer, Body::empty());
    }
    let key = (repository.to_owned(), name.to_owned());
    let Some(content) = state.blobs.get(&key).cloned() else {
        return error(404, "BLOB_UNKNOWN");
    };
    let range = asked
        .header(&header::RANGE)
        .filter(|_| state.knobs.ranges)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let first: usize = range.map_or(0, |first| first.parse().expect("a range of numbers"));
    let rest = content.slice(first..);
    let mut answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header("Docker-Content-Digest", name)
        .header(header::CONTENT_LENGTH, rest.len());
    if range.is_some() {
        let range = format!("bytes {first}-{}/{}", content.len() - 1, content.len());
        answer = answer.status(206).header(header::CONTENT_RANGE, range);
    }
    let body = if *asked.method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(rest)
    };
    finish(answer, body)
}
