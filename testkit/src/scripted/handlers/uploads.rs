//! Upload sessions: opening or mounting, chunks, closing, cancelling.

use super::exchange::{Answer, Asked, error, finish, plain};
use crate::scripted::fake::Fake;
use crate::scripted::images::digest_of;
use crate::scripted::knobs::{LocationStyle, PatchStyle};
use crate::scripted::state::{State, Upload};
use axum::body::Body;
use axum::http::response::Builder;
use axum::http::{Response, header};

pub(super) fn start(fake: &Fake, asked: &Asked<'_>, repository: &str) -> Answer {
    let mut state = fake.state();
    let query = asked.parameters();
    if let (Some(digest), Some(from), true) =
        (query.get("mount"), query.get("from"), state.knobs.mount)
        && let Some(content) = state.blobs.get(&(from.clone(), digest.clone())).cloned()
    {
        let key = (repository.to_owned(), digest.clone());
        state.blobs.insert(key, content);
        let there = format!("/v2/{repository}/blobs/{digest}");
        let answer = Response::builder()
            .status(201)
            .header(header::LOCATION, there);
        return finish(answer, Body::empty());
    }
    state.next_session += 1;
    let session = format!("session-{}", state.next_session);
    state.sessions.insert(session.clone(), Upload::default());
    let mut answer = located(
        fake,
        &state,
        repository,
        &session,
        Response::builder().status(202),
    );
    if let Some(min) = state.knobs.min_chunk {
        answer = answer.header("OCI-Chunk-Min-Length", min);
    }
    finish(answer, Body::empty())
}

pub(super) fn append(fake: &Fake, asked: &Asked<'_>, repository: &str, session: &str) -> Answer {
    let mut state = fake.state();
    if let PatchStyle::Refused(status) = state.knobs.patch {
        return error(status, "UNSUPPORTED");
    }
    if let Some(refusal) = misplaced(&state, asked, session) {
        return refusal;
    }
    let (patch, min) = (state.knobs.patch, state.knobs.min_chunk);
    let Some(upload) = state.sessions.get_mut(session) else {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    if has_gap(asked, upload) {
        let received = received(upload);
        let answer = located(
            fake,
            &state,
            repository,
            session,
            Response::builder().status(416),
        );
        return finish(answer.header(header::RANGE, received), Body::empty());
    }
    if upload.was_small {
        return error(400, "SIZE_INVALID");
    }
    upload.was_small = min.is_some_and(|min| asked.body.len() < min);
    if patch == PatchStyle::Appended || upload.chunks == 0 {
        upload.content.extend_from_slice(&asked.body);
    }
    upload.chunks += 1;
    let received = received(upload);
    let status = if patch == PatchStyle::FirstOnly {
        201
    } else {
        202
    };
    let answer = located(
        fake,
        &state,
        repository,
        session,
        Response::builder().status(status),
    );
    finish(answer.header(header::RANGE, received), Body::empty())
}

pub(super) fn status(fake: &Fake, repository: &str, session: &str) -> Answer {
    let state = fake.state();
    let Some(upload) = state.sessions.get(session) else {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    let received = received(upload);
    let answer = located(
        fake,
        &state,
        repository,
        session,
        Response::builder().status(204),
    );
    finish(answer.header(header::RANGE, received), Body::empty())
}

pub(super) fn close(fake: &Fake, asked: &Asked<'_>, repository: &str, session: &str) -> Answer {
    let mut state = fake.state();
    if let Some(refusal) = misplaced(&state, asked, session) {
        return refusal;
    }
    // A store that opened no session itself got this address from another server's `Location`.
    let stranger = state.next_session == 0;
    let Some(upload) = state
        .sessions
        .remove(session)
        .or(stranger.then(Upload::default))
    else {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    let Some(digest) = asked.parameters().remove("digest") else {
        return error(400, "DIGEST_INVALID");
    };
    if has_gap(asked, &upload) && state.knobs.patch == PatchStyle::Appended {
        return error(416, "BLOB_UPLOAD_INVALID");
    }
    let mut content = upload.content;
    content.extend_from_slice(&asked.body);
    let matches = !digest.starts_with("sha256") || digest == digest_of(&content).to_string();
    if state.knobs.verify && !matches {
        return error(400, "DIGEST_INVALID");
    }
    let there = format!("/v2/{repository}/blobs/{digest}");
    let answer = Response::builder()
        .status(state.knobs.put_status)
        .header(header::LOCATION, there)
        .header("Docker-Content-Digest", &digest);
    let key = (repository.to_owned(), digest);
    state.blobs.insert(key, content.freeze());
    finish(answer, Body::empty())
}

pub(super) fn cancel(fake: &Fake, session: &str) -> Answer {
    fake.state().sessions.remove(session);
    plain(204, "")
}

/// The refusal for content that comes to another address than the newest one, or is too much at once.
fn misplaced(state: &State, asked: &Asked<'_>, session: &str) -> Option<Answer> {
    let query = asked.parameters();
    let right = match &state.knobs.location {
        LocationStyle::WithQuery => query.get("_state").map(String::as_str) == Some("a/b=="),
        LocationStyle::Rotating => query.get("step") == Some(&step(state, session)),
        _ => true,
    };
    if !right {
        return Some(error(400, "BLOB_UPLOAD_INVALID"));
    }
    (asked.body.len() > state.knobs.max_body).then(|| error(413, "SIZE_INVALID"))
}

/// Whether `Content-Range` does not continue where the upload stands.
fn has_gap(asked: &Asked<'_>, upload: &Upload) -> bool {
    asked.header(&header::CONTENT_RANGE).is_some_and(|range| {
        let first = range.trim_start_matches("bytes ").split('-').next();
        first.and_then(|first| first.parse().ok()) != Some(upload.content.len())
    })
}

fn step(state: &State, session: &str) -> String {
    state
        .sessions
        .get(session)
        .map_or(0, |upload| upload.chunks)
        .to_string()
}

/// `Range` of an upload: the first and the last byte that it has.
fn received(upload: &Upload) -> String {
    format!("0-{}", upload.content.len().saturating_sub(1))
}

/// An answer that says where the session goes on.
fn located(
    fake: &Fake,
    state: &State,
    repository: &str,
    session: &str,
    answer: Builder,
) -> Builder {
    let path = format!("/v2/{repository}/blobs/uploads/{session}");
    let location = match &state.knobs.location {
        LocationStyle::Relative => path,
        LocationStyle::Absolute => format!("http://{}{path}", fake.address),
        LocationStyle::WithQuery => format!("{path}?_state=a%2Fb%3D%3D&nonce=1"),
        LocationStyle::Rotating => format!("{path}?step={}", step(state, session)),
        LocationStyle::Elsewhere(host) => format!("http://{host}{path}"),
        LocationStyle::Base(base) => format!("{base}{path}"),
    };
    answer.header(header::LOCATION, location)
}
