//! One image's place in the schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mirror_copy::{Event, Progress, Retry};
use tokio::time::Instant;

use super::{Failure, Status};
use crate::output::human_bytes;

/// A registry may take this long to commit a large blob, during which nothing else moves.
const STALLED_AFTER: Duration = Duration::from_mins(5);

/// Bytes that must move in that time: less than one KiB a second is no copy that anybody waits for.
const LEAST_MOVEMENT: u64 = 256 * 1024;

/// What is happening to an image. An image without a job was not asked for, or is copied.
pub(super) enum Job {
    /// Being copied, or waiting for its turn.
    Active(Arc<JobProgress>),
    /// Its last attempt failed.
    Resting(Rest),
}

/// The pause after a failure.
pub(super) struct Rest {
    pub(super) reason: String,
    /// Attempts that failed in a row.
    pub(super) failures: u32,
    pub(super) until: Instant,
    /// Whether a task waits to try again by itself.
    pub(super) automatic: bool,
}

/// How far a copy is, for those who ask meanwhile.
#[derive(Debug, Default)]
pub struct JobProgress {
    started: AtomicBool,
    /// Grows with everything that happens; see [`Self::stalled`].
    movement: AtomicU64,
    bytes: AtomicU64,
    /// Zero until the image's manifests are read.
    total: AtomicU64,
}

impl Job {
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Active(progress) => Status::Pending(progress.describe()),
            Self::Resting(rest) => Status::Failed(rest.reason.clone()),
        }
    }

    /// The failures so far, if it is time for a new attempt that nobody is going to make by itself.
    pub(super) fn due_failures(&self, now: Instant) -> Option<u32> {
        match self {
            Self::Resting(rest) if !rest.automatic && rest.until <= now => Some(rest.failures),
            _ => None,
        }
    }

    /// Whether this is the rest that ends then, with a task waiting for its end.
    pub(super) fn rests_until(&self, until: Instant) -> bool {
        matches!(self, Self::Resting(rest) if rest.automatic && rest.until == until)
    }

    /// Whether forgetting the job loses nothing but the memory of a failure.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Resting(rest) if !rest.automatic)
    }
}

impl JobProgress {
    pub(super) fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Ends when hardly anything moved for [`STALLED_AFTER`]. A source that sends a byte now and then keeps every timeout
    /// of a connection happy, and must not keep its place for ever.
    pub(super) async fn stalled(&self) -> Failure {
        loop {
            let before = self.movement.load(Ordering::Relaxed);
            tokio::time::sleep(STALLED_AFTER).await;
            let moved = self.movement.load(Ordering::Relaxed).wrapping_sub(before);
            if moved < LEAST_MOVEMENT {
                return Failure {
                    reason: format!("hardly anything moved for {} s", STALLED_AFTER.as_secs()),
                    retry: Retry::Transient { after: None },
                };
            }
        }
    }

    /// Whether it has its turn.
    pub(super) fn is_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    fn describe(&self) -> String {
        if !self.is_started() {
            return "queued".into();
        }
        match self.total.load(Ordering::Relaxed) {
            0 => "copying".into(),
            total => {
                let bytes = self.bytes.load(Ordering::Relaxed);
                format!("copying, {} of {}", human_bytes(bytes), human_bytes(total))
            }
        }
    }
}

impl Progress for JobProgress {
    fn event(&self, event: Event<'_>) {
        let movement = match event {
            Event::Bytes { bytes, .. } => bytes,
            // Beginning again and again is no movement.
            Event::BlobStarted { .. } | Event::BlobFailed { .. } => 0,
            _ => LEAST_MOVEMENT,
        };
        self.movement.fetch_add(movement, Ordering::Relaxed);
        match event {
            Event::Planned { bytes, .. } => {
                self.total.fetch_add(bytes, Ordering::Relaxed);
            }
            // What need not be sent is done as well.
            Event::Bytes { bytes: size, .. }
            | Event::BlobSkipped { size, .. }
            | Event::BlobMounted { size, .. } => {
                self.bytes.fetch_add(size, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}
