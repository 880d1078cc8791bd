//! Why registries cannot be set up.

use std::path::PathBuf;

/// Registries could not be set up, or a host cannot be one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// An extra root certificate cannot be read.
    #[error("extra root certificate {number} cannot be used: {reason}")]
    Certificate {
        /// Which one of the list, from 1.
        number: usize,
        /// Why.
        reason: String,
    },
    /// The certificates of a registry, in [`RegistryOptions::certificates`], cannot be used.
    #[error("{}: {reason}", path.display())]
    HostCertificates {
        /// The file or folder.
        path: PathBuf,
        /// Says nothing of what a key's file holds.
        reason: String,
    },
    /// Not `host` or `host:port`.
    #[error("{0:?} is not a registry host (want host or host:port)")]
    Host(String),
    /// A host in a private network that was not allowed.
    #[error(
        "registry {0} is in a private network; the operator can allow it with --private-registry {0}, or with \
         --insecure-registry for plain HTTP"
    )]
    Private(String),
    /// The TLS or HTTP client cannot be made.
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}
