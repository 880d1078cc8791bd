//! One copy in progress: the state that all its parts share, and the limits of one copy.

use super::error::CopyError;
use super::node::{Blob, Node};
use super::options::{CopyOptions, Source, Target};
use super::progress::Progress;
use super::report::Tally;
use super::sessions::Abandoned;
use crate::error::Remedy;
use crate::json;
use crate::lock::lock;
use crate::manifest::MAX_DESCRIPTORS;
use crate::registries::metadata_budget::{BeyondLimit, Lease, Reservation};
use crate::registry::{Access, Manifest, Repository};
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Interval of progress reports while a copy runs.
pub(super) const REPORT_EVERY: Duration = Duration::from_millis(250);

/// Maximum memory for the manifests of an image, in bytes: each counts twice, as it was received and as it was parsed,
/// and each object that it names with [`PER_OBJECT`]. Large images have 100 KiB, and a hundred platforms 3 MiB.
const IMAGE_MEMORY: u64 = 22 * 1024 * 1024;

/// Maximum memory for the manifests of all referrers of the image, in bytes.
const REFERRER_MEMORY: u64 = 6 * 1024 * 1024;

/// Memory for one blob or manifest that a running copy keeps track of, in bytes.
pub(super) const PER_OBJECT: u64 = 1024;

/// Maximum number of manifests of one copy whose referrers are looked up.
pub(super) const MAX_SUBJECTS: usize = 256;

/// Maximum number of referrers and digest tags of one copy. An image has a handful.
const MAX_REFERRERS: usize = 1000;

/// Referrers, and lists of them, that are read concurrently.
const REFERRERS_AT_ONCE: usize = 12;

/// Concurrent requests of one copy to its source for manifests and lists: with headers of 400 KiB each, the most that the
/// HTTP client reads, they take 6.4 MiB.
const SOURCE_METADATA_REQUESTS: usize = 16;

/// One copy in progress.
pub(super) struct Job<'a> {
    pub(super) source: Repository,
    pub(super) target: Repository,
    pub(super) options: &'a CopyOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) tally: Tally,
    /// The target turned out to have parts of the image.
    pub(super) target_has_parts: AtomicBool,
    /// The target refused an index because parts of it are missing.
    pub(super) parts_are_missing: AtomicBool,
    /// The target claimed to have something that it does not have, so its claims are no longer trusted.
    pub(super) target_is_distrusted: AtomicBool,
    pub(super) sent: Sent,
    /// Memory for everything that is read, from either side.
    pub(super) reservation: Arc<Reservation>,
    pub(super) sums: Sums,
    pub(super) referrers: ReferrerState,
    pub(super) abandoned: Abandoned,
}

/// Blobs and manifests that the target accepted from this copy. It may show them only a moment later. Their number is
/// bounded by the limits of one copy.
#[derive(Default)]
pub(super) struct Sent(Mutex<HashSet<Digest>>);

/// Running totals of one copy.
#[derive(Default)]
pub(super) struct Sums {
    image_memory: AtomicU64,
    referrer_memory: AtomicU64,
    /// Bytes of the blobs of the image and of its referrers.
    blobs: AtomicU64,
    /// Bytes of the blobs of the image alone.
    image_blobs: AtomicU64,
    /// All blobs of the image are in the total.
    image_is_weighed: watch::Sender<bool>,
}

/// The referrers of one copy.
pub(super) struct ReferrerState {
    /// Everything that was copied, or whose referrers were looked up: each is copied once.
    known: Mutex<HashSet<Digest>>,
    pub(super) permits: Semaphore,
    /// The target has the image itself.
    pub(super) root_is_present: AtomicBool,
    /// The target refused a referrer because it does not have the image yet.
    pub(super) was_refused: AtomicBool,
}

/// The image, or its referrers. They have separate limits, so that no image is lost because of its referrers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Image,
    Referrers,
}

impl Sent {
    pub(super) fn add(&self, digest: &Digest) {
        lock(&self.0).insert(digest.clone());
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        lock(&self.0).contains(digest)
    }

    pub(super) fn has_children_of(&self, node: &Node) -> bool {
        let sent = lock(&self.0);
        node.children.iter().all(|child| sent.contains(child))
    }
}

impl Sums {
    pub(super) fn reset(&self) {
        for sum in [&self.image_memory, &self.referrer_memory, &self.blobs] {
            sum.store(0, Ordering::Relaxed);
        }
        self.image_is_weighed.send_replace(false);
    }

    /// All blobs of the image are in the total: the rest of the limit is for its referrers.
    pub(super) fn image_weighed(&self) {
        let image = self.blobs.load(Ordering::Relaxed);
        self.image_blobs.store(image, Ordering::Relaxed);
        self.image_is_weighed.send_replace(true);
    }

    pub(super) fn reset_referrers(&self) {
        let image = self.image_blobs.load(Ordering::Relaxed);
        self.blobs.store(image, Ordering::Relaxed);
        self.referrer_memory.store(0, Ordering::Relaxed);
        self.image_is_weighed.send_replace(true);
    }

