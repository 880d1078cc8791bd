//! Errors of looking up credentials.

use crate::error::retry::Retry;
use std::path::PathBuf;
use std::sync::Arc;

/// The credentials of a host could not be looked up. A broken configuration is never read as "no
/// credentials".
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The file with a password cannot be read.
    #[error("cannot read the password file {}: {source}", .path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// Why; shared, because the error is handed to every waiting caller.
        source: Arc<std::io::Error>,
    },
    /// The file cannot be read.
    #[error("cannot read the docker configuration {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why; shared, because the error is handed to every waiting caller.
        source: Arc<std::io::Error>,
    },
    /// The file is not a docker configuration.
    #[error(
        "the docker configuration {} is malformed at line {line}, column {column}",
        .path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where the reader stopped.
        line: usize,
        /// Where the reader stopped.
        column: usize,
    },
    /// The entry of this host cannot be used.
    #[error("the docker configuration {} has an unusable entry for {host}: {reason}", .path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The registry.
        host: String,
        /// Why.
        reason: &'static str,
    },
    /// A credential helper failed.
    #[error("the credential helper docker-credential-{helper} failed for {host}: {reason}")]
    Helper {
        /// The helper's name, as in the configuration.
        helper: String,
        /// The registry.
        host: String,
        /// The helper's output, cleaned and bounded.
        reason: String,
    },
}

impl CredentialError {
    /// Whether looking again may help: helpers talk to clouds, and files are replaced while read.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Helper { .. } | Self::Password { .. } => Retry::SOON,
            _ => Retry::Permanent,
        }
    }
}
