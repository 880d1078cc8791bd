//! Events of a running copy.

use super::error::CopyError;
use crate::registries::MemoryPlace;
use oci_spec::image::Digest;

/// Receives the events of a copy, for a progress display or for metrics.
pub trait Progress: Send + Sync {
    /// Handles one event. It is called from within the copy, from several tasks: it must return quickly and not block.
    fn event(&self, event: Event<'_>);
}

/// Ignores all events.
impl Progress for () {
    fn event(&self, _: Event<'_>) {}
}

/// An event of a running copy.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The root manifest, or its digest, was requested from the source. A copy without progress waits for its source until
    /// [`Event::SourceResponded`].
    SourceRequested,
    /// The source responded with the root manifest or its digest.
    SourceResponded,
    /// Emitted every 250 ms for each blob that is being sent.
    Waiting {
        /// The blob waits for the source, not for the target.
        on_source: bool,
    },
    /// Emitted every 250 ms for each blob whose first byte the source holds back for more than 5 s.
    WaitingForSource {
        /// Digest of the blob.
        digest: &'a Digest,
    },
    /// Emitted every 250 ms while the copy waits for memory for manifests that other copies of this process hold
    /// ([`crate::MetadataBudget`]).
    WaitingForMemory(MemoryPlace),
    /// The copy holds more memory for manifests than every copy may hold without waiting, until it ends.
    HoldsMemory(MemoryPlace),
    /// The reference of the source was resolved.
    Resolved {
        /// Digest of the root manifest.
        digest: &'a Digest,
    },
    /// All manifests of the image, or of one of its referrers, were read. The numbers add to those of earlier events.
    Planned {
        /// Number of different blobs, including those that the target may already have.
        blobs: u64,
        /// Total size of these blobs in bytes.
        bytes: u64,
        /// Number of manifests to push.
        manifests: u64,
    },
    /// The target already has this manifest and everything below it.
    ManifestSkipped {
        /// Digest of the manifest.
        digest: &'a Digest,
    },
    /// The target already has this blob.
    BlobSkipped {
        /// Digest of the blob.
        digest: &'a Digest,
        /// Size in bytes.
        size: u64,
    },
    /// The target mounted this blob from another of its repositories.
    BlobMounted {
        /// Digest of the blob.
        digest: &'a Digest,
        /// Size in bytes.
        size: u64,
        /// The repository that it was mounted from.
        from: &'a str,
    },
    /// Sending this blob starts, also after each [`Event::BlobFailed`].
    BlobStarted {
        /// Digest of the blob.
        digest: &'a Digest,
        /// Size in bytes.
        size: u64,
    },
    /// An attempt to send this blob failed and is repeated.
    BlobFailed {
        /// Digest of the blob.
        digest: &'a Digest,
        /// Bytes of this attempt that were reported as [`Event::Bytes`]; they are sent again.
        bytes: u64,
        /// The cause.
        error: &'a CopyError,
    },
    /// This blob was sent to the target and verified.
    BlobCopied {
        /// Digest of the blob.
        digest: &'a Digest,
        /// Size in bytes.
        size: u64,
    },
    /// More bytes of a blob were sent to the target, including those of attempts that fail later.
    Bytes {
        /// Digest of the blob.
        digest: &'a Digest,
        /// Bytes since the last event of this blob.
        bytes: u64,
    },
    /// This manifest was pushed to the target.
    ManifestPushed {
        /// Digest of the manifest.
        digest: &'a Digest,
    },
    /// A referrer was pushed to the target.
    ReferrerCopied {
        /// Digest of the manifest that it refers to.
        subject: &'a Digest,
        /// Digest of the referrer.
        digest: &'a Digest,
    },
    /// A referrer cannot be copied; the image is copied without it.
    ReferrerLeftOut {
        /// Digest of the manifest that it refers to.
        subject: &'a Digest,
        /// The cause.
        error: &'a CopyError,
    },
    /// The copy got this tag.
    Tagged {
        /// The tag.
        tag: &'a str,
        /// Digest of the root manifest.
        digest: &'a Digest,
    },
}
