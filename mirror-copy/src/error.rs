//! Errors of requests to a registry, as data: operation, object, cause, and whether to retry.

pub(crate) mod advice;
pub(crate) mod public;
mod response;
pub(crate) mod retry;
mod subject;

pub use advice::Remedy;
pub use retry::Retry;
pub use subject::{Operation, Subject};

use crate::credentials::CredentialError;
use crate::manifest::ManifestError;
use reqwest::StatusCode;
use retry::{status_retry, transport_retry};
use std::time::Duration;

/// The error of a request to a registry. No variant ever holds a password, a token or a query string.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry returned an error status.
    #[error(
        "cannot {subject}: the registry returned {status}{}{}",
        detail(.code, .message), advice::of_status(subject.operation, *status, .code)
    )]
    Status {
        /// The request.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
        /// Error code of the registry (distribution-spec, "Error Codes"), or empty.
        code: String,
        /// Message of the registry without control characters, cut to 300 characters, or empty.
        message: String,
        /// `Retry-After` of the response, cut to [`RetryPolicy::max_retry_after`](crate::RetryPolicy::max_retry_after).
        retry_after: Option<Duration>,
    },
    /// The tag exists, stands for another manifest, and is locked.
    #[error(
        "cannot {subject}: the registry does not allow this tag to be overwritten ({status}{}); choose another \
         tag, or make tags mutable there", detail(.code, .message)
    )]
    ImmutableTag {
        /// The request.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
        /// Error code of the registry, or empty.
        code: String,
        /// Message of the registry, cleaned and cut, or empty.
        message: String,
    },
    /// The registry does not accept manifests of this media type, or digests of this algorithm.
    #[error(
        "cannot {subject}: the registry does not support this kind of content ({status}{}); use another registry, or leave it out",
        detail(.code, .message)
    )]
    Unsupported {
        /// The request.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
        /// Error code of the registry, or empty.
        code: String,
        /// Message of the registry, cleaned and cut, or empty.
        message: String,
    },
    /// An earlier response said that the rate limit for reading manifests is used up, so the request was not sent.
    #[error(
        "cannot {subject}: registry {host} allows {} in {}, and none is left; \
         log in to it for a higher limit, or wait {} s", manifests(*.limit), period(*.window), .after.as_secs_f64().ceil()
    )]
    Quota {
        /// The registry.
        host: String,
        /// The request, which was not sent.
        subject: Subject,
        /// Manifests that may be read within a window, if the registry reports that.
        limit: Option<u64>,
        /// Length of a window.
        window: Duration,
        /// Time after which one request may be sent.
        after: Duration,
    },
    /// The configured credentials were refused. They are never replaced by anonymous access.
    #[error("registry {host} refused the credentials of user {user}; check them")]
    Credentials {
        /// The registry.
        host: String,
        /// The user name that was sent.
        user: String,
    },
    /// The registry requires a login and none is configured.
    #[error("cannot {subject}: registry {host} requires a login; configure credentials for it")]
    LoginNeeded {
        /// The registry.
        host: String,
        /// The request.
        subject: Subject,
    },
    /// The token expired while a body was being sent. The next attempt has a new one.
    #[error("cannot {subject}: the login to registry {host} expired; retrying with a new one")]
    Expired {
        /// The registry.
        host: String,
        /// The request.
        subject: Subject,
    },
    /// Looking up the credentials failed.
    #[error(transparent)]
    Lookup(#[from] CredentialError),
    /// The registry's authentication challenge or its token service cannot be used.
    #[error("cannot log in to registry {host}: {reason}")]
    Challenge {
        /// The registry.
        host: String,
        /// The cause.
        reason: String,
    },
    /// The registry, or a proxy before it, requires a client certificate that it trusts (nginx, its status codes 495 and
    /// 496, sent as 400).
    #[error(
        "cannot {subject}: the registry returned {status}: {message}; the registry requires a client certificate that it \
         trusts; {advice}"
    )]
    ClientCertificate {
        /// The request.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
        /// The known words of the response.
        message: String,
        /// The remedy, in the words of [`RegistryOptions::advice`](crate::RegistryOptions::advice).
        advice: String,
    },
    /// The connection failed or broke.
    #[error("cannot {subject} ({url}): {}", cause(.source, .advice))]
    Transport {
        /// The request.
        subject: Subject,
        /// The URL without user info and query.
        url: String,
        /// The cause; it contains no URL.
        source: reqwest::Error,
        /// The cause and the remedy of a failed TLS handshake, if it is a known one; else empty.
        advice: String,
    },
    /// No data was received or accepted for too long.
    #[error("cannot {subject}: no response for {} s; check the network and the registry", .after.as_secs_f32())]
    Timeout {
        /// The request.
        subject: Subject,
        /// The timeout.
        after: Duration,
    },
    /// The body of a manifest, list or token response did not end in time.
    #[error("cannot {subject}: the response did not end within {} s", .after.as_secs())]
    Unfinished {
        /// The request.
        subject: Subject,
        /// The timeout.
        after: Duration,
    },
    /// A transfer was too slow while others waited for its memory.
    #[error(
        "cannot {subject}: only {moved} bytes were received in {} s while images of other registries waited; retrying with \
         fewer concurrent transfers", .within.as_secs()
    )]
    Slow {
        /// The request.
        subject: Subject,
        /// Bytes that were received.
        moved: u64,
        /// The time in which they were received.
        within: Duration,
    },
    /// The body ended early. Readers resume; this error means that resuming did not help.
    #[error("cannot {subject}: the connection ended after {got} of {expected} bytes")]
    Cut {
        /// The request.
        subject: Subject,
        /// Bytes received.
        got: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// A redirect or another address of the registry must not be followed.
    #[error("cannot {subject}: {reason}")]
    Redirect {
        /// The request.
        subject: Subject,
        /// The cause.
        reason: String,
    },
    /// The host resolves to no address that may be connected to.
    #[error("cannot {subject}: {reason}")]
    Address {
        /// The request.
        subject: Subject,
        /// The address, and how it can be allowed.
        reason: String,
    },
    /// The body is larger than this client reads.
    #[error("cannot {subject}: it is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The request.
        subject: Subject,
        /// The limit in bytes.
        limit: u64,
    },
    /// The manifests and lists of the image take more memory than one copy may have.
    #[error(
        "cannot {subject}: with it the manifests of this image exceed the limit of {limit} bytes of memory"
    )]
    MemoryBudget {
        /// The request.
        subject: Subject,
        /// The limit in bytes.
        limit: u64,
    },
    /// The content does not match its digest.
    #[error("cannot {subject}: its content has the digest {actual}, not {expected}")]
    Digest {
        /// The request.
        subject: Subject,
        /// The requested digest.
        expected: String,
        /// The digest of the received content.
        actual: String,
    },
    /// The content has another size than its descriptor.
    #[error("cannot {subject}: it has {actual} bytes, its descriptor says {expected}")]
    Size {
        /// The request.
        subject: Subject,
        /// The size in the descriptor, in bytes.
        expected: u64,
        /// The real size in bytes, or as much of it as was received.
        actual: u64,
    },
    /// The algorithm of the digest is unknown, so the content cannot be verified.
    #[error(
        "cannot {subject}: the digest algorithm is not supported (sha256, sha384 and sha512 are)"
    )]
    Algorithm {
        /// The request.
        subject: Subject,
    },
    /// The manifest was received and cannot be used.
    #[error("cannot use manifest {object}: {source}")]
    Manifest {
        /// `host/repository:tag` or `host/repository@digest`.
        object: String,
        /// The cause.
        source: ManifestError,
    },
    /// The text is no repository, tag or digest that can be part of a URL.
    #[error("{0:?} is not a valid repository, tag or digest")]
    Name(String),
    /// The registry refuses a blob in one request, or a chunk of it. The next attempt sends it in chunks, or in smaller
    /// ones.
    #[error(
        "cannot {subject} in one request: the registry returned {status}; retrying in (smaller) chunks"
    )]
    Whole {
        /// The request.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
    },
    /// An upload session has fewer bytes than were sent to it.
    #[error("cannot {subject}: the registry kept {kept} of {sent} bytes")]
    Lost {
        /// The request.
        subject: Subject,
        /// Bytes that the session has.
        kept: u64,
        /// Bytes that were sent to it.
        sent: u64,
    },
    /// The registry refuses a manifest because of layers that have addresses of their own.
    #[error(
        "cannot {subject}: the registry returned {status} for its foreign layers ({layers}), whose addresses it does not \
         allow; allow them at the registry (distribution: validation.manifests.urls.allow)"
    )]
    ForeignLayers {
        /// The request.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
        /// Digests of the first of these layers.
        layers: String,
    },
    /// The registry accepted a manifest and does not return it.
    #[error(
        "cannot {subject}: the registry accepted this manifest, and {} s later it {shown}; check its storage, its \
         clean-up rules, and any proxy before it", .within.as_secs_f32()
    )]
    NotKept {
        /// The request.
        subject: Subject,
        /// Time that the registry had to show it.
        within: Duration,
        /// What the registry returns instead, as the end of a sentence.
        shown: String,
    },
    /// Another client writes the same list concurrently.
    #[error("cannot {subject}: another client keeps changing it concurrently; try again later")]
    Contended {
        /// The request.
        subject: Subject,
    },
    /// The registry violates the protocol.
    #[error("cannot {subject}: {reason}")]
    Protocol {
        /// The request.
        subject: Subject,
        /// The violation.
        reason: String,
    },
}

