//! What can go wrong with one registry, and whether trying again makes sense.

pub(crate) mod public;
mod response;
pub(crate) mod retry;
mod status;
mod subject;
mod tls;

pub use retry::Retry;
pub use subject::{Operation, Subject};

use crate::credentials::CredentialError;
use crate::manifest::ManifestError;
use reqwest::StatusCode;
use retry::{status_retry, transport_retry};
pub(crate) use status::{BAD_CLIENT_CERTIFICATE, NO_CLIENT_CERTIFICATE};
use std::time::Duration;
pub(crate) use tls::CA_AS_SERVER;

/// A call to a registry failed. No variant ever holds a password, a token or a query string.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry answered with an error status.
    #[error(
        "cannot {subject}: the registry answered {status}{}{}",
        detail(.code, .message), status::advice(subject.operation, *status, .code, .message)
    )]
    Status {
        /// What was tried.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
        /// The registry's own error code (distribution-spec, "Error Codes"), or empty.
        code: String,
        /// The registry's own message, cleaned and cut to 300 characters, or empty.
        message: String,
        /// `Retry-After`, if the answer had one.
        retry_after: Option<Duration>,
    },
    /// The tag is at the registry already, as another manifest, and must stay what it is.
    #[error(
        "cannot {subject}: the registry does not let this tag be overwritten ({status}{}); choose another \
         tag, or allow tags to change there", detail(.code, .message)
    )]
    ImmutableTag {
        /// What was tried.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
        /// The registry's own error code, or empty.
        code: String,
        /// The registry's own message, cleaned and cut, or empty.
        message: String,
    },
    /// The registry does not take manifests of this media type, or digests of this algorithm.
    #[error(
        "cannot {subject}: the registry does not support this kind of content ({status}{})",
        detail(.code, .message)
    )]
    Unsupported {
        /// What was tried.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
        /// The registry's own error code, or empty.
        code: String,
        /// The registry's own message, cleaned and cut, or empty.
        message: String,
    },
    /// The registry said before that it lets no more manifests be read for now. It was not asked again.
    #[error(
        "cannot {subject}: registry {host} lets {} be read in {}, and they are used up: \
         log in to it for a higher limit, or wait {} s", manifests(*.limit), period(*.window), .after.as_secs_f64().ceil()
    )]
    Quota {
        /// The registry.
        host: String,
        /// What was not tried.
        subject: Subject,
        /// How many may be read in a window, if the registry says that.
        limit: Option<u64>,
        /// How long a window is.
        window: Duration,
        /// When one request may try again.
        after: Duration,
    },
    /// The configured credentials were refused. They are never replaced by an anonymous try.
    #[error("registry {host} refused the credentials of user {user}: check them")]
    Credentials {
        /// The registry.
        host: String,
        /// The user name that was sent.
        user: String,
    },
    /// The registry wants a login and none is configured.
    #[error("registry {host} wants a login to {subject}, and no credentials are configured for it")]
    LoginNeeded {
        /// The registry.
        host: String,
        /// What was tried.
        subject: Subject,
    },
    /// The login was no longer accepted when a body was sent. The next attempt has a new one.
    #[error("cannot {subject}: the login to registry {host} had to be renewed")]
    Expired {
        /// The registry.
        host: String,
        /// What was tried.
        subject: Subject,
    },
    /// The credentials could not be looked up.
    #[error(transparent)]
    Lookup(#[from] CredentialError),
    /// The registry's authentication challenge or its token service cannot be used.
    #[error("cannot log in to registry {host}: {reason}")]
    Challenge {
        /// The registry.
        host: String,
        /// Why.
        reason: String,
    },
    /// The connection failed or broke.
    #[error("cannot {subject} ({url}): {}", cause(.source))]
    Transport {
        /// What was tried.
        subject: Subject,
        /// The address, without its query.
        url: String,
        /// The cause; it carries no address.
        source: reqwest::Error,
    },
    /// Nothing moved for too long.
    #[error("cannot {subject}: nothing came from the other side for {} s", .after.as_secs_f32())]
    Timeout {
        /// What was tried.
        subject: Subject,
        /// How long was waited.
        after: Duration,
    },
    /// A manifest, list or token response did not end in time.
    #[error("cannot {subject}: the response did not end within {} s", .after.as_secs())]
    Unfinished {
        /// What was tried.
        subject: Subject,
        /// The limit.
        after: Duration,
    },
    /// Too little came for too long, while others waited for what the transfer takes.
    #[error(
        "cannot {subject}: only {moved} bytes came in {} s while images of other registries waited; it is tried again \
         with less at a time", .within.as_secs()
    )]
    Slow {
        /// What was tried.
        subject: Subject,
        /// Bytes that came.
        moved: u64,
        /// In which time.
        within: Duration,
    },
    /// The body ended before its time. A reader resumes by itself; this is what is left after that.
    #[error("cannot {subject}: the connection ended after {got} of {expected} bytes")]
    Cut {
        /// What was tried.
        subject: Subject,
        /// Bytes received.
        got: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// A redirect that must not be followed.
    #[error("cannot {subject}: {reason}")]
    Redirect {
        /// What was tried.
        subject: Subject,
        /// Why it is not followed.
        reason: String,
    },
    /// The host has no address that may be connected to.
    #[error("cannot {subject}: {reason}")]
    Address {
        /// What was tried.
        subject: Subject,
        /// Which address it has, and how it can be allowed.
        reason: String,
    },
    /// The body is larger than this client reads.
    #[error("cannot {subject}: it is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was tried.
        subject: Subject,
        /// The limit in bytes.
        limit: u64,
    },
    /// What the image's manifests and lists take in memory is more than one copy may have.
    #[error(
        "cannot {subject}: with it the manifests of this image exceed the limit of {limit} bytes of memory"
    )]
    MemoryBudget {
        /// What was tried.
        subject: Subject,
        /// The limit in bytes.
        limit: u64,
    },
    /// The content is not what its digest says.
    #[error("cannot {subject}: its content has the digest {actual}, not {expected}")]
    Digest {
        /// What was tried.
        subject: Subject,
        /// The digest asked for.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// The content has another size than its descriptor says.
    #[error("cannot {subject}: it has {actual} bytes, its descriptor says {expected}")]
    Size {
        /// What was tried.
        subject: Subject,
        /// The descriptor's size.
        expected: u64,
        /// The real size, or as much of it as was seen.
        actual: u64,
    },
    /// The digest's algorithm is unknown, so its content cannot be verified.
    #[error(
        "cannot {subject}: the digest algorithm is not known here (sha256, sha384 and sha512 are)"
    )]
    Algorithm {
        /// What was tried.
        subject: Subject,
    },
    /// The manifest was received and is not usable.
    #[error("cannot use manifest {object}: {source}")]
    Manifest {
        /// `host/repository:tag` or `host/repository@digest`.
        object: String,
        /// Why.
        source: ManifestError,
    },
    /// Not a repository, tag or digest that can be part of a registry address.
    #[error("{0:?} is not a valid repository, tag or digest")]
    Name(String),
    /// The registry refuses a blob in one request, or a chunk of it. The next attempt sends it in chunks, or in smaller
    /// ones.
    #[error(
        "cannot {subject} in one request: the registry answered {status}; it is to be sent in (smaller) chunks"
    )]
    Whole {
        /// What was tried.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
    },
    /// An upload session has less than was sent to it.
    #[error("cannot {subject}: the registry kept {kept} of {sent} bytes")]
    Lost {
        /// What was tried.
        subject: Subject,
        /// Bytes that the session has.
        kept: u64,
        /// Bytes that it was sent.
        sent: u64,
    },
    /// The registry refuses a manifest because of layers that have addresses of their own.
    #[error(
        "cannot {subject}: the registry responds {status} to its foreign layers ({layers}), whose addresses it does not \
         allow; allow them at the registry (distribution: validation.manifests.urls.allow)"
    )]
    ForeignLayers {
        /// What was tried.
        subject: Subject,
        /// The HTTP status.
        status: StatusCode,
        /// The digests of the first ones.
        layers: String,
    },
    /// The registry accepted a manifest and does not show it.
    #[error(
        "cannot {subject}: the registry accepted this manifest, and {} s later it {shown}; check its storage, its \
         clean-up rules, and any proxy before it", .within.as_secs_f32()
    )]
    NotKept {
        /// What was tried.
        subject: Subject,
        /// How long it was waited for.
        within: Duration,
        /// What the registry shows in its place.
        shown: String,
    },
    /// Somebody else changes the same thing at the same time.
    #[error("cannot {subject}: somebody else keeps changing it at the same time")]
    Contended {
        /// What was tried.
        subject: Subject,
    },
    /// The registry broke the protocol.
    #[error("cannot {subject}: {reason}")]
    Protocol {
        /// What was tried.
        subject: Subject,
        /// What was wrong.
        reason: String,
    },
}

