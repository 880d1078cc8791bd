//! The result of a copy, counted while it runs.

use oci_spec::image::Digest;
use serde::{Serialize, Serializer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(super) struct Root {
    pub(super) digest: Digest,
    pub(super) media_type: String,
}

/// The result of a copy.
#[derive(Clone, Debug, Serialize)]
pub struct CopyReport {
    /// Digest of the root manifest, the same at the source and the target.
    pub digest: Digest,
    /// Media type of the root manifest; empty if nothing had to be read and no registry reported it.
    pub media_type: String,
    /// Total size of the blobs that were sent, in bytes.
    pub bytes: u64,
    /// Number of blobs that were sent.
    pub blobs_copied: u64,
    /// Number of blobs that the target mounted from another of its repositories.
    pub blobs_mounted: u64,
    /// Number of blobs that the target already had. Blobs below a manifest that it had are not counted.
    pub blobs_skipped: u64,
    /// Number of foreign layers that were not copied.
    pub blobs_foreign: u64,
    /// Number of manifests that were pushed. Each counts once, whatever the number of its tags.
    pub manifests: u64,
    /// Number of manifests of the image that the target already had and that were trusted to be complete. Everything below
    /// them was neither copied nor checked.
    #[serde(skip)]
    pub manifests_trusted: u64,
    /// Number of referrers that were copied, such as signatures.
    pub referrers: u64,
    /// Number of referrers that could not be copied; the log and [`Event::ReferrerLeftOut`](super::Event::ReferrerLeftOut)
    /// have the reasons.
    pub referrers_left_out: u64,
    /// Number of HTTP requests to both registries, their token services and redirect targets.
    pub requests: u64,
    /// Wall time; serialised in seconds.
    #[serde(serialize_with = "seconds")]
    pub elapsed: Duration,
}

impl CopyReport {
    /// Returns whether everything below the root was copied or checked, and nothing was trusted.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.manifests_trusted == 0
    }
}

fn seconds<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(elapsed.as_secs_f64())
}

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
    /// Number of manifests that the target refused because it lacks blobs that it claimed to have.
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

/// Increments a counter and returns its previous value.
pub(super) fn one_more(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}
