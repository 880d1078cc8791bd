//! What one copy has added up so far.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// What one copy has so far.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) image_memory: AtomicU64,
    pub(super) referrer_memory: AtomicU64,
    /// Bytes of the blobs of the image and of all that refers to it.
    pub(super) blobs: AtomicU64,
    /// Bytes of the blobs of the image alone.
    pub(super) image_blobs: AtomicU64,
    /// Whether all blobs of the image are in the sum.
    pub(super) image_is_weighed: watch::Sender<bool>,
}

impl Sums {
    pub(super) fn reset(&self) {
        for sum in [&self.image_memory, &self.referrer_memory, &self.blobs] {
            sum.store(0, Ordering::Relaxed);
        }
        self.image_is_weighed.send_replace(false);
    }

    /// Everything that the image has is in the sum: what is left of the limit is for what refers to it.
    pub(super) fn image_weighed(&self) {
        let image = self.blobs.load(Ordering::Relaxed);
        self.image_blobs.store(image, Ordering::Relaxed);
        self.image_is_weighed.send_replace(true);
    }

    /// Starts again to add up what refers to the image.
    pub(super) fn forget_referrers(&self) {
        let image = self.image_blobs.load(Ordering::Relaxed);
        self.blobs.store(image, Ordering::Relaxed);
        self.referrer_memory.store(0, Ordering::Relaxed);
        self.image_is_weighed.send_replace(true);
    }

    /// Takes a sum back, of something that is left out.
    pub(super) fn unweigh(&self, bytes: u64) {
        self.blobs.fetch_sub(bytes, Ordering::Relaxed);
    }
}