    /// Subtracts the blobs of something that is left out.
    pub(super) fn unweigh(&self, bytes: u64) {
        self.blobs.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Default for ReferrerState {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            permits: Semaphore::new(REFERRERS_AT_ONCE),
            root_is_present: AtomicBool::new(false),
            was_refused: AtomicBool::new(false),
        }
    }
}

impl ReferrerState {
    /// Returns whether this one is new and within the limit of one copy.
    pub(super) fn admit(&self, digest: &Digest) -> bool {
        let mut known = lock(&self.known);
        known.len() < MAX_SUBJECTS + MAX_REFERRERS && known.insert(digest.clone())
    }

    pub(super) fn forget_all(&self) {
        let mut known = lock(&self.known);
        known.clear();
    }
}

impl<'a> Job<'a> {
    pub(super) fn new(
        source: &Source,
        target: &Target,
        options: &'a CopyOptions,
        progress: &'a dyn Progress,
    ) -> Result<Self, CopyError> {
        let from = source.registry.counting_from_zero();
        let to = target.registry.counting_from_zero();
        let reservation = from.reservation_of_copy();
        Ok(Self {
            source: from
                .repository(&source.repository, Access::Pull)
                .map_err(CopyError::Source)?
                .of_copy(&reservation)
                .with_metadata_requests(SOURCE_METADATA_REQUESTS),
            target: to
                .repository(&target.repository, Access::Push)
                .map_err(CopyError::Target)?
                .of_copy(&reservation),
            reservation,
            options,
            progress,
            tally: Tally::default(),
            target_has_parts: AtomicBool::new(!options.trust_present),
            parts_are_missing: AtomicBool::new(false),
            target_is_distrusted: AtomicBool::new(false),
            sent: Sent::default(),
            sums: Sums::default(),
            referrers: ReferrerState::default(),
            abandoned: Abandoned::default(),
        })
    }
}

impl Job<'_> {
    /// Adds to the memory of the manifests of this part, before they are read.
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
                "its referrers take more than 6 MiB of memory",
            ),
        };
        let add = |sum: u64| sum.checked_add(bytes).filter(|sum| *sum <= limit);
        sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map(drop)
            .map_err(|_| self.beyond(digest, exceeded))
    }

    /// Waits for the memory that parsing a manifest takes. `reserved` bytes of it count already.
    pub(super) async fn hold(
        &self,
        part: Part,
        manifest: &Manifest,
        reserved: u64,
    ) -> Result<Lease, CopyError> {
        let size = manifest.bytes.len() as u64;
        // Anything that is not JSON is refused when it is parsed.
        let objects = json::count_objects(&manifest.bytes).unwrap_or_default();
        let parsed = size + objects.min(MAX_DESCRIPTORS) as u64 * PER_OBJECT;
        self.reserve(
            part,
            &manifest.digest,
            (size + parsed).saturating_sub(reserved),
        )?;
        let mut lease = self.reservation.lease();
        self.grow(&mut lease, parsed, &manifest.digest).await?;
        Ok(lease)
    }

    pub(super) async fn grow(
        &self,
        lease: &mut Lease,
        bytes: u64,
        digest: &Digest,
    ) -> Result<(), CopyError> {
        let grown = lease.grow(bytes).await;
        grown.map_err(|BeyondLimit(_)| self.beyond(digest, "it takes more than 32 MiB of memory"))
    }

    /// Waits until it is known how much of [`CopyOptions::max_bytes`] the image leaves.
    pub(super) async fn image_weighed(&self) {
        if self.options.max_bytes.is_some() {
            let mut weighed = self.sums.image_is_weighed.subscribe();
            // The sender lives as long as the copy.
            let _ = weighed.wait_for(|weighed| *weighed).await;
        }
    }

    /// Adds a blob that `parent` names to the total of all blobs, unless that exceeds [`CopyOptions::max_bytes`].
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
                advice: self.source.registry().advice(&Remedy::RaiseMaxBytes),
            }),
        }
    }

    pub(super) fn beyond(&self, digest: &Digest, limit: &'static str) -> CopyError {
        CopyError::Limit {
            object: self.source.object(&format!("@{digest}")),
            limit,
        }
    }

    pub(super) fn same_repository(&self) -> bool {
        self.source.registry().same_host(self.target.registry())
            && self.source.name() == self.target.name()
    }

    /// Returns whether the target is believed when it claims to have something.
    pub(super) fn trusts_target(&self) -> bool {
        self.options.trust_present && !self.target_is_distrusted.load(Ordering::Relaxed)
    }

    /// Stops trusting the target if it lacks manifests that it claimed to have. Returns whether that is new.
    pub(super) fn distrust_if_parts_are_missing(&self) -> bool {
        self.parts_are_missing.load(Ordering::Relaxed)
            && !self.target_is_distrusted.swap(true, Ordering::Relaxed)
    }

    /// Returns whether it is worth looking for single manifests at the target.
    pub(super) fn may_have_parts(&self) -> bool {
        self.trusts_target()
            && (self.target_has_parts.load(Ordering::Relaxed)
                || self.source.registry().counts_reads())
    }
}
