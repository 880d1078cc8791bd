//! One image's place in the schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mirror_copy::{Event, Progress, Retry};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Failure, Outlook, Priority, Status, Task};
use crate::output::human_bytes;

/// A registry may take this long to commit a large blob, during which nothing else moves.
const STALLED_AFTER: Duration = Duration::from_mins(5);

/// Bytes that must move in that time: less than one KiB a second is no copy that anybody waits for.
const LEAST_MOVEMENT: u64 = 256 * 1024;

/// How long a copy is looked at while other images wait for its place: longer than a registry takes to commit a blob.
const CROWDED_AFTER: Duration = Duration::from_mins(10);

/// Bytes that must arrive in that time, or be found at the backup: one MiB a minute. Each failure in a row halves it, so
/// that what can only be slow is copied in the end.
const CROWDED_MOVEMENT: u64 = 10 * 1024 * 1024;

/// Failures after which it is halved no more; then it is about as much as is demanded when nobody waits.
const MAX_HALVINGS: u32 = 5;

/// How often it is looked whether others wait.
const CROWD_LOOK: Duration = Duration::from_secs(30);

/// What is happening to an image. An image without a job was not asked for, or is copied.
pub(super) struct Job {
    /// Another job of the same image has another one.
    pub(super) id: u64,
    pub(super) task: Task,
    pub(super) priority: Priority,
    pub(super) stage: Stage,
}

/// How far a job is.
pub(super) enum Stage {
    /// Being copied, or waiting for its turn.
    Active(Arc<JobProgress>),
    /// Its last attempt failed.
    Resting(Rest),
}

/// The pause after a failure.
pub(super) struct Rest {
    pub(super) reason: String,
    /// Whether time heals that.
    pub(super) outlook: Outlook,
    /// Attempts that failed in a row.
    pub(super) failures: u32,
    pub(super) until: Instant,
    /// Whether a task waits to try again by itself.
    pub(super) automatic: bool,
}

/// How far a copy is, for those who ask meanwhile.
#[derive(Debug)]
pub struct JobProgress {
    started: AtomicBool,
    in_use: AtomicBool,
    raised: Notify,
    /// Grows with everything that happens; see [`Self::stalled`].
    movement: AtomicU64,
    bytes: AtomicU64,
    /// Zero until the image's manifests are read.
    total: AtomicU64,
}

impl Job {
    pub(super) fn status(&self) -> Status {
        match &self.stage {
            Stage::Active(progress) => Status::Pending(progress.describe()),
            Stage::Resting(rest) => Status::Failed {
                reason: rest.reason.clone(),
                outlook: rest.outlook,
            },
        }
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Active(_))
    }

    pub(super) fn is_resting(&self) -> bool {
        matches!(self.stage, Stage::Resting(_))
    }

    /// Counts as in use from now on, if that is the `priority` and it does not yet; says whether that is new.
    pub(super) fn raise(&mut self, priority: Priority) -> bool {
        if priority == Priority::Asked || self.priority == Priority::InUse {
            return false;
        }
        self.priority = priority;
        if let Stage::Active(progress) = &self.stage {
            progress.raise();
        }
        true
    }

    /// The failures so far, if it is time for a new attempt that nobody is going to make by itself.
    pub(super) fn due_failures(&self, now: Instant) -> Option<u32> {
        match &self.stage {
            Stage::Resting(rest) if !rest.automatic && rest.until <= now => Some(rest.failures),
            _ => None,
        }
    }

    /// Whether forgetting the job loses nothing but the memory of a failure.
    pub(super) fn is_over(&self) -> bool {
        matches!(&self.stage, Stage::Resting(rest) if !rest.automatic)
    }
}

impl JobProgress {
    pub(super) fn new(priority: Priority) -> Self {
        Self {
            started: AtomicBool::new(false),
            in_use: AtomicBool::new(priority == Priority::InUse),
            raised: Notify::new(),
            movement: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    pub(super) fn priority(&self) -> Priority {
        if self.in_use.load(Ordering::Relaxed) {
            Priority::InUse
        } else {
            Priority::Asked
        }
    }

    fn raise(&self) {
        if !self.in_use.swap(true, Ordering::Relaxed) {
            self.raised.notify_one();
        }
    }

    /// Ends when the priority was raised.
    pub(super) async fn raised(&self) {
        self.raised.notified().await;
    }

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
                    reason: format!("hardly anything moved for {} s", STALLED_AFTER.as_secs())
                        .into(),
                    retry: Retry::Transient { after: None },
                    is_absent: false,
                };
            }
        }
    }

    /// Ends when too little arrived while others waited all the time. `crowded` says whether somebody waits who could have
    /// this place; `failures` so many attempts in a row came to nothing.
    pub(super) async fn crowded_out(&self, crowded: impl Fn() -> bool, failures: u32) -> Failure {
        let demanded = CROWDED_MOVEMENT >> failures.min(MAX_HALVINGS);
        let arrived = || self.bytes.load(Ordering::Relaxed);
        let (mut since, mut before) = (Instant::now(), arrived());
        loop {
            tokio::time::sleep(CROWD_LOOK).await;
            let moved = arrived().wrapping_sub(before);
            if moved >= demanded || !crowded() {
                (since, before) = (Instant::now(), arrived());
            } else if since.elapsed() >= CROWDED_AFTER {
                let seconds = since.elapsed().as_secs();
                let moved = human_bytes(moved);
                return Failure {
                    reason: format!(
                        "only {moved} arrived in {seconds} s while other images waited"
                    )
                    .into(),
                    retry: Retry::Transient { after: None },
                    is_absent: false,
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
