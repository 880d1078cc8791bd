//! Reading answers, all of them bounded in size and in time.

use crate::error::{RegistryError, Subject};
use crate::text::{clean, public_url};
use bytes::{Bytes, BytesMut};
use reqwest::Response;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// As much of an error's body as is read, in bytes.
const MAX_ERROR_BODY: usize = 16 * 1024;

/// What registries, and proxies before them, say in bodies of their own making that is acted upon.
const KNOWN_WORDS: [&str; 5] = [
    "expired",
    "immutable",
    "media type",
    "unsupported",
    "not supported",
];

/// How long an error's body is waited for: it only makes the message better.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// A whole body of at most `limit` bytes.
pub(super) async fn bounded_body(
    mut response: Response,
    subject: &Subject,
    limit: u64,
    idle: Duration,
) -> Result<Bytes, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        subject: subject.clone(),
        limit,
    };
    if response
        .content_length()
        .is_some_and(|length| length > limit)
    {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut response, subject, idle).await? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The next piece of a body; `None` at its end.
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
        }),
        Err(_) => Err(RegistryError::Timeout {
            subject: subject.clone(),
            after: idle,
        }),
    }
}

/// `Retry-After` as seconds or as a date (RFC 9110 section 10.2.3), cut to `cap`.
pub(super) fn retry_after(headers: &HeaderMap, cap: Duration) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A date in the past means now.
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(wait.min(cap))
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own code and message (distribution-spec, "Error Codes"), cleaned and cut. Of any other body only the
/// words are told that decide what is done: whoever invents an image reference must not be shown what a server says that
/// is no registry.
pub(super) async fn error_text(mut response: Response) -> (String, String) {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= MAX_ERROR_BODY {
                break;
            }
        }
    };
    // What came in time is used either way.
    let _ = timeout(ERROR_BODY_TIMEOUT, reading).await;
    body.truncate(MAX_ERROR_BODY);
    first_error(&body).unwrap_or_else(|| (String::new(), known_words(&body)))
}

/// Those of [`KNOWN_WORDS`] that a body has.
fn known_words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    let words = KNOWN_WORDS.iter().filter(|word| text.contains(**word));
    words.copied().collect::<Vec<_>>().join(", ")
}

/// Code and message of the first error that a body tells of, if it is one of the registry protocol.
pub(super) fn first_error(body: &[u8]) -> Option<(String, String)> {
    let parsed: ErrorBody = serde_json::from_slice(body).ok()?;
    let first = parsed.errors.first()?;
    Some((clean(&first.code), clean(&first.message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn wait(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
        retry_after(&headers, Duration::from_mins(1))
    }

    /// What is no registry may be anything, and whoever named it must not learn what it says.
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
