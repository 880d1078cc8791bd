//! Registry client and copy engine: copies an image from any OCI registry to any other.
//!
//! Everything is streamed: nothing is written to disk, and memory is bounded for any size of image. Manifests are copied
//! byte for byte, so digests never change. A digest is verified before the target can commit the blob, manifests are pushed
//! after everything that they name, and the tag is written last, so a failed copy has no tag.
//!
//! The crate knows neither Kubernetes nor the names and settings of the program that uses it.
//!
//! - [`Registries`] has one [`Registry`] per host (connections, tokens, back-pressure).
//! - [`copy()`] copies a [`Source`] to a [`Target`] and returns a [`CopyReport`].
//! - [`Verifier`] verifies images where they are, and writes nothing.
//! - [`RegistryError::retry`] and [`CopyError::retry`] return whether to retry.
//! - [`Remedy`] names the setting that makes a refused request succeed.

#![warn(missing_docs)]
// No panic is reachable from outside: exceptions have a reason in `#[expect(..., reason = "...")]`.
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
#[path = "../fuzz/src/fuzzing.rs"]
pub mod fuzzing;
mod hash;
mod json;
mod lock;
mod manifest;
mod platform;
mod reference;
mod registries;
mod registry;
mod text;
mod verify;

pub use address_policy::{PrivateHosts, Resolver, SystemResolver};
pub use copy::{
    CopyError, CopyOptions, CopyReport, DigestTag, Event, ListedReferrers, MissingBlob, Presence,
    Preview, Progress, Source, Target, copy, preview,
};
pub use credentials::{
    Credential, CredentialError, Credentials, DockerConfig, Login, read_password_file,
};
pub use error::{Operation, RegistryError, Remedy, Retry, Subject};
pub use hash::sha256;
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
    BlobReader, Completeness, ImageContents, LastFailure, Manifest, PartsQuery, RateLimit,
    Registry, Resolved,
};
pub use text::is_printable;
pub use verify::{Damage, DamageKind, Verified, Verifier, VerifyCounters, VerifyOptions};
