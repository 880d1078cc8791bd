//! Errors of looking up credentials.

use crate::error::retry::Retry;
use std::path::PathBuf;
use std::sync::Arc;

/// The error of looking up credentials. A broken configuration is always an error, never anonymous access.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A password file cannot be read.
    #[error("cannot read the password file {}: {source}", .path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// The cause; shared, because every waiting caller gets the error.
        source: Arc<std::io::Error>,
    },
    /// The docker configuration cannot be read.
    #[error("cannot read the docker configuration {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause; shared, because every waiting caller gets the error.
        source: Arc<std::io::Error>,
    },
    /// The docker configuration cannot be parsed.
    #[error(
        "the docker configuration {} is malformed at line {line}, column {column}",
        .path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line of the first fault, from 1.
        line: usize,
        /// Column of the first fault, from 1.
        column: usize,
    },
    /// An entry of the docker configuration cannot be used.
    #[error("the docker configuration {} has an unusable entry for {host}: {reason}", .path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The key of the entry.
        host: String,
        /// The cause.
        reason: &'static str,
    },
    /// A credential helper failed.
    #[error("the credential helper docker-credential-{helper} failed for {host}: {reason}")]
    Helper {
        /// Name of the helper in the configuration.
        helper: String,
        /// The registry.
        host: String,
        /// The cause, or the output of the helper, cleaned and cut.
        reason: String,
    },
}

impl CredentialError {
    /// Returns whether a retry may succeed: helpers access clouds, and files are replaced while they are read.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Helper { .. } | Self::Password { .. } => Retry::SOON,
            _ => Retry::Permanent,
        }
    }
}
