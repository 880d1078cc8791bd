//! What a copy tells while it runs.

use super::error::CopyError;
use crate::registries::MemoryPlace;
use oci_spec::image::Digest;

/// Hears what happens. Called from within the copy: it must return quickly and not block.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// Hears nothing.
impl Progress for () {
    fn event(&self, _: Event<'_>) {}
}

/// One thing that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The root manifest, or its digest, was requested from the source. Until [`Event::SourceResponded`] a copy that makes
    /// no progress waits for its source.
    SourceRequested,
    /// The source responded with the root manifest or its digest.
    SourceResponded,
    /// Sent about four times a second for each blob that is being sent.
    Waiting {
        /// The source is waited for at this moment, not the target.
        on_source: bool,
    },
    /// Sent about four times a second for each blob whose first byte the source holds back for more than seconds.
    WaitingForSource {
        /// The blob.
        digest: &'a Digest,
    },
    /// Sent about four times a second while the copy waits for memory for manifests that other copies of this process hold
    /// ([`crate::MetadataBudget`]).
    WaitingForMemory(MemoryPlace),
    /// The copy has more memory for manifests than everybody has, until it ends.
    HoldsMemory(MemoryPlace),
    /// The source's reference stands for this digest.
    Resolved {
        /// The root manifest.
        digest: &'a Digest,
    },
    /// All manifests of an image, or of something that refers to it, were read: so much more there is to
    /// do.
    Planned {
        /// Different blobs, those that the target may already have included.
        blobs: u64,
        /// Their size in bytes.
        bytes: u64,
        /// Manifests to push.
        manifests: u64,
    },
    /// The target has this manifest and everything below it.
    ManifestSkipped {
        /// The manifest.
        digest: &'a Digest,
    },
    /// The target has this blob.
    BlobSkipped {
        /// The blob.
        digest: &'a Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// The target took this blob from another of its repositories.
    BlobMounted {
        /// The blob.
        digest: &'a Digest,
        /// Its size in bytes.
        size: u64,
        /// The repository that it came from.
        from: &'a str,
    },
    /// Sending of this blob begins, again after a [`Event::BlobFailed`].
    BlobStarted {
        /// The blob.
        digest: &'a Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// An attempt to send this blob failed and will be made again.
    BlobFailed {
        /// The blob.
        digest: &'a Digest,
        /// How many bytes of the attempt were reported: they will be sent again.
        bytes: u64,
        /// Why.
        error: &'a CopyError,
    },
    /// This blob is at the target, verified.
    BlobCopied {
        /// The blob.
        digest: &'a Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// So many more bytes of blobs went to the target; those of failed attempts count, too.
    Bytes {
        /// The blob.
        digest: &'a Digest,
        /// How many more.
        bytes: u64,
    },
    /// This manifest is at the target by its digest.
    ManifestPushed {
        /// The manifest.
        digest: &'a Digest,
    },
    /// Something that refers to the image is at the target.
    ReferrerCopied {
        /// What it refers to.
        subject: &'a Digest,
        /// Its manifest.
        digest: &'a Digest,
    },
    /// Something that refers to the image cannot be copied; the image is copied without it.
    ReferrerLeftOut {
        /// What it refers to.
        subject: &'a Digest,
        /// Why.
        error: &'a CopyError,
    },
    /// The copy has this tag now.
    Tagged {
        /// The tag.
        tag: &'a str,
        /// The root manifest.
        digest: &'a Digest,
    },
}
