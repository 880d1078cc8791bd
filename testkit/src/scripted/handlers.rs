//! What a fake does with a request: log it, spoil it or answer it (OCI distribution specification 1.1).

mod auth;
mod blobs;
mod exchange;
mod lists;
mod manifests;
mod uploads;

use super::fake::Fake;
use super::fault::{Action, header_of, spoiled};
use super::state::Entry;
use crate::server::connection::Switch;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::request::Parts;
use axum::http::{Method, header};
use bytes::{Bytes, BytesMut};
use exchange::{Answer, Asked, error, plain};
use futures_util::StreamExt as _;
use std::time::{Duration, Instant};

pub(super) fn router(fake: Fake) -> Router {
    Router::new().fallback(move |request: Request| {
        let fake = fake.clone();
        async move { answer(fake, request).await }
    })
}

async fn answer(fake: Fake, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let place = log(&fake, &parts);
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    let mut fault = fake
        .state()
        .fault(&parts.method, &format!("{path}?{query}"));
    while let Some(Action::Late(latch, then)) = fault {
        latch.passed().await;
        fault = then.map(|action| *action);
    }
    let answer = match fault {
        Some(Action::Status(status, headers, text)) => {
            // Read the body first, so that the answer is not lost with the connection.
            let _ = to_bytes(body, usize::MAX).await;
            let mut answer = plain(status, text);
            for (name, value) in &headers {
                let (name, value) = header_of(name, value);
                answer.headers_mut().append(name, value);
            }
            answer
        }
        Some(Action::Early(status)) => error(status, "DENIED"),
        Some(Action::Hang) => std::future::pending().await,
        Some(Action::Delay(time)) => {
            tokio::time::sleep(time).await;
            worked(&fake, &parts, body, place, None).await
        }
        Some(Action::Reset) => {
            switch_off(&parts.extensions);
            plain(500, "")
        }
        Some(Action::Leave(back_after)) => {
            let closing = fake.state().closing.clone();
            // A second request finds the listener closed already.
            let _ = closing
                .expect("only plain listeners can be closed")
                .send(back_after);
            switch_off(&parts.extensions);
            plain(500, "")
        }
        fault => worked(&fake, &parts, body, place, fault).await,
    };
    if let Some(entry) = fake.state().log.get_mut(place) {
        entry.status = answer.status().as_u16();
    }
    answer
}

/// Does what was asked for; the way there or the answer may be spoiled.
async fn worked(
    fake: &Fake,
    parts: &Parts,
    body: Body,
    place: usize,
    fault: Option<Action>,
) -> Answer {
    let (sip, pause) = match fault {
        Some(Action::Sip(bytes, pause)) => (bytes, pause),
        _ => (usize::MAX, Duration::ZERO),
    };
    let Some(body) = read(body, sip, pause).await else {
        return plain(400, "cut");
    };
    let path = parts.uri.path();
    if let Some(entry) = fake.state().log.get_mut(place) {
        entry.length = body.len();
        if path == "/token" {
            entry.body = String::from_utf8_lossy(&body).into_owned();
        }
    }
    let asked = Asked {
        method: &parts.method,
        headers: &parts.headers,
        path,
        query: parts.uri.query().unwrap_or_default(),
        body,
    };
    let real = real(fake, &asked);
    match fault {
        Some(Action::LoseAnswer) => {
            switch_off(&parts.extensions);
            real
        }
        Some(action) => spoiled(real, action).await,
        None => real,
    }
}

/// Logs a request and says where in the log it is.
fn log(fake: &Fake, parts: &Parts) -> usize {
    let text = |name| {
        let value = parts.headers.get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let mut state = fake.state();
    state.log.push(Entry {
        method: parts.method.clone(),
        version: parts.version,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers.clone(),
        authorization: text(header::AUTHORIZATION),
        range: text(header::RANGE),
        body: String::new(),
        length: 0,
        status: 0,
        at: Instant::now(),
    });
    state.log.len() - 1
}

fn switch_off(extensions: &axum::http::Extensions) {
    extensions
        .get::<ConnectInfo<Switch>>()
        .expect("fakes serve with switches")
        .0
        .off();
}

/// The whole body, read with a pause after each `sip` bytes; `None` if it breaks off.
async fn read(body: Body, sip: usize, pause: Duration) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    let mut pieces = body.into_data_stream();
    let mut pauses = 0;
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece.ok()?);
        while pauses < whole.len() / sip {
            tokio::time::sleep(pause).await;
            pauses += 1;
        }
    }
    Some(whole.freeze())
}

