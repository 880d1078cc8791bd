//! The copy job of an image.

use std::time::Duration;

use tokio::time::Instant;

use super::{Clock, ImageState, LONGEST_WAIT, never};
use crate::cluster::copy_status::State;
use crate::copy_queue::{Outlook, Status};

/// Shortest wait of an image for its budget: many images may wait for the same one.
const MIN_BUDGET_WAIT: Duration = Duration::from_secs(30);

/// Wait before an image is requested again whose namespace has too many copies in the queue.
const QUEUE_FULL_WAIT: Duration = Duration::from_mins(1);

/// What is known about the copy job.
#[derive(Debug, Default)]
pub(super) struct JobState {
    pub(super) stage: JobStage,
    /// When this replica made the copy.
    pub(super) copied_at: Option<Instant>,
    pub(super) failing_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum JobStage {
    #[default]
    None,
    /// The copy is being updated to what its tag refers to now.
    Updating,
    /// The copy was made; the next check must find it.
    Copied,
    /// The copy was updated.
    Updated,
}

impl JobState {
    pub(super) fn has_failed_for(&self, time: Duration, now: Instant) -> bool {
        self.failing_since
            .is_some_and(|since| now.saturating_duration_since(since) >= time)
    }

    /// A check found the copy.
    pub(super) fn copy_was_found(&mut self) {
        self.failing_since = None;
        if matches!(self.stage, JobStage::Copied | JobStage::Updated) {
            self.stage = JobStage::None;
        }
    }
}

impl ImageState {
    /// Applies the status of the job in the copy queue; `None` when it has ended or never began.
    pub(in crate::cluster::reconciler) fn job_changed(
        &mut self,
        status: Option<Status>,
        clock: Clock<'_>,
    ) {
        match status {
            None if self.job.stage == JobStage::Updating => {
                self.job.stage = JobStage::Updated;
                self.backup.check_at = Some(clock.now);
            }
            // The queue may have retried it after a failure.
            None if matches!(self.state, State::Copying | State::Failed { .. }) => {
                self.job.stage = JobStage::Copied;
                self.state = State::Missing;
                self.backup.check_at = Some(clock.now);
            }
            Some(Status::Failed { reason, outlook }) => self.job_failed(&reason, outlook, clock),
            Some(Status::Pending(_)) if !self.is_mirrored() => self.state = State::Copying,
            Some(Status::Full) if !self.is_mirrored() => {
                self.state = State::Missing;
                self.backup.check_at = Some(clock.now + clock.at_most(QUEUE_FULL_WAIT));
            }
            // The older copy stays; the tag is checked again in the next turn.
            Some(Status::Full) => self.job.stage = JobStage::None,
            None | Some(Status::Pending(_)) => {}
        }
    }

    /// The budget does not allow a copy before `until`.
    pub(in crate::cluster::reconciler) fn wait_for_budget(
        &mut self,
        until: Instant,
        clock: Clock<'_>,
    ) {
        self.job.stage = JobStage::None;
        self.referrers.not_copied();
        if !self.is_mirrored() {
            self.state = State::Missing;
            let longest = clock.now + clock.at_most(LONGEST_WAIT);
            let until = until.max(clock.now + MIN_BUDGET_WAIT);
            self.backup.check_at = Some(until.min(longest));
        }
    }

    fn job_failed(&mut self, reason: &str, outlook: Outlook, clock: Clock<'_>) {
        if outlook == Outlook::Absent {
            self.mark_late_tag();
            self.upstream.absences = self.upstream.absences.saturating_add(1);
        }
        if self.is_mirrored() {
            // The older copy stays; the tag is checked again in the next turn.
            self.job.stage = JobStage::None;
            return;
        }
        self.job.failing_since.get_or_insert(clock.now);
        let state = match outlook {
            Outlook::Lasting | Outlook::Absent => never(reason),
            Outlook::Passing => State::Failed {
                reason: reason.into(),
            },
        };
        if self.state != state {
            self.state = state;
            self.backup.check_at = Some(clock.now + clock.at_most(LONGEST_WAIT));
        }
    }
}
