//! What follows from the results of checks, from the copy job, and from a change of the owner.

use std::time::Duration;

use mirror_contract::Digest;
use mirror_copy::Completeness;
use tokio::time::Instant;

use super::backup_check::{Integrity, LONGEST_POLL};
use super::{
    ImageState, JobStage, MISSES_BEFORE_UPSTREAM, Maintenance, NameKind, Original, Owner, never,
};
use crate::cluster::config::OnMovedTag;
use crate::cluster::copy_status::{self, State};
use crate::cluster::reconciler::image_checks::{Presence, Upstream};
use crate::cluster::reconciler::metrics::{BackupCheck, UpstreamCheck};
use crate::cluster::reconciler::probe::ProbeError;
use crate::cluster::reconciler::recheck_schedule::{Clock, LONGEST_WAIT};
use crate::cluster::reconciler::referrer_checks::UpstreamReferrers;
use crate::copy_queue::{Outlook, Status, Task};
use crate::lookup::PartsPlan;

/// Shortest wait of an image for its budget: many images may wait for the same one.
const MIN_BUDGET_WAIT: Duration = Duration::from_secs(30);

/// Wait before an image is requested again whose namespace has too many copies in the queue.
const QUEUE_FULL_WAIT: Duration = Duration::from_mins(1);

/// The reason for an image of the backup that is not there.
const NO_ORIGINAL: &str =
    "the image is not in the backup, and its name does not say of which original it is a copy";

/// The reason for a copy that no rule wants.
const NOT_WANTED: &str = "there is no copy, and no rule mirrors the image to this backup";

/// Reasons for a missing copy whose job is not awaited.
const WAITS_FOR_QUEUE: &str =
    "the copy waits, because its namespaces have too many images in the copy queue";
const WAITS_FOR_BUDGET: &str = "the copy waits, because the daily budget of new images of its namespaces is used up \
     (--max-new-images-per-namespace, --max-new-bytes-per-namespace)";
const LOST_AT_ONCE: &str =
    "the backup lost the copy as soon as it was made; check its clean-up rules and storage";
const MADE_BY_ANOTHER: &str = "there is no copy yet; another replica of mirror-sidecar makes it";
const JUST_COPIED: &str = "the copy was made, and is being checked";

impl ImageState {
    /// Sets the owner after replicas changed.
    pub(in crate::cluster::reconciler) fn set_owner(&mut self, owner: Owner, clock: Clock<'_>) {
        if self.owner == owner || self.owner == Owner::Foreign {
            return;
        }
        self.owner = owner;
        self.job.stage = JobStage::None;
        // The previous owner may have changed the copy; the next check accepts what it finds.
        self.backup.distrust();
        self.recheck_parts(clock.now);
        self.upstream.reset(clock.next_turn(self.phase));
        if !self.is_mirrored() {
            self.backup.check_at = self.backup.check_at.map(|at| at.min(clock.now));
        }
    }

    /// Sets what is done for the copy, after the rules or the users changed; returns whether it is something else.
    pub(in crate::cluster::reconciler) fn set_maintenance(
        &mut self,
        maintenance: Maintenance,
        now: Instant,
    ) -> bool {
        let is_changed = self.maintenance != maintenance;
        self.maintenance = maintenance;
        if is_changed && maintenance == Maintenance::Full && !self.is_mirrored() {
            self.backup.check_at = self.backup.check_at.map(|_| now);
        }
        is_changed
    }

