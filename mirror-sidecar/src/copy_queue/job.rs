//! One job of the queue: its task, its stages, and its status.

use std::sync::Arc;

use mirror_contract::ImageRef;
use tokio::time::Instant;

use super::fair_slots::{Lane, Sort, Ticket};
use super::progress::JobProgress;
use super::sources::{BackupId, Source};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Create the copy. Content that the backup reports is trusted.
    Copy,
    /// Create the copy again after it vanished. All content that the backup still has is verified.
    Restore,
    /// Update the copy to its original. The older copy stays in place meanwhile, and also if the update fails.
    Update,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Queued or running; with a description.
    Pending(String),
    Failed {
        /// One sentence.
        reason: String,
        outlook: Outlook,
    },
    /// Not accepted: the namespace has too many images in the queue. The image must be requested again.
    Full,
}

/// The expected result of the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// The failure may be transient.
    Passing,
    /// The failure lasts until somebody fixes its cause.
    Lasting,
    /// Lasting: the source has no such image, or shows none to this client.
    Absent,
}

/// The state of an image in the queue. An image without a job was not requested, or is copied.
pub(super) struct Job {
    /// Unique among all jobs; later jobs have higher ids.
    pub(super) id: u64,
    pub(super) backup: BackupId,
    pub(super) image: Arc<ImageRef<'static>>,
    pub(super) task: Task,
    pub(super) lane: Lane,
    /// The namespaces that use the image. Not empty.
    pub(super) groups: Vec<Arc<str>>,
    pub(super) stage: Stage,
    /// Failed attempts in a row.
    pub(super) failures: u32,
    pub(super) is_penalized: bool,
    pub(super) is_long: bool,
    pub(super) is_isolated: bool,
}

pub(super) enum Stage {
    Waiting,
    Running(Arc<JobProgress>),
    BackingOff(Wait),
}

/// The wait after a failure.
pub(super) struct Wait {
    pub(super) reason: String,
    pub(super) outlook: Outlook,
    pub(super) until: Instant,
    /// The job is retried without a request.
    pub(super) is_automatic: bool,
}

impl Job {
    pub(super) fn status(&self) -> Status {
        match &self.stage {
            Stage::Waiting => Status::Pending("queued".into()),
            Stage::Running(progress) => Status::Pending(progress.describe()),
            Stage::BackingOff(wait) => Status::Failed {
                reason: wait.reason.clone(),
                outlook: wait.outlook,
            },
        }
    }

    pub(super) fn is_active(&self) -> bool {
        !self.is_backing_off()
    }

    pub(super) fn is_backing_off(&self) -> bool {
        matches!(self.stage, Stage::BackingOff(_))
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    /// Returns whether the backoff is over and only a request starts the next attempt.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match &self.stage {
            Stage::BackingOff(wait) => !wait.is_automatic && wait.until <= now,
            _ => false,
        }
    }

    fn sort(&self) -> Sort {
        if self.is_penalized {
            Sort::Penalized
        } else if self.is_long {
            Sort::Long
        } else if self.failures > 0 {
            Sort::Failed
        } else {
            Sort::Normal
        }
    }

    pub(super) fn source(&self) -> Source {
        Source::of(self.backup, &self.image)
    }

    pub(super) fn ticket(&self) -> Ticket {
        Ticket {
            lane: self.lane,
            groups: self.groups.clone(),
            source: self.source(),
            is_restore: self.lane == Lane::InUse && self.task == Task::Restore,
            sort: self.sort(),
            is_isolated: self.is_isolated,
            failures: self.failures,
        }
    }
}