impl RegistryError {
    /// Returns whether the same request may succeed later. The table is in the source of [`Retry`].
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Status {
                subject,
                status,
                code,
                retry_after,
                ..
            } => status_retry(subject.operation, *status, code, *retry_after),
            Self::Quota { after, .. } => Retry::Transient {
                after: Some(*after),
            },
            Self::Transport { source, .. } => transport_retry(source),
            Self::Expired { .. }
            | Self::Timeout { .. }
            | Self::Unfinished { .. }
            | Self::Slow { .. }
            | Self::Cut { .. }
            | Self::Whole { .. }
            | Self::Lost { .. }
            | Self::NotKept { .. }
            | Self::Contended { .. } => Retry::SOON,
            Self::Lookup(error) => error.retry(),
            _ => Retry::Permanent,
        }
    }

    /// Returns the HTTP status of the response, if the error is about one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. }
            | Self::ImmutableTag { status, .. }
            | Self::Unsupported { status, .. }
            | Self::ForeignLayers { status, .. }
            | Self::ClientCertificate { status, .. }
            | Self::Whole { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// Returns whether the registry denied access. Many registries also respond like that for a repository that does not
    /// exist.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Credentials { .. } | Self::LoginNeeded { .. } => true,
            _ => match self.status() {
                Some(401) => true,
                Some(403) => self.code() != Some("TOOMANYREQUESTS"),
                _ => false,
            },
        }
    }

    /// Returns whether the certificate of the registry is not accepted: it has expired, or no trusted authority signed it.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        match self {
            Self::Transport { source, .. } => advice::is_certificate(source),
            _ => false,
        }
    }

    /// Returns the error code of the registry, such as `MANIFEST_UNKNOWN`, if the response had one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Status { code, .. }
            | Self::ImmutableTag { code, .. }
            | Self::Unsupported { code, .. }
                if !code.is_empty() =>
            {
                Some(code)
            }
            _ => None,
        }
    }

    /// Returns whether a registry that has a manifest refuses it a tag because parts of it are missing: by the codes of the
    /// distribution-spec, of which registries use several here. It accepted the same bytes before, so they are not invalid.
    pub(crate) fn is_of_incomplete_content(&self) -> bool {
        let codes = [
            "BLOB_UNKNOWN",
            "MANIFEST_BLOB_UNKNOWN",
            "MANIFEST_INVALID",
            "MANIFEST_UNKNOWN",
        ];
        self.code().is_some_and(|code| codes.contains(&code))
    }

    /// Returns whether content is missing or does not match its digest.
    pub(crate) fn is_wrong_or_missing(&self) -> bool {
        self.status() == Some(404) || matches!(self, Self::Digest { .. })
    }

    /// Returns whether the registry reports an expired login. There is no code for that.
    pub(crate) fn says_expired(&self) -> bool {
        let Self::Status {
            status,
            code,
            message,
            ..
        } = self
        else {
            return false;
        };
        let says = |text: &str| text.to_ascii_lowercase().contains("expired");
        *status == StatusCode::FORBIDDEN && (says(code) || says(message))
    }

    pub(crate) fn protocol(subject: &Subject, reason: impl Into<String>) -> Self {
        Self::Protocol {
            subject: subject.clone(),
            reason: reason.into(),
        }
    }
}