    /// Applies the result of a check of the backup; returns the task that follows.
    pub(in crate::cluster::reconciler) fn backup_checked(
        &mut self,
        result: Result<Presence, ProbeError>,
        clock: Clock<'_>,
    ) -> (BackupCheck, Option<Task>) {
        let presence = match result {
            Ok(presence) => presence,
            Err(error) => {
                self.backup.failed(error.is_outage, clock);
                return (BackupCheck::Unavailable, None);
            }
        };
        self.backup.responded(clock.now);
        match presence {
            Presence::Complete { digest, repaired } => {
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
            Presence::Hidden if self.is_mirrored() && self.owner == Owner::Ours => {
                self.backup.check_at = Some(clock.next_turn(self.phase));
                self.job.stage = JobStage::Updating;
                (BackupCheck::Unavailable, Some(Task::Restore))
            }
            Presence::Missing | Presence::Hidden => {
                (BackupCheck::Missing, self.copy_missing(clock))
            }
        }
    }

    /// Records the copy; returns whether somebody else changed it.
    fn copy_found(&mut self, digest: Digest<'static>, clock: Clock<'_>) -> bool {
        let is_ours = self.owner == Owner::Ours;
        if !matches!(self.state, State::Unknown | State::Mirrored { .. }) {
            self.job.copied_at = is_ours.then_some(clock.now);
        }
        let is_explained = self.job.explains_change(self.backup.integrity);
        let is_changed = self.backup.accept(&digest, is_ours, is_explained);
        if is_changed && self.backup.integrity == Integrity::Changed {
            self.upstream.check_at = clock.now;
        }
        let is_other = matches!(&self.state, State::Mirrored { digest: known } if *known != digest);
        if is_other {
            self.contents = None;
        }
        self.state = State::Mirrored { digest };
        self.backup.misses = 0;
        self.upstream.absences = 0;
        if self.job.stage == JobStage::Updated {
            self.upstream.last_seen = copy_status::Upstream::Current;
        }
        self.job.copy_found(clock.now);
        self.backup.check_at = Some(clock.next_turn(self.phase));
        self.part_checks.schedule(clock.now);
        is_changed
    }

    /// Records that there is no copy; returns the task that follows.
    fn copy_missing(&mut self, clock: Clock<'_>) -> Option<Task> {
        self.upstream.copy_missing();
        self.backup.integrity = Integrity::Intact;
        match self.owner {
            Owner::Foreign => {
                self.state = never(NO_ORIGINAL);
                self.backup.check_at = Some(clock.after(LONGEST_WAIT));
                return None;
            }
            Owner::Others => {
                if self.maintenance != Maintenance::Full {
                    self.state = never(NOT_WANTED);
                } else if !matches!(self.state, State::Never { .. }) {
                    self.state = State::Missing;
                    self.why_missing = Some(MADE_BY_ANOTHER);
                }
                self.backup.missed(LONGEST_POLL, clock.now);
            }
            // The backup loses what was just copied: without backoff it would be copied again and again.
            Owner::Ours if self.job.stage == JobStage::Copied => {
                self.job.stage = JobStage::None;
                self.state = State::Missing;
                self.why_missing = Some(LOST_AT_ONCE);
                self.backup.missed(LONGEST_WAIT, clock.now);
            }
            Owner::Ours => {
                self.job.stage = JobStage::None;
                let had_copy = self.backup.known.is_some();
                self.backup.check_at = Some(clock.now + LONGEST_WAIT);
                if !had_copy && self.maintenance != Maintenance::Full {
                    self.state = never(NOT_WANTED);
                    return None;
                }
                self.state = State::Copying;
                return Some(if had_copy { Task::Restore } else { Task::Copy });
            }
        }
        if self.backup.misses == MISSES_BEFORE_UPSTREAM {
            self.upstream.check_at = clock.now;
        }
        None
    }

    /// Applies the response of the original's registry; returns the task that follows.
    pub(in crate::cluster::reconciler) fn upstream_checked(
        &mut self,
        upstream: Upstream,
        on_moved: OnMovedTag,
        clock: Clock<'_>,
    ) -> (UpstreamCheck, Option<Task>) {
        let on_moved = match self.maintenance {
            Maintenance::Full => on_moved,
            Maintenance::NoNewCopies | Maintenance::Barred => OnMovedTag::Keep,
        };
        self.upstream.check_at = clock.next_turn(self.phase);
        let result = match &upstream {
            Upstream::Is(_) => UpstreamCheck::Current,
            Upstream::Absent => UpstreamCheck::Gone,
            Upstream::Unknown { .. } => UpstreamCheck::Unknown,
        };
        let State::Mirrored { digest } = &self.state else {
            if let Upstream::Is(_) = upstream {
                self.upstream.last_seen = copy_status::Upstream::Current;
            }
            self.explain_missing(upstream, clock);
            return (result, None);
        };
        match &upstream {
            Upstream::Is(original) if digest == original => {
                self.upstream.last_seen = copy_status::Upstream::Current;
            }
            Upstream::Is(_) => self.upstream.last_seen = copy_status::Upstream::Moved,
            Upstream::Absent | Upstream::Unknown { .. } => {}
        }
        match upstream {
            // The copy has the digest of the original, no matter who changed it.
            Upstream::Is(original) if *digest == original => {
                self.upstream.original = Original::Present;
                self.backup.confirm(original);
                (result, None)
            }
            Upstream::Is(original) => {
                if on_moved == OnMovedTag::Keep && self.backup.restore_if_changed(clock.now) {
                    let is_old = self.backup.known.as_ref() == Some(&original);
                    self.upstream.original = if is_old {
                        Original::Present
                    } else {
                        Original::Moved
                    };
                    return (UpstreamCheck::Kept, None);
                }
                if self.upstream.moved(on_moved, clock.turn(self.phase)) {
                    self.job.stage = JobStage::Updating;
                    return (UpstreamCheck::Updated, Some(Task::Update));
                }
                (UpstreamCheck::Kept, None)
            }
            Upstream::Absent => {
                self.upstream.absent(clock);
                self.backup.restore_if_changed(clock.now);
                (result, None)
            }
            Upstream::Unknown { lasting, .. } => {
                let is_to_wait = !lasting && on_moved == OnMovedTag::Update;
                if is_to_wait && self.backup.integrity == Integrity::Changed {
                    self.upstream.check_at = clock.after(LONGEST_WAIT);
                } else {
                    // Many registries do not disclose that an image is gone.
                    self.backup.restore_if_changed(clock.now);
                }
                (result, None)
            }
        }
    }

    /// Records why another replica has made no copy.
    fn explain_missing(&mut self, upstream: Upstream, clock: Clock<'_>) {
        if self.owner != Owner::Others {
            return;
        }
        self.upstream.check_at = clock.after(LONGEST_WAIT);
        match upstream {
            Upstream::Absent => {
                self.mark_late_tag();
                self.state = never("its registry has no such image");
            }
            Upstream::Unknown {
                reason,
                lasting: true,
            } => {
                self.mark_late_tag();
                self.state = never(&reason);
            }
            Upstream::Is(_) if matches!(self.state, State::Never { .. }) => {
                self.state = State::Missing;
                self.why_missing = Some(MADE_BY_ANOTHER);
            }
            Upstream::Is(_) | Upstream::Unknown { .. } => {}
        }
    }

    /// Checks everything again: the backup was down, or another replica maintained the copy.
    pub(in crate::cluster::reconciler) fn recheck_parts(&mut self, now: Instant) {
        self.part_checks.restart();
        if self.owner == Owner::Ours && self.is_mirrored() {
            self.backup.check_at = self.backup.check_at.map(|_| now);
        }
    }

    /// Applies the result of a parts check; returns the task that follows.
    pub(in crate::cluster::reconciler) fn parts_checked(
        &mut self,
        plan: PartsPlan,
        result: Result<Completeness, ProbeError>,
        clock: Clock<'_>,
    ) -> Option<Task> {
        let turn = clock.turn(self.phase);
        let are_missing = self.part_checks.checked(plan, result, turn, clock);
        if are_missing && self.owner == Owner::Ours && self.is_mirrored() {
            self.copy_missing(clock)
        } else {
            None
        }
    }

    /// Applies comparisons of the referrers; returns the task that copies missing ones.
    pub(in crate::cluster::reconciler) fn referrers_checked(
        &mut self,
        checked: &[UpstreamReferrers],
    ) -> Option<Task> {
        let is_updated = self.maintenance == Maintenance::Full && self.wants_parts();
        if !is_updated || self.backup.integrity != Integrity::Intact {
            return None;
        }
        self.referrers.checked(checked).then(|| {
            self.job.stage = JobStage::Updating;
            Task::Update
        })
    }

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
                self.why_missing = Some(JUST_COPIED);
                self.backup.check_at = Some(clock.now);
            }
            Some(Status::Failed { reason, outlook }) => self.job_failed(&reason, outlook, clock),
            Some(Status::Pending(_)) if !self.is_mirrored() => self.state = State::Copying,
            Some(Status::Full) if !self.is_mirrored() => {
                self.state = State::Missing;
                self.why_missing = Some(WAITS_FOR_QUEUE);
                self.backup.check_at = Some(clock.after(QUEUE_FULL_WAIT));
            }
            // The older copy stays; the tag is checked again in the next turn.
            Some(Status::Full) => self.job.stage = JobStage::None,
            None | Some(Status::Pending(_)) => {}
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
            self.backup.check_at = Some(clock.after(LONGEST_WAIT));
        }
    }

    /// Records that the budget allows no copy before `until`.
    pub(in crate::cluster::reconciler) fn wait_for_budget(
        &mut self,
        until: Instant,
        clock: Clock<'_>,
    ) {
        self.job.stage = JobStage::None;
        self.referrers.end_latest(false);
        if !self.is_mirrored() {
            self.state = State::Missing;
            self.why_missing = Some(WAITS_FOR_BUDGET);
            let until = until.max(clock.now + MIN_BUDGET_WAIT);
            self.backup.check_at = Some(until.min(clock.after(LONGEST_WAIT)));
        }
    }

    /// Records that there was nothing to copy. An image that had a copy before keeps its trust.
    fn mark_late_tag(&mut self) {
        if self.name == NameKind::Tag && self.backup.known.is_none() {
            self.name = NameKind::LateTag;
        }
    }
}
