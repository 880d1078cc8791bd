//! The error of a copy.

use crate::Registry;
use crate::error::{RegistryError, Retry, public};
use crate::manifest::ManifestError;
use crate::platform::Platform;
use oci_spec::image::Digest;

/// The error of a copy. The target has no new tag then. Blobs and manifests that it already got are skipped by the next
/// attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The source does not have the image.
    #[error("cannot copy {object}: the source does not have it; check the name")]
    SourceMissing {
        /// `host/repository:tag` or `host/repository@digest`.
        object: String,
    },
    /// The source has the image, but not everything that it names.
    #[error(
        "the image is incomplete at the source: manifest {parent} names {missing}, which the source does not have; push it \
         there again"
    )]
    SourceIncomplete {
        /// Digest of the manifest that names the missing part.
        parent: Digest,
        /// Digest of the missing part.
        missing: Digest,
    },
    /// A request to the source failed.
    #[error("source: {0}")]
    Source(#[source] RegistryError),
    /// A request to the target failed.
    #[error("target: {0}")]
    Target(#[source] RegistryError),
    /// The content of a blob at the source does not match its digest, twice in a row. Nothing of it was committed at the
    /// target.
    #[error(
        "blob {object} is corrupt at the source: its content has the digest {actual}; push it there again"
    )]
    BlobDigest {
        /// `host/repository@digest`.
        object: String,
        /// Digest of the content that was received.
        actual: String,
    },
    /// A manifest cannot be used.
    #[error("cannot copy manifest {object}: {source}")]
    Manifest {
        /// `host/repository@digest`.
        object: String,
        /// The cause.
        source: ManifestError,
    },
    /// A wanted platform is not among those of the image.
    #[error("the image {object} does not exist for {platform}, only for: {offered}")]
    NoSuchPlatform {
        /// `host/repository@digest`.
        object: String,
        /// The wanted platform.
        platform: Platform,
        /// The platforms of the image, cut to 20.
        offered: String,
    },
    /// The image is larger than [`CopyOptions::max_bytes`](super::CopyOptions::max_bytes).
    #[error(
        "the image {object} is larger than the limit of {limit} bytes: its layers, and those of its referrers, have at \
         least {bytes}; {advice}"
    )]
    TooLarge {
        /// `host/repository@digest` of the manifest that exceeds the limit.
        object: String,
        /// Total of the blobs that were counted so far, in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
        /// The remedy, in the words of [`RegistryOptions::advice`](crate::RegistryOptions::advice).
        advice: String,
    },
    /// A list of referrers has entries that cannot be used.
    #[error(
        "{count} entries of the list of referrers of {object} name no manifest whose content can be verified"
    )]
    UnusableReferrers {
        /// `host/repository@digest` of the manifest that they refer to.
        object: String,
        /// Number of unusable entries.
        count: usize,
    },
    /// An entry of a list of referrers refers to another manifest.
    #[error("{object} is listed as a referrer of {subject}, but refers to another manifest")]
    OtherSubject {
        /// `host/repository@digest` of the entry.
        object: String,
        /// Digest of the manifest whose list has the entry.
        subject: Digest,
    },
    /// The image exceeds a limit that bounds memory and requests, and that no option raises.
    #[error("the image {object} exceeds a limit: {limit}")]
    Limit {
        /// `host/repository@digest`.
        object: String,
        /// Description of the limit.
        limit: &'static str,
    },
}

impl CopyError {
    /// Returns whether the same copy may succeed later.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Source(error) | Self::Target(error) => error.retry(),
            _ => Retry::Permanent,
        }
    }

    /// Returns one sentence for the user who named the image, without details of connections: the [`Display`] text is for
    /// the operator. `source` is the registry that the image was copied from.
    ///
    /// [`Display`]: std::fmt::Display
    #[must_use]
    pub fn public_text(&self, source: &Registry) -> String {
        const REGISTRY: &str = "the registry";
        match self {
            Self::Target(error) => error.public_text("the backup registry"),
            _ if !source.has_public_errors() => public::unreachable(REGISTRY),
            Self::Source(error) => error.public_text(REGISTRY),
            Self::SourceMissing { .. } => public::missing(REGISTRY),
            // Properties of the content, in words of this crate.
            _ => self.to_string(),
        }
    }
}
