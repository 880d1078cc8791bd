//! Reads responses, bounded in size and time.

use crate::error::{RegistryError, Subject};
use crate::hash::parse_digest;
use crate::json::{self, Bounded};
use crate::manifest::{self, bare_type};
use crate::registries::metadata_budget::{BeyondLimit, Leased, Reservation};
use crate::text::{clean, public_url};
use bytes::Bytes;
use oci_spec::image::Digest;
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout};

/// Timeout of one body, without the waits for memory: long enough for 8 MiB at 1.1 Mbit/s.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// Initial memory of a body, in bytes: most manifests fit into it.
const FIRST_PIECE: usize = 4 * 1024;

/// Maximum size of the body of an error that is read, in bytes.
const MAX_ERROR_BODY: usize = 16 * 1024;

/// Words in bodies of registries, and of proxies before them, that this crate acts upon, in lower case. The last two are of
/// nginx (its status codes 496 and 495, sent as 400).
const KNOWN_WORDS: [&str; 7] = [
    "expired",
    "immutable",
    "media type",
    "unsupported",
    "not supported",
    crate::error::advice::NO_CLIENT_CERTIFICATE,
    crate::error::advice::BAD_CLIENT_CERTIFICATE,
];

/// First bytes of gzip content (RFC 1952). JSON never begins with them.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Timeout of the body of an error: it only improves the message.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a whole body of at most `limit` bytes, in memory of `reservation`. It waits for memory as the body grows, so a peer
/// that announces much and sends little holds little.
pub(super) async fn bounded_body(
    mut response: Response,
    subject: &Subject,
    limit: u64,
    idle: Duration,
    reservation: &Arc<Reservation>,
) -> Result<Leased, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        subject: subject.clone(),
        limit,
    };
    let announced = response.content_length();
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let compression = compression(response.headers());
    // The headers share one buffer, which may be far larger than the body.
    drop(std::mem::take(response.headers_mut()));
    let most = announced.unwrap_or(limit);
    let (mut body, mut lease) = (Vec::new(), reservation.lease());
    // A small idle timeout limits the whole body as well.
    let body_time = BODY_TIMEOUT.min(idle);
    let mut time_left = body_time;
    loop {
        let started = Instant::now();
        let chunk = timeout(time_left, next_chunk(&mut response, subject, idle)).await;
        let chunk = chunk.map_err(|_| RegistryError::Unfinished {
            subject: subject.clone(),
            after: body_time,
        })?;
        time_left = time_left.saturating_sub(started.elapsed());
        let Some(chunk) = chunk? else { break };
        let length = body.len() + chunk.len();
        if length as u64 > limit {
            return Err(too_large());
        }
        if length > body.capacity() {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let capacity = (2 * length).max(FIRST_PIECE).min(most).max(length);
            let more = (capacity - body.capacity()) as u64;
            let grown = lease.grow(more).await;
            grown.map_err(|BeyondLimit(limit)| RegistryError::MemoryBudget {
                subject: subject.clone(),
                limit,
            })?;
            body.reserve_exact(capacity - body.len());
        }
        body.extend_from_slice(&chunk);
    }
    if let Some(compression) = compression.filter(|_| body.starts_with(&GZIP)) {
        return Err(compressed(subject, &compression));
    }
    body.shrink_to_fit();
    lease.shrink_to(body.capacity() as u64);
    Ok(Leased(body, lease))
}

/// Returns the content coding of a response, if it has one, although every request accepts only `identity`.
pub(super) fn compression(headers: &HeaderMap) -> Option<String> {
    let coding = headers.get(CONTENT_ENCODING)?.to_str().ok()?.trim();
    let is_none = coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    (!is_none).then(|| clean(coding))
}

/// Returns the error for a body that was compressed on the way.
pub(super) fn compressed(subject: &Subject, compression: &str) -> RegistryError {
    let reason = format!(
        "the response is compressed (Content-Encoding: {compression}) although the request accepts only identity; disable \
         compression at the registry or the proxy before it"
    );
    RegistryError::protocol(subject, reason)
}

/// Refuses a response to `GET /v2/` that is not of a registry: a document that is not JSON. Registries respond with an empty
/// body, JSON or at least the header of the protocol (distribution-spec, "Legacy docker support HTTP headers").
pub(super) async fn check_registry(
    mut response: Response,
    subject: &Subject,
    idle: Duration,
) -> Result<(), RegistryError> {
    let header = |name| response.headers().get(name)?.to_str().ok();
    if header("docker-distribution-api-version").is_some() {
        return Ok(());
    }
    let media_type = bare_type(header(CONTENT_TYPE.as_str()).unwrap_or_default());
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(&mut response, subject, idle).await? {
        body.extend(chunk.iter().take(MAX_ERROR_BODY - body.len()));
        if body.len() == MAX_ERROR_BODY {
            break;
        }
    }
    let body = body.trim_ascii();
    if body.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        return Ok(());
    }
    let reason = format!(
        "the response is a document of type {}, which no registry returns there; check that the address is that of a \
         registry, and what responds instead (a login page, a proxy)",
        if media_type.is_empty() {
            "unknown".to_owned()
        } else {
            clean(&media_type)
        }
    );
    Err(RegistryError::protocol(subject, reason))
}

