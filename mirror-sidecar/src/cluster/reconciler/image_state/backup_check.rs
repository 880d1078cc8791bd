//! Checks of the copy in the backup.

use std::time::Duration;

use mirror_contract::Digest;
use tokio::time::Instant;

use super::{
    Clock, ImageState, JobStage, LONGEST_WAIT, MISSES_BEFORE_UPSTREAM, Original, Owner, never,
};
use crate::backoff::doubling;
use crate::cluster::copy_status::State;
use crate::cluster::reconciler::image_checks::Presence;
use crate::cluster::reconciler::metrics::BackupCheck;
use crate::cluster::reconciler::probe::ProbeError;
use crate::copy_queue::Task;

/// Backoff after the first check without a result.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// Longest backoff for a copy that another replica makes: workloads wait for it.
const LONGEST_POLL: Duration = Duration::from_secs(30);

/// The reason for an image of the backup that is not there.
const NO_ORIGINAL: &str =
    "the image is not in the backup, and its name does not say of which original it is a copy";

/// What is known about the copy in the backup.
#[derive(Debug)]
pub(super) struct BackupState {
    /// The digest of the copy when it was last seen.
    pub(super) known: Option<Digest<'static>>,
    pub(super) integrity: Integrity,
    /// This replica has seen `known` since it became the owner.
    is_witness: bool,
    /// `None` if there is nothing to check.
    pub(super) check_at: Option<Instant>,
    /// Checks in a row that did not find the copy.
    pub(super) misses: u32,
    /// Checks in a row without a response from the registry.
    outages: u32,
}

/// Whether the copy is what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integrity {
    /// It is, as far as is known.
    Intact,
    /// Its digest is not `known`, and no job of this replica explains that.
    Changed,
    /// Its tag must be reset to `known`.
    Restoring,
}

impl BackupState {
    pub(super) fn new(first: Instant) -> Self {
        Self {
            known: None,
            integrity: Integrity::Intact,
            is_witness: false,
            check_at: Some(first),
            misses: 0,
            outages: 0,
        }
    }

    /// Forgets what was concluded from earlier checks, but not what the copy was.
    pub(super) fn distrust(&mut self) {
        self.is_witness = false;
        self.integrity = Integrity::Intact;
        self.misses = 0;
    }
}

impl ImageState {
    /// Applies the result of a check of the backup; returns the task that follows.
    pub(in crate::cluster::reconciler) fn backup_checked(
        &mut self,
        result: Result<Presence, ProbeError>,
        clock: Clock<'_>,
    ) -> (BackupCheck, Option<Task>) {
        if result.is_ok() {
            self.backup.outages = 0;
        }
        match result {
            Err(error) => {
                // No response is no absence.
                let wait = if error.is_outage {
                    self.backup.outages = self.backup.outages.saturating_add(1);
                    doubling(FIRST_BACKOFF, LONGEST_POLL, self.backup.outages)
                } else {
                    LONGEST_WAIT
                };
                self.backup.check_at = Some(clock.now + clock.at_most(wait));
                (BackupCheck::Unavailable, None)
            }
            Ok(Presence::Complete { digest, repaired }) => {
                let is_changed = self.copy_found(digest, clock);
                let result = if is_changed {
                    BackupCheck::Changed
                } else if repaired {
                    BackupCheck::Repaired
                } else {
                    BackupCheck::Present
                };
                (result, None)
            }
            // The upload decides; until then a copy that was seen before counts as present.
            Ok(Presence::Hidden) if self.is_mirrored() && self.owner == Owner::Ours => {
                self.job.stage = JobStage::Updating;
                self.backup.check_at = Some(clock.recheck_schedule.next(self.phase, clock.now));
                (BackupCheck::Unavailable, Some(Task::Restore))
            }
            Ok(Presence::Missing | Presence::Hidden) => {
                (BackupCheck::Missing, self.copy_missing(clock))
            }
        }
    }