fn manifests(limit: Option<u64>) -> String {
    limit.map_or_else(
        || "some manifests".to_owned(),
        |limit| format!("{limit} manifests"),
    )
}

/// Formats a window in its largest whole unit.
fn period(window: Duration) -> String {
    match window.as_secs() {
        seconds if seconds > 0 && seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        seconds if seconds > 0 && seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

fn detail(code: &str, message: &str) -> String {
    match (code, message) {
        ("", "") => String::new(),
        ("", message) => format!(": {message}"),
        (code, "") => format!(": {code}"),
        (code, message) => format!(": {code}: {message}"),
    }
}

/// Returns the innermost cause: the text of reqwest is little more than "error sending request".
fn cause(error: &reqwest::Error, advice: &str) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = crate::text::clean(&last.to_string());
    if !advice.is_empty() {
        return format!("{text}: {advice}");
    }
    // Texts of hyper for a response that does not begin with HTTP/1, after and before the request was sent.
    let foreign = ["invalid HTTP version", "unexpected message from connection"];
    if foreign.iter().any(|words| text.contains(words)) {
        return format!(
            "{text}: the response is not HTTP/1.1. A registry with only HTTP/2 without TLS is not supported; serve it \
             with TLS, or with HTTP/1.1 as well"
        );
    }
    text
}
