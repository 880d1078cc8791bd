//! The progress of one copy: reported in its status, and measured to find slow sources.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use mirror_copy::{Event, MemoryPlace, Progress};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::output::human_bytes;

/// Bytes that must move in that time, even if nobody waits: less than 1 KiB/s.
pub(super) const MIN_MOVEMENT: u64 = 256 * 1024;

/// Bytes that one manifest counts as: each costs round trips to both registries, and an image with thousands of small
/// manifests is not slow because it has few bytes.
const MANIFEST_WORTH: u64 = 256 * 1024;

#[derive(Debug)]
pub struct JobProgress {
    requested: AtomicBool,
    responded: AtomicBool,
    /// Grows with all progress; see [`Measured::movement`].
    movement: AtomicU64,
    started: Instant,
    /// Bytes sent or found in the backup, without those of failed attempts.
    bytes: AtomicU64,
    /// Bytes that were sent.
    sent: AtomicU64,
    /// Manifests pushed or found, in bytes.
    manifests: AtomicU64,
    /// Zero until the image's manifests are read.
    total: AtomicU64,
    samples: AtomicU64,
    source_waits: AtomicU64,
    /// Memory for manifests, encoded with [`code`].
    waits_for_memory: AtomicU8,
    holds_memory: AtomicU8,
    /// The copy waits for the first byte of a blob. Reset by the next movement.
    waits_for_source: AtomicBool,
    /// Notified when the source responds: the slot may count differently from then on.
    changed: Arc<Notify>,
}

/// How far a copy is, for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    /// Bytes of blobs that were sent, or that the backup had.
    pub done: u64,
    /// Bytes of all blobs; `None` until the manifests are read.
    pub total: Option<u64>,
    /// Bytes that were sent since the start, per second.
    pub rate: u64,
}

/// The progress of a copy since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    /// The root manifest was requested from the source.
    pub(super) is_requested: bool,
    /// The source responded to that request.
    pub(super) has_responded: bool,
    /// Bytes, with all other progress counted as [`MIN_MOVEMENT`] an event.
    pub(super) movement: u64,
    /// Bytes that arrived or were found in the backup, with manifests counted as [`MANIFEST_WORTH`].
    pub(super) arrived: u64,
    /// Samples of blobs in transit, and those in which the blob waited for its source.
    pub(super) samples: u64,
    pub(super) source_waits: u64,
}

