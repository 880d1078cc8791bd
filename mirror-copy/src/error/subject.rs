//! The operation and the object of a request.

use std::fmt;

/// The operation of a request. Its [`Display`](fmt::Display) text is a verb, such as `read manifest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// `GET /v2/`.
    Ping,
    /// `HEAD` or `GET` of a manifest.
    ReadManifest,
    /// `PUT` of a manifest.
    WriteManifest,
    /// `HEAD` of a blob.
    FindBlob,
    /// `GET` of a blob.
    ReadBlob,
    /// `POST` that opens an upload session or mounts a blob.
    StartUpload,
    /// `PUT` or `PATCH` that fills an upload session, and `PUT` that closes it.
    WriteBlob,
    /// `DELETE` of an upload session.
    CancelUpload,
    /// `GET` of a list of tags.
    ListTags,
    /// `GET` of the list of repositories.
    ListRepositories,
    /// `GET` of a list of referrers.
    ListReferrers,
    /// A request to the token service.
    Token,
}

impl Operation {
    /// Returns whether the request changes something at the registry.
    pub(crate) fn is_write(self) -> bool {
        matches!(
            self,
            Self::WriteManifest | Self::StartUpload | Self::WriteBlob | Self::CancelUpload
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping => "reach",
            Self::ReadManifest => "read manifest",
            Self::WriteManifest => "write manifest",
            Self::FindBlob => "check blob",
            Self::ReadBlob => "read blob",
            Self::StartUpload => "start upload of",
            Self::WriteBlob => "write blob",
            Self::CancelUpload => "cancel upload of",
            Self::ListTags => "list tags of",
            Self::ListRepositories => "list the repositories of",
            Self::ListReferrers => "list referrers of",
            Self::Token => "get a token for",
        })
    }
}

/// The operation and the object of a request, for errors: `read manifest ghcr.io/acme/app:1`.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The operation.
    pub operation: Operation,
    /// `host/repository:tag`, `host/repository@digest` or `registry host`.
    pub object: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation, self.object)
    }
}
