//! What one copy may keep in memory, and what it may send in all.

use super::error::CopyError;
use super::job::Job;
use super::node::Blob;
use crate::json;
use crate::manifest::MAX_DESCRIPTORS;
use crate::registries::{BeyondLimit, Lease};
use crate::registry::Manifest;
use oci_spec::image::Digest;
use std::sync::atomic::Ordering;

/// Most memory for the manifests of an image, in bytes: each counts twice, as it came and as what was read from it, and
/// each object that it names with [`PER_OBJECT`]. Large images have 100 KiB, and a hundred platforms 3 MiB.
const IMAGE_MEMORY: u64 = 22 * 1024 * 1024;

/// The same for all that refers to the image.
const REFERRER_MEMORY: u64 = 6 * 1024 * 1024;

/// What is known about one blob or manifest while a copy runs, in bytes.
pub(super) const PER_OBJECT: u64 = 1024;

/// What a part of the work belongs to: an image must not be lost because of what refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Image,
    Referrers,
}

impl Job<'_> {
    /// Adds memory to what the manifests of this part take, before they are read.
    pub(super) fn reserve(&self, part: Part, digest: &Digest, bytes: u64) -> Result<(), CopyError> {
        let (sum, limit, exceeded) = match part {
            Part::Image => (
                &self.sums.image_memory,
                IMAGE_MEMORY,
                "its manifests take more than 22 MiB of memory",
            ),
            Part::Referrers => (
                &self.sums.referrer_memory,
                REFERRER_MEMORY,
                "what refers to it takes more than 6 MiB of memory",
            ),
        };
        let add = |sum: u64| sum.checked_add(bytes).filter(|sum| *sum <= limit);
        sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map(drop)
            .map_err(|_| self.beyond(digest, exceeded))
    }

    /// Waits for memory for what is going to be read from a manifest. `reserved` bytes of it count already.
    pub(super) async fn hold(
        &self,
        part: Part,
        manifest: &Manifest,
        reserved: u64,
    ) -> Result<Lease, CopyError> {
        let size = manifest.bytes.len() as u64;
        // What is no JSON is refused when it is read.
        let objects = json::count_objects(&manifest.bytes).unwrap_or_default();
        let read = size + objects.min(MAX_DESCRIPTORS) as u64 * PER_OBJECT;
        self.reserve(
            part,
            &manifest.digest,
            (size + read).saturating_sub(reserved),
        )?;
        let mut lease = self.reservation.lease();
        self.grow(&mut lease, read, &manifest.digest).await?;
        Ok(lease)
    }

    /// Waits for this much more memory.
    pub(super) async fn grow(
        &self,
        lease: &mut Lease,
        bytes: u64,
        digest: &Digest,
    ) -> Result<(), CopyError> {
        let grown = lease.grow(bytes).await;
        grown.map_err(|BeyondLimit(_)| self.beyond(digest, "it takes more than 32 MiB of memory"))
    }

    /// Waits until what is left of [`CopyOptions::max_bytes`](super::CopyOptions::max_bytes) is known.
    pub(super) async fn image_weighed(&self) {
        if self.options.max_bytes.is_some() {
            let mut weighed = self.sums.image_is_weighed.subscribe();
            // The sender lives as long as the copy.
            let _ = weighed.wait_for(|weighed| *weighed).await;
        }
    }

    /// Adds a blob that `parent` names to the sum of all blobs, unless that is too much then.
    pub(super) fn weigh(&self, blob: &Blob, parent: &Digest) -> Result<(), CopyError> {
        let Some(limit) = self.options.max_bytes else {
            return Ok(());
        };
        let add = |sum: u64| sum.checked_add(blob.size).filter(|sum| *sum <= limit);
        let sum = &self.sums.blobs;
        match sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(before) => Err(CopyError::TooLarge {
                object: self.source.object(&format!("@{parent}")),
                bytes: before.saturating_add(blob.size),
                limit,
            }),
        }
    }

    pub(super) fn beyond(&self, digest: &Digest, limit: &'static str) -> CopyError {
        CopyError::Limit {
            object: self.source.object(&format!("@{digest}")),
            limit,
        }
    }
}