impl JobProgress {
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        Self {
            requested: AtomicBool::new(false),
            responded: AtomicBool::new(false),
            movement: AtomicU64::new(0),
            started: Instant::now(),
            bytes: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            manifests: AtomicU64::new(0),
            total: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            source_waits: AtomicU64::new(0),
            waits_for_memory: AtomicU8::new(0),
            holds_memory: AtomicU8::new(0),
            waits_for_source: AtomicBool::new(false),
            changed,
        }
    }

    pub(super) fn measured(&self) -> Measured {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Measured {
            is_requested: self.requested.load(Ordering::Relaxed),
            has_responded: self.has_responded(),
            movement: count(&self.movement),
            arrived: count(&self.bytes).saturating_add(count(&self.manifests)),
            samples: count(&self.samples),
            source_waits: count(&self.source_waits),
        }
    }

    pub(super) fn has_responded(&self) -> bool {
        self.responded.load(Ordering::Relaxed)
    }

    /// The memory for manifests, held by other copies, that this copy has waited for since the last call.
    pub(super) fn waited_for_memory(&self) -> Option<MemoryPlace> {
        place(self.waits_for_memory.swap(0, Ordering::Relaxed))
    }

    pub(super) fn holds_memory(&self) -> Option<MemoryPlace> {
        place(self.holds_memory.load(Ordering::Relaxed))
    }

    pub(super) fn snapshot(&self, now: Instant) -> CopyProgress {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let total = Some(count(&self.total)).filter(|total| *total > 0);
        let elapsed = now.saturating_duration_since(self.started).as_millis();
        let rate = u128::from(count(&self.sent)) * 1000 / elapsed.max(1);
        CopyProgress {
            // A blob that the backup lost is sent although it was found there.
            done: count(&self.bytes).min(total.unwrap_or_default()),
            total,
            rate: u64::try_from(rate).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn describe(&self) -> String {
        let done = self.describe_done();
        if self.waits_for_source.load(Ordering::Relaxed) {
            return format!("{done}, waiting for the source");
        }
        done
    }

    fn describe_done(&self) -> String {
        match self.total.load(Ordering::Relaxed) {
            0 => "copying".into(),
            total => {
                // A blob that the backup lost is sent although it was found there.
                let bytes = self.bytes.load(Ordering::Relaxed).min(total);
                format!("copying, {} of {}", human_bytes(bytes), human_bytes(total))
            }
        }
    }
}

fn code(place: MemoryPlace) -> u8 {
    match place {
        MemoryPlace::Medium => 1,
        MemoryPlace::Large => 2,
    }
}

fn place(code: u8) -> Option<MemoryPlace> {
    [MemoryPlace::Medium, MemoryPlace::Large]
        .into_iter()
        .find(|place| self::code(*place) == code)
}

impl Progress for JobProgress {
    fn event(&self, event: Event<'_>) {
        let add = |counter: &AtomicU64, amount| _ = counter.fetch_add(amount, Ordering::Relaxed);
        let movement = match event {
            Event::Bytes { bytes, .. } => bytes,
            // Repeated starts and waits are no movement.
            Event::SourceRequested
            | Event::Waiting { .. }
            | Event::WaitingForSource { .. }
            | Event::BlobStarted { .. }
            | Event::BlobFailed { .. } => 0,
            _ => MIN_MOVEMENT,
        };
        add(&self.movement, movement);
        if movement > 0 {
            self.waits_for_source.store(false, Ordering::Relaxed);
        }
        match event {
            Event::WaitingForMemory(place) => {
                self.waits_for_memory.store(code(place), Ordering::Relaxed);
            }
            Event::HoldsMemory(place) => self.holds_memory.store(code(place), Ordering::Relaxed),
            Event::SourceRequested => self.requested.store(true, Ordering::Relaxed),
            Event::SourceResponded if !self.responded.swap(true, Ordering::Relaxed) => {
                self.changed.notify_one();
            }
            Event::Waiting { on_source } => {
                add(&self.samples, 1);
                add(&self.source_waits, u64::from(on_source));
            }
            Event::WaitingForSource { .. } => {
                add(&self.samples, 1);
                add(&self.source_waits, 1);
                self.waits_for_source.store(true, Ordering::Relaxed);
            }
            Event::Planned { bytes, .. } => add(&self.total, bytes),
            // These bytes are sent again.
            Event::BlobFailed { bytes: lost, .. } => {
                let without = |bytes: u64| Some(bytes.saturating_sub(lost));
                let _ = self
                    .bytes
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, without);
            }
            Event::Bytes { bytes: size, .. } => {
                add(&self.bytes, size);
                add(&self.sent, size);
            }
            // Content that need not be sent counts as done.
            Event::BlobSkipped { size, .. } | Event::BlobMounted { size, .. } => {
                add(&self.bytes, size);
            }
            Event::ManifestSkipped { .. } | Event::ManifestPushed { .. } => {
                add(&self.manifests, MANIFEST_WORTH);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_copy::{CopyError, Digest};

    /// An attempt to send a layer of 10 bytes fails after 6, and the next one succeeds; then the backup turns out to lack
    /// a blob that it said it had.
    #[test]
    fn progress_never_exceeds_its_total() {
        let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let digest = &digest;
        let error = &CopyError::SourceMissing { object: "x".into() };
        let progress = JobProgress::new(Arc::default());
        let mut seen = Vec::new();
        for event in [
            Event::Planned {
                blobs: 2,
                bytes: 15,
                manifests: 1,
            },
            Event::BlobSkipped { digest, size: 5 },
            Event::Bytes { digest, bytes: 6 },
            Event::BlobFailed {
                digest,
                bytes: 6,
                error,
            },
            Event::Bytes { digest, bytes: 10 },
            Event::Bytes { digest, bytes: 5 },
        ] {
            progress.event(event);
            seen.push(progress.describe());
        }
        let bytes: Vec<_> = seen
            .iter()
            .map(|text| text.trim_start_matches("copying, ").split(' ').next())
            .collect();
        assert_eq!(bytes, ["0", "5", "11", "5", "15", "15"].map(Some));
    }
}