    /// Records the copy; returns whether somebody else changed it.
    fn copy_found(&mut self, digest: Digest<'static>, clock: Clock<'_>) -> bool {
        if !matches!(self.state, State::Unknown | State::Mirrored { .. }) {
            self.job.copied_at = (self.owner == Owner::Ours).then_some(clock.now);
        }
        let is_changed = self.accept_digest(&digest, clock.now);
        self.state = State::Mirrored { digest };
        self.backup.misses = 0;
        self.upstream.absences = 0;
        self.job.copy_was_found();
        self.backup.check_at = Some(clock.recheck_schedule.next(self.phase, clock.now));
        self.schedule_parts_check(clock.now);
        is_changed
    }

    /// Accepts the digest of the copy unless somebody else may have changed it; returns whether a change is new.
    ///
    /// Anybody with write access to the backup can move its tags, and a restored backup moves them, too. Then the original
    /// decides; see [`Self::upstream_checked`]. The first digest that is seen is accepted, also after a restart.
    fn accept_digest(&mut self, digest: &Digest<'static>, now: Instant) -> bool {
        let is_explained = match self.job.stage {
            JobStage::None => false,
            JobStage::Copied | JobStage::Updated => true,
            // An update does not explain an earlier change.
            JobStage::Updating => self.backup.integrity == Integrity::Intact,
        };
        let is_other = self.known().is_some_and(|known| known != digest);
        let is_ours = self.owner == Owner::Ours;
        let is_changed = is_other && self.backup.is_witness && is_ours && !is_explained;
        self.backup.is_witness = is_ours;
        match self.backup.integrity {
            Integrity::Intact if is_changed => {
                self.backup.integrity = Integrity::Changed;
                self.upstream.check_at = now;
                true
            }
            Integrity::Changed if is_changed => false,
            // Also if it could not be restored because the backup has lost it.
            Integrity::Intact | Integrity::Changed | Integrity::Restoring => {
                self.backup.integrity = Integrity::Intact;
                self.backup.known = Some(digest.clone());
                is_changed
            }
        }
    }

    /// Records that there is no copy; returns the task that follows.
    pub(super) fn copy_missing(&mut self, clock: Clock<'_>) -> Option<Task> {
        if let Original::Absent(times) = self.upstream.original {
            self.upstream.absences = self.upstream.absences.max(times);
        }
        self.upstream.original = Original::Present;
        self.backup.integrity = Integrity::Intact;
        match self.owner {
            Owner::Foreign => {
                self.state = never(NO_ORIGINAL);
                self.backup.check_at = Some(clock.now + clock.at_most(LONGEST_WAIT));
                None
            }
            Owner::Others => {
                if !matches!(self.state, State::Never { .. }) {
                    self.state = State::Missing;
                }
                self.backup.check_at = Some(clock.now + self.missing_backoff(LONGEST_POLL, clock));
                None
            }
            // The backup loses what was just copied: without backoff it would be copied again and again.
            Owner::Ours if self.job.stage == JobStage::Copied => {
                self.job.stage = JobStage::None;
                self.state = State::Missing;
                self.backup.check_at = Some(clock.now + self.missing_backoff(LONGEST_WAIT, clock));
                None
            }
            Owner::Ours => {
                self.job.stage = JobStage::None;
                self.state = State::Copying;
                self.backup.check_at = Some(clock.now + LONGEST_WAIT);
                Some(if self.backup.known.is_some() {
                    Task::Restore
                } else {
                    Task::Copy
                })
            }
        }
    }

    /// The backoff after one more check that did not find the copy.
    fn missing_backoff(&mut self, longest: Duration, clock: Clock<'_>) -> Duration {
        self.backup.misses = self.backup.misses.saturating_add(1);
        if self.backup.misses == MISSES_BEFORE_UPSTREAM {
            self.upstream.check_at = clock.now;
        }
        doubling(FIRST_BACKOFF, longest, self.backup.misses)
    }
}
