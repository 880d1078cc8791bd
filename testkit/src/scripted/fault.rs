//! How single requests go wrong.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Holds requests back until a test lets them all go on. Clones are the same latch.
#[derive(Clone, Debug)]
pub struct Latch(Arc<Semaphore>);

impl Latch {
    /// A closed one.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.0.close();
    }

    /// Returns when it is open.
    pub(super) async fn passed(&self) {
        // There are no permits, so the end of the semaphore is all that can come.
        let _ = self.0.acquire().await;
    }
}

/// How a request goes wrong.
#[derive(Clone, Debug)]
pub enum Action {
    /// This status, headers and body instead of the real answer.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// The body breaks off after so many bytes.
    Cut(usize),
    /// The first byte of the body is another.
    Corrupt,
    /// No Content-Length, and this many bytes more (or less) at the end.
    Resize(isize),
    /// Without this header.
    Without(&'static str),
    /// With this header.
    With(&'static str, String),
    /// The request's body is not read; the status comes at once.
    Early(u16),
    /// Never answers.
    Hang,
    /// Waits for the latch; then goes wrong like this, or not at all.
    Late(Latch, Option<Box<Action>>),
    /// Waits this long; then nothing goes wrong.
    Delay(Duration),
    /// The request is done, and then the connection ends without an answer.
    LoseAnswer,
    /// The request is done, and then answered with this status and no body.
    Disguise(u16),
    /// The connection ends at once, without an answer: what a keep-alive connection does that was idle too long.
    Reset,
    /// The listener is closed, so that further connections are refused, and this connection is reset. With a time the
    /// listener is opened again after it. Plain HTTP only.
    Leave(Option<Duration>),
    /// The stream is reset as one that was never looked at (RFC 9113, `REFUSED_STREAM`). HTTP/2 only.
    RefuseStream,
    /// The answer is given, and the connection says that it takes no more (RFC 9113, `GOAWAY`). HTTP/2 only.
    GoAway,
    /// The body comes in so many pieces, with this pause before each.
    Drip(usize, Duration),
    /// The request's body is read with this pause after each so many bytes.
    Sip(usize, Duration),
}

/// What an HTTP/2 server is to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    RefuseStream,
    GoAway,
}

/// An action and the requests that it is for.
pub(super) struct Fault {
    pub(super) method: Method,
    pub(super) path_part: String,
    pub(super) left: usize,
    pub(super) action: Action,
}

impl Fault {
    pub(super) fn concerns(&self, method: &Method, path_and_query: &str) -> bool {
        self.left > 0 && self.method == *method && path_and_query.contains(&self.path_part)
    }
}

/// Spoils an answer. Actions that leave no answer to spoil are somebody else's.
pub(super) async fn spoiled(answer: Response<Body>, action: Action) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX)
        .await
        .expect("our own answers are whole");
    let body = match action {
        Action::Without(name) => {
            parts.headers.remove(name);
            Body::from(body)
        }
        Action::With(name, value) => {
            let (name, value) = header_of(name, &value);
            parts.headers.insert(name, value);
            Body::from(body)
        }
        Action::Corrupt => {
            let mut body = body.to_vec();
            *body.first_mut().expect("an empty body cannot be corrupted") ^= 1;
            Body::from(body)
        }
        Action::Resize(by) => {
            parts.headers.remove(header::CONTENT_LENGTH);
            let mut body = body.to_vec();
            body.resize(body.len().strict_add_signed(by), b'x');
            Body::from_stream(stream::iter([Ok::<_, io::Error>(Bytes::from(body))]))
        }
        Action::Cut(after) => {
            let first = stream::iter([Ok(body.slice(..after))]);
            let broken = stream::once(async {
                // A body that waits lets the server flush what it has.
                tokio::task::yield_now().await;
                Err(io::Error::other("cut"))
            });
            Body::from_stream(first.chain(broken))
        }
        Action::Disguise(status) => {
            parts.status = StatusCode::from_u16(status).expect("a status has three digits");
            parts.headers.clear();
            Body::empty()
        }
        Action::RefuseStream | Action::GoAway => {
            let then = match action {
                Action::GoAway => Then::GoAway,
                _ => Then::RefuseStream,
            };
            parts.extensions.insert(then);
            Body::from(body)
        }
        Action::Drip(pieces, pause) => Body::from_stream(dripping(body, pieces, pause)),
        _ => Body::from(body),
    };
    Response::from_parts(parts, body)
}

/// A header of an answer.
pub(super) fn header_of(name: &'static str, value: &str) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(value).expect("a header value is printable");
    (HeaderName::from_static(name), value)
}

fn dripping(
    body: Bytes,
    pieces: usize,
    pause: Duration,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    let size = body.len().div_ceil(pieces.max(1)).max(1);
    stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let piece = rest.split_to(size.min(rest.len()));
        Some((Ok(piece), rest))
    })
}
