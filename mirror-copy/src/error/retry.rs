//! Whether trying again makes sense: one table for the whole crate.

use super::Operation;
use reqwest::StatusCode;
use std::time::Duration;

/// Whether the same call may succeed when it is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It may, not before `after` if the registry named a time.
    Transient {
        /// What the registry asked for in `Retry-After`.
        after: Option<Duration>,
    },
    /// It will fail the same way until somebody changes something.
    Permanent,
}

impl Retry {
    pub(crate) const SOON: Self = Self::Transient { after: None };

    /// Whether trying again makes sense.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

/// Status x operation → retry.
pub(super) fn status_retry(
    operation: Operation,
    status: StatusCode,
    code: &str,
    after: Option<Duration>,
) -> Retry {
    match status.as_u16() {
        // 520 to 524 are what a well-known CDN says for its origin's 502 and 504.
        408 | 429 | 500 | 502 | 503 | 504 | 520..=524 => Retry::Transient { after },
        // The session is gone or its token expired meanwhile: a new session may do better.
        401 | 404 | 416 if operation == Operation::WriteBlob => Retry::SOON,
        400 if code == "BLOB_UPLOAD_UNKNOWN" || code == "BLOB_UPLOAD_INVALID" => Retry::SOON,
        _ => Retry::Permanent,
    }
}

pub(super) fn transport_retry(error: &reqwest::Error) -> Retry {
    if error.is_builder() || certificate_refused(error) {
        Retry::Permanent
    } else {
        Retry::SOON
    }
}

/// Whether the peer's certificate is the cause: no time heals that.
fn certificate_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    // An I/O error hides what it wraps: its `source` is the source of that.
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    match (wrapped, error.source()) {
        (Some(wrapped), _) => certificate_refused(wrapped),
        (None, Some(source)) => certificate_refused(source),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(429, Operation::ReadManifest, true)]
    #[case(503, Operation::WriteManifest, true)]
    #[case(500, Operation::ReadBlob, true)]
    #[case(401, Operation::ReadManifest, false)]
    #[case(401, Operation::WriteBlob, true)]
    #[case(403, Operation::WriteBlob, false)]
    #[case(404, Operation::ReadBlob, false)]
    #[case(404, Operation::WriteBlob, true)]
    #[case(413, Operation::WriteManifest, false)]
    #[case(507, Operation::WriteBlob, false)]
    fn the_retry_table(#[case] status: u16, #[case] operation: Operation, #[case] transient: bool) {
        let status = StatusCode::from_u16(status).unwrap();
        let retry = status_retry(operation, status, "", None);
        assert_eq!(retry.is_transient(), transient);
    }
}
