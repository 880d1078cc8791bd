//! Errors of setting up registries.

use std::path::PathBuf;

/// The error of setting up [`Registries`](crate::Registries), or of a host that cannot be accessed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A file of [`extra_root_certificates_pem`](crate::RegistryOptions::extra_root_certificates_pem) cannot be used.
    #[error("cannot use extra root certificate {number}: {reason}")]
    Certificate {
        /// Number of the file, from 1.
        number: usize,
        /// The cause.
        reason: String,
    },
    /// A file below [`certificates`](crate::RegistryOptions::certificates) cannot be used.
    #[error("{}: {reason}", path.display())]
    HostCertificates {
        /// The file or folder.
        path: PathBuf,
        /// The cause, without any content of a key file.
        reason: String,
    },
    /// The name is not `host` or `host:port`.
    #[error("{0:?} is not a registry host; it must be host or host:port")]
    Host(String),
    /// The name is private and not allowed by [`PrivateHosts`](crate::PrivateHosts).
    #[error("registry {host} is in a private network; {advice}")]
    Private {
        /// The registry.
        host: String,
        /// The remedy, in the words of [`RegistryOptions::advice`](crate::RegistryOptions::advice).
        advice: String,
    },
    /// The TLS or HTTP client cannot be created.
    #[error("cannot create the HTTP client: {0}")]
    Client(String),
}