/// Returns whether a body has exactly these bytes. It is compared as it arrives; nothing is kept.
pub(super) async fn has_body(
    mut response: Response,
    expected: &[u8],
    subject: &Subject,
    idle: Duration,
) -> Result<bool, RegistryError> {
    let body_time = BODY_TIMEOUT.min(idle);
    let compare = async {
        let mut rest = expected;
        while let Some(chunk) = next_chunk(&mut response, subject, idle).await? {
            match rest.strip_prefix(chunk.as_ref()) {
                Some(after) => rest = after,
                None => return Ok(false),
            }
        }
        Ok(rest.is_empty())
    };
    let compared = timeout(body_time, compare).await;
    compared.unwrap_or_else(|_| {
        Err(RegistryError::Unfinished {
            subject: subject.clone(),
            after: body_time,
        })
    })
}

/// Returns the next piece of a body; `None` at its end.
pub(super) async fn next_chunk(
    response: &mut Response,
    subject: &Subject,
    idle: Duration,
) -> Result<Option<Bytes>, RegistryError> {
    match timeout(idle, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(RegistryError::Transport {
            subject: subject.clone(),
            url: public_url(response.url()),
            source: error.without_url(),
            advice: String::new(),
        }),
        Err(_) => Err(RegistryError::Timeout {
            subject: subject.clone(),
            after: idle,
        }),
    }
}

/// Returns `Retry-After`, in seconds or as a date (RFC 9110 section 10.2.3), cut to `cap`. A date is relative to the `Date`
/// of the response: the clocks of both sides may differ.
pub(super) fn retry_after(headers: &HeaderMap, cap: Duration) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A date in the past means now.
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(sent_at(headers).unwrap_or_else(SystemTime::now))
            .unwrap_or_default(),
    };
    Some(wait.min(cap))
}

/// Returns the `Date` of the response (RFC 9110 section 6.6.1).
fn sent_at(headers: &HeaderMap) -> Option<SystemTime> {
    let text = headers.get(DATE)?.to_str().ok()?;
    httpdate::parse_http_date(text.trim()).ok()
}

#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow)]
    errors: Bounded<&'a RawValue, 1>,
}

#[derive(Deserialize)]
struct OneError<'a> {
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

/// Returns the code and message of the registry (distribution-spec, "Error Codes"), cleaned and cut. Of any other body only
/// [`KNOWN_WORDS`] are returned: a user who names an image must not see the responses of a server that is no registry.
pub(super) async fn error_text(mut response: Response) -> (String, String) {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = MAX_ERROR_BODY - body.len();
            body.extend(chunk.iter().take(room));
            if body.len() == MAX_ERROR_BODY {
                break;
            }
        }
    };
    // Data that was received in time is used either way.
    let _ = timeout(ERROR_BODY_TIMEOUT, reading).await;
    first_error(&body).unwrap_or_else(|| (String::new(), known_words(&body)))
}

fn known_words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    let words = KNOWN_WORDS.iter().filter(|word| text.contains(**word));
    words.copied().collect::<Vec<_>>().join(", ")
}

/// Returns code and message of the first error in a body of the registry protocol.
pub(super) fn first_error(body: &[u8]) -> Option<(String, String)> {
    let parsed: ErrorBody<'_> = json::from_slice(body).ok()?;
    let first: OneError<'_> = json::object(parsed.errors.items.first()?)?;
    let text = |raw: Option<&RawValue>| match raw {
        None => Some(String::new()),
        Some(raw) => Some(clean(&json::text(raw, MAX_ERROR_BODY).ok()?)),
    };
    Some((text(first.code)?, text(first.message)?))
}

const CONTENT_DIGEST: &str = "docker-content-digest";

pub(super) fn header_digest(headers: &HeaderMap) -> Option<Digest> {
    let text = headers.get(CONTENT_DIGEST)?.to_str().ok()?;
    parse_digest(text.trim())
}

/// Fails if a registry reports that it stored other content.
pub(super) fn check_stored_digest(
    subject: &Subject,
    expected: &Digest,
    headers: &HeaderMap,
) -> Result<(), RegistryError> {
    match header_digest(headers) {
        Some(stored) if stored.algorithm() == expected.algorithm() && stored != *expected => {
            Err(RegistryError::Digest {
                subject: subject.clone(),
                expected: expected.to_string(),
                actual: stored.to_string(),
            })
        }
        _ => Ok(()),
    }
}

pub(super) fn content_type(response: &Response) -> String {
    let value = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    manifest::bare_type(value.unwrap_or_default())
}

/// Returns the length in the header: the HTTP client only sees an empty body in a response to `HEAD`.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(reqwest::header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

