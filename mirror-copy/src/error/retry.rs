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

/// Status x operation → retry. What is not in the table is permanent.
///
/// | status | code | operation | why it may pass |
/// |---|---|---|---|
/// | 408, 425, 499 | | any | the request took too long, or came too early |
/// | 429 | | any | too much at once; `Retry-After` says how long |
/// | 403 | `TOOMANYREQUESTS` | any | the same, by registries that say it with the wrong status |
/// | 500, 502, 503, 504 | | any | the server or something before it is ill |
/// | 520 to 524 | | any | what a well-known CDN says for its origin's 502 and 504 |
/// | 401 | | write blob | the token ran out while the body was on its way; the next one is fetched |
/// | 404, 416 | | write blob | the session is gone or elsewhere; a new one may do better |
/// | 409 | | write blob, write manifest | somebody else is writing the same at this moment |
/// | 400 | `BLOB_UPLOAD_UNKNOWN`, `BLOB_UPLOAD_INVALID` | any | as 404 |
/// | 400, 404 | `MANIFEST_BLOB_UNKNOWN`, `BLOB_UNKNOWN` | write manifest | blobs that were just sent are shown later |
/// | 400 | `DIGEST_INVALID`, `SIZE_INVALID` | write blob | what was sent was right, so it was hurt on the way |
///
/// Not here, because they are errors of their own: a 401 that a new token heals and a 403 that says
/// "expired" (retried at once with a new login), 405, 413, 416 and 501 of a whole blob (sent in chunks next),
/// immutable tags and unsupported content (permanent). Permanent, although they are no fault of the
/// request: 413 of a chunk or a manifest, 507 and used-up storage quotas, which somebody must raise.
pub(super) fn status_retry(
    operation: Operation,
    status: StatusCode,
    code: &str,
    after: Option<Duration>,
) -> Retry {
    match (status.as_u16(), code, operation) {
        (408 | 425 | 429 | 499 | 500 | 502 | 503 | 504 | 520..=524, ..)
        | (403, "TOOMANYREQUESTS", _) => Retry::Transient { after },
        (401 | 404 | 416, _, Operation::WriteBlob)
        | (409, _, Operation::WriteBlob | Operation::WriteManifest)
        | (400 | 404, "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN", Operation::WriteManifest)
        | (400, "BLOB_UPLOAD_UNKNOWN" | "BLOB_UPLOAD_INVALID", _)
        | (400, "DIGEST_INVALID" | "SIZE_INVALID", Operation::WriteBlob) => Retry::SOON,
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

/// Whether a certificate is the cause, the registry's or ours: no time heals that.
fn certificate_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    super::tls::cause(error).is_some_and(|error| {
        matches!(error, rustls::Error::InvalidCertificate(_))
            || super::tls::is_about_client_certificate(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use Operation::{Ping, ReadBlob, ReadManifest, StartUpload, Token, WriteBlob, WriteManifest};

    const OPERATIONS: [Operation; 7] = [
        Ping,
        ReadManifest,
        WriteManifest,
        ReadBlob,
        StartUpload,
        WriteBlob,
        Token,
    ];

    /// Every row of the table: the operations for which it says "again".
    #[rstest::rstest]
    #[case(&[408, 425, 429, 499, 500, 502, 503, 504], "", &OPERATIONS)]
    #[case(&[520, 521, 522, 523, 524], "", &OPERATIONS)]
    #[case(&[403, 429], "TOOMANYREQUESTS", &OPERATIONS)]
    #[case(&[401, 404, 416], "", &[WriteBlob])]
    #[case(&[404], "BLOB_UPLOAD_UNKNOWN", &[WriteBlob])]
    #[case(&[404], "NAME_UNKNOWN", &[WriteBlob])]
    #[case(&[409], "", &[WriteBlob, WriteManifest])]
    #[case(&[400], "MANIFEST_BLOB_UNKNOWN", &[WriteManifest])]
    #[case(&[400], "BLOB_UNKNOWN", &[WriteManifest])]
    #[case(&[400], "BLOB_UPLOAD_UNKNOWN", &OPERATIONS)]
    #[case(&[400], "BLOB_UPLOAD_INVALID", &OPERATIONS)]
    #[case(&[400], "DIGEST_INVALID", &[WriteBlob])]
    #[case(&[400], "SIZE_INVALID", &[WriteBlob])]
    #[case(&[400, 403, 405, 406, 410, 411, 412, 413, 414, 415, 422, 431, 451], "", &[])]
    #[case(&[501, 505, 507, 508, 511, 519, 525, 526], "", &[])]
    #[case(&[403], "DENIED", &[])]
    #[case(&[400], "MANIFEST_INVALID", &[])]
    fn the_retry_table(
        #[case] statuses: &[u16],
        #[case] code: &str,
        #[case] transient: &[Operation],
    ) {
        for (status, operation) in statuses.iter().flat_map(|s| OPERATIONS.map(|o| (*s, o))) {
            let retry = status_retry(operation, StatusCode::from_u16(status).unwrap(), code, None);
            let expected = transient.contains(&operation);
            assert_eq!(
                retry.is_transient(),
                expected,
                "{status} {code} {operation}"
            );
        }
    }

    #[test]
    fn a_time_that_the_registry_names_is_kept() {
        let after = Some(Duration::from_secs(7));
        let retry = status_retry(ReadBlob, StatusCode::TOO_MANY_REQUESTS, "", after);
        assert_eq!(retry, Retry::Transient { after });
    }
}
