//! Registry client and copy engine: copies an image from any OCI registry to any other.
//!
//! Everything is streamed: nothing touches the disk and memory stays bounded whatever the image's
//! size. Manifests travel byte for byte, so digests never change. A digest is verified before the
//! target can commit the blob, manifests are pushed after everything they name, and the tag comes
//! last: what fails half way has no tag.
//!
//! The crate knows nothing of Kubernetes, and it decides nothing about which image goes where.
//!
//! - [`Registries`] makes one [`Registry`] per host (connections, tokens, back-pressure).
//! - [`copy()`] copies a [`Source`] to a [`Target`] and answers with a [`CopyReport`].
//! - [`RegistryError::retry`] and [`CopyError::retry`] say whether trying again makes sense.

#![warn(missing_docs)]
// No panic is reachable from outside: code that cannot avoid one says why with `#[expect(..., reason = "...")]`.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod address_policy;
mod copy;
mod credentials;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod hash;
mod json;
mod manifest;
mod platform;
mod reference;
mod registries;
mod registry;
mod text;

pub use address_policy::{PrivateHosts, Resolver, SystemResolver};
pub use copy::{
    CopyError, CopyOptions, CopyReport, DigestTag, Event, ListedReferrers, Progress, Source,
    Target, copy,
};
pub use credentials::{Credential, CredentialError, Credentials, DockerConfig, Login};
pub use error::{Operation, RegistryError, Retry, Subject};
pub use ipnet::IpNet;
pub use manifest::{Descriptor, ManifestError};
pub use oci_spec::image::Digest;
pub use platform::{Platform, PlatformError};
pub use reference::TagOrDigest;
pub use registries::{
    MemoryPlace, MetadataBudget, Registries, RegistryOptions, RetryPolicy, SetupError, Timeouts,
    Traffic,
};
pub use registry::{
    BlobReader, Completeness, LastFailure, Manifest, PartsQuery, RateLimit, Registry, Resolved,
};
pub use text::is_printable;
