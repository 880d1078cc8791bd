//! Why a copy failed.

use crate::Registry;
use crate::error::{RegistryError, Retry, public};
use crate::manifest::ManifestError;
use crate::platform::Platform;
use oci_spec::image::Digest;

/// A copy failed. The target has no new tag then; what it already got will be skipped by the next
/// try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The source does not have the image.
    #[error("the source has no {object}")]
    SourceMissing {
        /// `host/repository:tag` or `host/repository@digest`.
        object: String,
    },
    /// The source has the image, but not everything that it names.
    #[error("the source's image is incomplete: {parent} names {missing}, which is not there")]
    SourceIncomplete {
        /// The manifest that names it.
        parent: Digest,
        /// What is missing.
        missing: Digest,
    },
    /// The source could not be read.
    #[error("source: {0}")]
    Source(#[source] RegistryError),
    /// The target could not be written.
    #[error("target: {0}")]
    Target(#[source] RegistryError),
    /// A blob of the source is not what its digest says, twice in a row. Nothing of it was
    /// committed at the target.
    #[error("the source's blob {object} is corrupt: its content has the digest {actual}")]
    BlobDigest {
        /// `host/repository@digest`.
        object: String,
        /// The digest of what came.
        actual: String,
    },
    /// A manifest of the source is not usable.
    #[error("cannot copy manifest {object}: {source}")]
    Manifest {
        /// `host/repository@digest`.
        object: String,
        /// Why.
        source: ManifestError,
    },
    /// A wanted platform is not among those of the image.
    #[error("the image {object} is not there for {platform}, only for: {offered}")]
    NoSuchPlatform {
        /// `host/repository@digest`.
        object: String,
        /// What was wanted.
        platform: Platform,
        /// What there is.
        offered: String,
    },
    /// The image is larger than [`CopyOptions::max_bytes`](super::CopyOptions::max_bytes).
    #[error(
        "the image {object} is larger than the limit of {limit} bytes: its layers, and those of what refers to it, have at \
         least {bytes}; the operator can raise --max-image-size"
    )]
    TooLarge {
        /// `host/repository@digest` of the manifest that goes beyond the limit.
        object: String,
        /// What was added up so far.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A list of referrers has entries that cannot be used.
    #[error(
        "{count} entries of the list of referrers of {object} name no manifest whose content could be verified"
    )]
    UnusableReferrers {
        /// `host/repository@digest` of the manifest that they refer to.
        object: String,
        /// How many of the entries that were read.
        count: usize,
    },
    /// An entry of a list of referrers refers to another manifest.
    #[error("{object} is listed as a referrer of {subject}, but refers to another manifest")]
    OtherSubject {
        /// `host/repository@digest` of the entry.
        object: String,
        /// The manifest whose list it is in.
        subject: Digest,
    },
    /// The image is deeper or larger than anything sane.
    #[error("the image {object} goes beyond a limit: {limit}")]
    Limit {
        /// `host/repository@digest`.
        object: String,
        /// Which one.
        limit: &'static str,
    },
}

impl CopyError {
    /// Whether the same copy may succeed later.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Source(error) | Self::Target(error) => error.retry(),
            _ => Retry::Permanent,
        }
    }

    /// Returns one sentence for whoever named the image, without details of connections. [`Self`]'s own text is for the
    /// operator.
    #[must_use]
    pub fn public_text(&self, source: &Registry) -> String {
        const REGISTRY: &str = "the registry";
        match self {
            Self::Target(error) => error.public_text("the backup registry"),
            _ if !source.has_public_errors() => public::unreachable(REGISTRY),
            Self::Source(error) => error.public_text(REGISTRY),
            Self::SourceMissing { .. } => public::missing(REGISTRY),
            // Properties of the content, in words of our own.
            _ => self.to_string(),
        }
    }

    /// Whether the source lacks the image or part of it, as opposed to being unreachable.
    #[must_use]
    pub fn is_source_missing(&self) -> bool {
        matches!(
            self,
            Self::SourceMissing { .. } | Self::SourceIncomplete { .. }
        )
    }
}
