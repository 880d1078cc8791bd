//! What a copy did, counted while it runs.

use oci_spec::image::Digest;
use serde::{Serialize, Serializer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was copied in the end.
pub(super) struct Root {
    pub(super) digest: Digest,
    pub(super) media_type: String,
}

/// What a copy did.
#[derive(Clone, Debug, Serialize)]
pub struct CopyReport {
    /// The root manifest's digest, the same at both sides.
    pub digest: Digest,
    /// The root manifest's media type; empty if nothing had to be read and no registry said it.
    pub media_type: String,
    /// Bytes of the blobs that were sent.
    pub bytes: u64,
    /// Blobs that were sent.
    pub blobs_copied: u64,
    /// Blobs that the target took from another of its repositories.
    pub blobs_mounted: u64,
    /// Blobs that the target already had. Blobs below a manifest that it had are not counted.
    pub blobs_skipped: u64,
    /// Foreign layers, which stay where their manifest says they are.
    pub blobs_foreign: u64,
    /// Manifests pushed. Each counts once, however many tags it got.
    pub manifests: u64,
    /// Manifests of the image that the target already had, and that were believed to be complete. What is below them was
    /// neither brought nor looked for.
    #[serde(skip)]
    pub manifests_trusted: u64,
    /// Manifests that refer to the image and were copied, such as signatures.
    pub referrers: u64,
    /// What refers to the image and could not be copied; the log and the events say why.
    pub referrers_left_out: u64,
    /// HTTP requests sent to both registries, to their token services and redirect targets.
    pub requests: u64,
    /// Wall time, in seconds when serialised.
    #[serde(serialize_with = "seconds")]
    pub elapsed: Duration,
}

impl CopyReport {
    /// Returns whether everything below the root was brought or looked for.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.manifests_trusted == 0
    }
}

fn seconds<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(elapsed.as_secs_f64())
}

/// The running counts.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) bytes: AtomicU64,
    pub(super) copied: AtomicU64,
    pub(super) mounted: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) foreign: AtomicU64,
    pub(super) manifests: AtomicU64,
    pub(super) manifests_trusted: AtomicU64,
    pub(super) referrers: AtomicU64,
    pub(super) referrers_left_out: AtomicU64,
    pub(super) children_left_out: AtomicU64,
    /// Manifests that the target refused because it misses blobs that it had.
    pub(super) blobs_sent_again: AtomicU64,
}

impl Tally {
    pub(super) fn add_foreign(&self, layers: u64) {
        self.foreign.fetch_add(layers, Ordering::Relaxed);
    }

    pub(super) fn report(&self, root: Root, requests: u64, elapsed: Duration) -> CopyReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CopyReport {
            digest: root.digest,
            media_type: root.media_type,
            bytes: count(&self.bytes),
            blobs_copied: count(&self.copied),
            blobs_mounted: count(&self.mounted),
            blobs_skipped: count(&self.skipped),
            blobs_foreign: count(&self.foreign),
            manifests: count(&self.manifests),
            manifests_trusted: count(&self.manifests_trusted),
            referrers: count(&self.referrers),
            referrers_left_out: count(&self.referrers_left_out),
            requests,
            elapsed,
        }
    }
}

/// Adds one to a running count; answers with what it was.
pub(super) fn one_more(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}