fn real(fake: &Fake, asked: &Asked<'_>) -> Answer {
    let other = fake.state().knobs.other.clone();
    if let Some(other) = other {
        return other(asked.method, asked.path, asked.query, &asked.body);
    }
    if asked.path == "/token" {
        return auth::token(fake, asked);
    }
    let target = match asked
        .path
        .strip_prefix("/v2")
        .map(|rest| rest.trim_start_matches('/'))
    {
        Some("") => Some(("", "", "")),
        Some(rest) => split(rest),
        None => None,
    };
    let Some((repository, kind, name)) = target else {
        return error(404, "NAME_INVALID");
    };
    if let Some(refusal) = auth::refused(fake, asked, repository) {
        return refusal;
    }
    let hides = fake.state().knobs.hides;
    if let Some(status) = hides
        && [Method::HEAD, Method::GET].contains(asked.method)
        && ["manifests", "blobs", "tags", "referrers"].contains(&kind)
        && !fake
            .state()
            .blobs
            .keys()
            .any(|(name, _)| name == repository)
    {
        return error(status, "DENIED");
    }
    let writes = [Method::POST, Method::PUT, Method::PATCH].contains(asked.method);
    let unknown = writes && asked.header(&header::CONTENT_LENGTH).is_none();
    if unknown && fake.state().knobs.needs_length {
        return plain(411, "");
    }
    match (asked.method, kind) {
        (&Method::HEAD | &Method::GET, "") => plain(200, "{}"),
        (&Method::HEAD | &Method::GET, "manifests") => {
            manifests::read(fake, asked, repository, name)
        }
        (&Method::PUT, "manifests") => manifests::write(fake, asked, repository, name),
        (&Method::DELETE, "manifests") => manifests::delete(fake, repository, name),
        (&Method::HEAD | &Method::GET, "blobs") => blobs::read(fake, asked, repository, name),
        (&Method::DELETE, "blobs") => blobs::delete(fake, repository, name),
        (&Method::POST, "uploads") => uploads::start(fake, asked, repository),
        (&Method::PATCH, "uploads") => uploads::append(fake, asked, repository, name),
        (&Method::GET, "uploads") => uploads::status(fake, repository, name),
        (&Method::PUT, "uploads") => uploads::close(fake, asked, repository, name),
        (&Method::DELETE, "uploads") => uploads::cancel(fake, name),
        (&Method::GET, "tags") => lists::tags(fake, asked, repository),
        (&Method::GET, "referrers") => lists::referrers(fake, asked, repository, name),
        _ => error(405, "UNSUPPORTED"),
    }
}

/// Repository, kind and last part of a path below `/v2/`. Repositories contain slashes, so it is read from the right.
fn split(path: &str) -> Option<(&str, &str, &str)> {
    let (head, name) = path.rsplit_once('/')?;
    let (repository, kind) = head.rsplit_once('/')?;
    match kind {
        "uploads" => Some((repository.strip_suffix("/blobs")?, kind, name)),
        "blobs" if name == "uploads" => Some((repository, "uploads", "")),
        "blobs" | "manifests" | "referrers" => Some((repository, kind, name)),
        "tags" if name == "list" => Some((repository, kind, name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::split;
    use rstest::rstest;

    #[rstest]
    #[case("a/b/blobs/uploads/", Some(("a/b", "uploads", "")))]
    #[case("a/b/blobs/uploads", Some(("a/b", "uploads", "")))]
    #[case("a/blobs/uploads/7", Some(("a", "uploads", "7")))]
    #[case("a/b/c/blobs/sha256:1", Some(("a/b/c", "blobs", "sha256:1")))]
    #[case("blobs/manifests/x", Some(("blobs", "manifests", "x")))]
    #[case("a/blobs/b/manifests/x", Some(("a/blobs/b", "manifests", "x")))]
    #[case("a/tags/list", Some(("a", "tags", "list")))]
    #[case("a/referrers/sha256:1", Some(("a", "referrers", "sha256:1")))]
    #[case("a", None)]
    #[case("a/tags/1", None)]
    fn paths_are_read_from_the_right(
        #[case] path: &str,
        #[case] expected: Option<(&str, &str, &str)>,
    ) {
        assert_eq!(split(path), expected);
    }
}