impl RegistryError {
    /// Whether the same call may succeed later. One table for the whole crate.
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

    /// The HTTP status of the answer, where there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. }
            | Self::ImmutableTag { status, .. }
            | Self::Unsupported { status, .. }
            | Self::ForeignLayers { status, .. }
            | Self::Whole { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// Whether the registry refused access. Many respond like that to a request for what they do not have, too.
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

    /// Whether the certificate of the registry is not accepted: it has expired, or nothing trusted here signed it.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        match self {
            Self::Transport { source, .. } => tls::is_certificate(source),
            _ => false,
        }
    }

    /// The registry's own error code, where the answer had one, such as `MANIFEST_UNKNOWN`.
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

    /// Whether a registry that has a manifest refuses it a tag because what it names is missing: by the codes of the
    /// distribution-spec, of which registries use several here. It took the same bytes before, so they are not invalid.
    pub(crate) fn is_of_incomplete_content(&self) -> bool {
        let codes = [
            "BLOB_UNKNOWN",
            "MANIFEST_BLOB_UNKNOWN",
            "MANIFEST_INVALID",
            "MANIFEST_UNKNOWN",
        ];
        self.code().is_some_and(|code| codes.contains(&code))
    }

    /// Whether content is not there, or not what its digest says.
    pub(crate) fn is_wrong_or_missing(&self) -> bool {
        self.status() == Some(404) || matches!(self, Self::Digest { .. })
    }

    /// Whether the registry says that the login is too old. There is no code for that.
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

/// How many manifests a quota allows.
fn manifests(limit: Option<u64>) -> String {
    limit.map_or_else(
        || "some manifests".to_owned(),
        |limit| format!("{limit} manifests"),
    )
}

/// A window in its largest whole unit.
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

/// The innermost cause: reqwest's own text says little more than "error sending request".
fn cause(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = crate::text::clean(&last.to_string());
    if let Some(advice) = tls::advice(error) {
        return format!("{text}: {advice}");
    }
    // What hyper says of a response that does not begin with HTTP/1, after and before the request was sent.
    let foreign = ["invalid HTTP version", "unexpected message from connection"];
    if foreign.iter().any(|words| text.contains(words)) {
        return format!(
            "{text}: this is no response in HTTP/1.1. A registry that speaks only HTTP/2 without TLS is not supported; \
             serve it by TLS, or by HTTP/1.1 as well"
        );
    }
    text
}
