//! Decides whether to retry: one table for the whole crate.

use super::Operation;
use super::advice::is_certificate_refused;
use reqwest::StatusCode;
use std::time::Duration;

/// Whether the same request may succeed when it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It may succeed.
    Transient {
        /// Minimum wait that the registry requested by `Retry-After`.
        after: Option<Duration>,
    },
    /// It fails the same way until a user or operator changes something.
    Permanent,
}

impl Retry {
    pub(crate) const SOON: Self = Self::Transient { after: None };

    /// Returns whether a retry makes sense.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

/// Returns the retry for a status, by this table. Everything that is not in it is permanent.
///
/// | status | code | operation | cause |
/// |---|---|---|---|
/// | 408, 425, 499 | | any | the request took too long, or came too early |
/// | 429 | | any | too many requests; `Retry-After` says how long |
/// | 403 | `TOOMANYREQUESTS` | any | the same, by registries that use the wrong status |
/// | 500, 502, 503, 504 | | any | the server, or a proxy before it, fails |
/// | 520 to 524 | | any | a CDN (Cloudflare) for 502 and 504 of its origin |
/// | 401 | | write blob | the token expired while the body was being sent; the next one is fetched |
/// | 404, 416 | | write blob | the session is gone or on another server; a new one may succeed |
/// | 409 | | write blob, write manifest | another client writes the same content |
/// | 400 | `BLOB_UPLOAD_UNKNOWN`, `BLOB_UPLOAD_INVALID` | any | as 404 |
/// | 400, 404 | `MANIFEST_BLOB_UNKNOWN`, `BLOB_UNKNOWN` | write manifest | blobs that were just sent become visible later |
/// | 400 | `DIGEST_INVALID`, `SIZE_INVALID` | write blob | the content was right, so it was corrupted on the way |
///
/// Not in the table, because they are errors of their own: a 401 that a new token cures and a 403 with the word "expired"
/// (retried immediately with a new login), 405, 413, 416 and 501 of a whole blob (sent in chunks next), immutable tags and
/// unsupported content (permanent). Permanent, although the request is right: 413 of a chunk or a manifest, 507 and used-up
/// storage quotas, which an operator must raise.
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
    if error.is_builder() || is_certificate_refused(error) {
        Retry::Permanent
    } else {
        Retry::SOON
    }
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

    /// Every row of the table, with its transient operations.
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
    fn retry_after_is_kept() {
        let after = Some(Duration::from_secs(7));
        let retry = status_retry(ReadBlob, StatusCode::TOO_MANY_REQUESTS, "", after);
        assert_eq!(retry, Retry::Transient { after });
    }
}