pub(super) fn wrong_size(subject: &Subject, expected: u64, actual: u64) -> RegistryError {
    RegistryError::Size {
        subject: subject.clone(),
        expected,
        actual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;
    use reqwest::header::HeaderValue;

    fn wait(text: &str) -> Option<Duration> {
        wait_from(None, text)
    }

    fn wait_from(date: Option<SystemTime>, text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        if let Some(date) = date {
            headers.insert(DATE, httpdate::fmt_http_date(date).parse().unwrap());
        }
        headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
        retry_after(&headers, Duration::from_mins(1))
    }

    /// A server that is no registry may be anything, and the user who named it must not learn its responses.
    #[rstest::rstest]
    #[case("token=s3cret", "", "")]
    #[case("{\"apiVersion\":\"v1\",\"items\":[1]}", "", "")]
    #[case("{\"errors\":[]}", "", "")]
    #[case("Token s3cret Expired, unsupported", "", "expired, unsupported")]
    #[case("{\"errors\":\"s3cret\"}", "", "")]
    #[case(
        "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\"}],\"more\":1}",
        "DENIED",
        "no"
    )]
    #[tokio::test]
    async fn only_a_registrys_errors_are_shown(
        #[case] body: &'static str,
        #[case] code: &str,
        #[case] message: &str,
    ) {
        let response = Response::from(axum::http::Response::new(body));
        assert_eq!(error_text(response).await, (code.into(), message.into()));
    }

    /// Reads a body whose pieces arrive every ten seconds.
    async fn read(pieces: usize, size: usize, limit: u64) -> Result<Leased, RegistryError> {
        let pieces = futures_util::stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Ok::<_, std::io::Error>(vec![b' '; size])
        });
        let body = reqwest::Body::wrap_stream(pieces);
        let response = Response::from(axum::http::Response::new(body));
        let subject = Subject {
            operation: crate::error::Operation::ReadManifest,
            object: "a:1".to_owned(),
        };
        let idle = BODY_TIMEOUT;
        let copy = crate::MetadataBudget::new().for_copy();
        bounded_body(response, &subject, limit, idle, &copy).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_a_size_and_a_time() {
        let body = read(5, 10_000, 50_000).await.unwrap();
        assert_eq!(body.0.len(), 50_000);
        assert_eq!(body.0.capacity(), 50_000);
        let large = read(5, 10_000, 49_999).await.err().unwrap();
        assert!(matches!(large, RegistryError::TooLarge { .. }), "{large}");
        let slow = read(7, 1, 50_000).await.err().unwrap();
        assert!(matches!(slow, RegistryError::Unfinished { .. }), "{slow}");
        assert!(slow.retry().is_transient());
        let limit = 33 << 20;
        let much = read(5, 9 << 20, limit).await.err().unwrap();
        assert!(matches!(much, RegistryError::MemoryBudget { .. }), "{much}");
        assert!(!much.retry().is_transient());
    }

    /// A response to `GET /v2/` is that of a registry by its header, or by its body.
    #[rstest::rstest]
    #[case("", "", "", true)]
    #[case("", "application/json", "{}", true)]
    #[case("", "text/html", "true", true)]
    #[case("registry/2.0", "text/html", "<html>", true)]
    #[case("", "text/html; charset=utf-8", "<html>", false)]
    #[case("", "text/plain", "please log in", false)]
    #[tokio::test]
    async fn a_document_for_people_is_no_registry(
        #[case] version: &'static str,
        #[case] media_type: &'static str,
        #[case] body: &'static str,
        #[case] is_registry: bool,
    ) {
        let mut response = axum::http::Response::builder();
        let headers = [
            ("docker-distribution-api-version", version),
            ("content-type", media_type),
        ];
        for (name, value) in headers.into_iter().filter(|(_, value)| !value.is_empty()) {
            response = response.header(name, value);
        }
        let response = Response::from(response.body(body).unwrap());
        let subject = Subject {
            operation: crate::error::Operation::Ping,
            object: "registry a".to_owned(),
        };
        let checked = check_registry(response, &subject, BODY_TIMEOUT).await;
        assert_eq!(checked.is_ok(), is_registry);
        let text = checked.err().map(|error| error.to_string());
        assert!(text.is_none_or(|text| text.contains("of type text/")));
    }

    /// A registry whose clock is an hour behind, or ahead.
    #[rstest::rstest]
    #[case(0)]
    #[case(7200)]
    fn a_date_counts_from_the_registrys_own_clock(#[case] ahead: u64) {
        let hour = Duration::from_hours(1);
        let clock = SystemTime::now() - hour + Duration::from_secs(ahead);
        let until = httpdate::fmt_http_date(clock + Duration::from_secs(30));
        assert_eq!(
            wait_from(Some(clock), &until),
            Some(Duration::from_secs(30))
        );
        let past = httpdate::fmt_http_date(clock - Duration::from_secs(30));
        assert_eq!(wait_from(Some(clock), &past), Some(Duration::ZERO));
    }

    #[test]
    fn retry_after_in_both_forms() {
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("86400"), Some(Duration::from_mins(1)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        assert!(wait(&soon).is_some_and(|wait| (28..=30).contains(&wait.as_secs())));
        assert_eq!(wait("soon"), None);
    }
}
