//! The state of one image in use: what is known, what follows from each check, and when the next one is due. No I/O; the
//! time is passed in.
//!
//! Transitions stand beside the part of the state that they change: [`backup_check`], [`upstream_check`], [`part_checks`],
//! [`referrers`], [`job`].

mod backup_check;
mod job;
mod part_checks;
mod referrers;
mod upstream_check;

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::Digest;
use tokio::time::Instant;

use super::conditions::Condition;
use super::recheck_schedule::{Phase, RecheckSchedule};
use crate::cluster::copy_status::{Record, State};
use backup_check::{BackupState, Integrity};
use job::{JobStage, JobState};
use part_checks::PartChecks;
use referrers::Referrers;
use upstream_check::{Original, UpstreamState};

/// Longest time between two checks of an image without a copy: the cause may have been fixed by then.
const LONGEST_WAIT: Duration = Duration::from_mins(15);

/// Misses in a row after which a replica asks upstream itself about another replica's image. The owner does not publish why
/// there is no copy.
const MISSES_BEFORE_UPSTREAM: u32 = 3;

/// Absences in a row, with a pause in between, that confirm that an original is gone.
const CONFIRMING_ABSENCES: u8 = 2;

/// How long transient failures are not reported.
const TRANSIENT_FOR: Duration = Duration::from_mins(1);

/// How long a new copy is reported: long enough for the thousands of a first start, and less than the hour for which
/// reported Events are remembered.
pub(super) const REPORT_COPY_FOR: Duration = Duration::from_mins(45);

/// One image in use.
#[derive(Debug)]
pub(super) struct ImageState {
    phase: Phase,
    owner: Owner,
    name: NameKind,
    /// A workload names the image's copy, so there was one.
    is_named_as_copy: bool,
    state: State,
    backup: BackupState,
    upstream: UpstreamState,
    job: JobState,
    part_checks: PartChecks,
    referrers: Referrers,
    running: RunningChecks,
}

/// Who maintains the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This replica.
    Ours,
    /// Another replica.
    Others,
    /// The owner of the backup: the image may be no copy.
    Foreign,
}

/// What the image's name guarantees about its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameKind {
    /// A digest: the content cannot change.
    Digest,
    Tag,
    /// A tag that did not exist upstream when it was first looked up: the current content may be from anybody who registered
    /// the name since.
    ///
    /// Forgotten when nothing uses the image any more, and on restart. After a restart, an image that has a copy counts as
    /// mirrored; one without a copy is looked up again, and its absence is recorded again before there is anything to copy.
    LateTag,
}

#[derive(Clone, Copy, Debug, Default)]
struct RunningChecks {
    backup: bool,
    upstream: bool,
    parts: bool,
}

/// A kind of check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Is the copy in the backup?
    Backup,
    /// What is the original now?
    Upstream,
    /// Are all manifests and blobs that the copy refers to in the backup?
    Parts,
}

/// The current time and the schedule of re-checks.
#[derive(Clone, Copy)]
pub(super) struct Clock<'a> {
    pub(super) recheck_schedule: &'a RecheckSchedule,
    pub(super) now: Instant,
}

impl ImageState {
    /// An image about which nothing is known; its first check is due at `first`.
    pub(super) fn new(phase: Phase, owner: Owner, first: Instant, clock: Clock<'_>) -> Self {
        Self {
            phase,
            owner,
            name: NameKind::Tag,
            is_named_as_copy: false,
            state: State::Unknown,
            backup: BackupState::new(first),
            upstream: UpstreamState::new(clock.recheck_schedule.next(phase, clock.now)),
            job: JobState::default(),
            part_checks: PartChecks::default(),
            referrers: Referrers::default(),
            running: RunningChecks::default(),
        }
    }

    /// Marks an image that cannot have a copy.
    pub(super) fn never_mirrored(mut self, reason: &str) -> Self {
        self.state = never(reason);
        self.backup.check_at = None;
        self
    }

    /// Marks an image that is named by its digest.
    pub(super) fn named_by_digest(mut self) -> Self {
        self.name = NameKind::Digest;
        self
    }

    pub(super) fn set_named_as_copy(&mut self, is_named_as_copy: bool) {
        self.is_named_as_copy = is_named_as_copy;
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// The digest of the copy when it was last seen.
    pub(super) fn known(&self) -> Option<&Digest<'static>> {
        self.backup.known.as_ref()
    }

    /// The digest that the copy's tag must be reset to.
    pub(super) fn digest_to_restore(&self) -> Option<&Digest<'static>> {
        self.known()
            .filter(|_| self.backup.integrity == Integrity::Restoring)
    }

    /// No check has ended yet.
    pub(super) fn is_new(&self) -> bool {
        self.state == State::Unknown
    }

    /// The part of the state that other components read.
    pub(super) fn record(&self) -> Record {
        let is_mirrored = self.is_mirrored();
        Record {
            state: self.state.clone(),
            is_last_copy: self.is_lost() || is_mirrored && self.upstream.is_gone(),
            is_kept: is_mirrored && self.upstream.original == Original::Moved,
            appeared_late: is_mirrored && self.name == NameKind::LateTag,
        }
    }

    /// A copy is being made, or may be retried by the queue.
    pub(super) fn follows_job(&self) -> bool {
        let is_open = !self.is_mirrored() || self.job.stage == JobStage::Updating;
        is_open && self.owner != Owner::Foreign && self.backup.check_at.is_some()
    }

    pub(super) fn is_copying(&self) -> bool {
        self.state == State::Copying
    }

    /// The condition that this replica reports to the image's users.
    pub(super) fn condition(&self, now: Instant) -> Option<Condition> {
        if self.owner == Owner::Others {
            return None;
        }
        if self.is_lost() {
            return Some(Condition::Lost);
        }
        match &self.state {
            State::Never { reason } => Some(Condition::NotMirrored(reason.to_string())),
            State::Failed { reason } if self.job.has_failed_for(TRANSIENT_FOR, now) => {
                Some(Condition::NotMirrored(reason.to_string()))
            }
            State::Mirrored { .. } if self.record().is_last_copy => Some(Condition::LastCopy),
            _ => None,
        }
    }

    /// An attempt to copy it failed, and none has succeeded since.
    pub(super) fn has_failed_copy(&self) -> bool {
        self.job.failing_since.is_some()
    }

    pub(super) fn is_mirrored(&self) -> bool {
        matches!(self.state, State::Mirrored { .. })
    }

    /// There was a copy once, and now both copy and original are gone.
    fn is_lost(&self) -> bool {
        let had_copy = self.backup.known.is_some() || self.is_named_as_copy;
        had_copy && !self.is_mirrored() && self.upstream.absences >= CONFIRMING_ABSENCES
    }

    /// This replica has just made the copy.
    pub(super) fn is_newly_mirrored(&self, now: Instant) -> bool {
        let is_new = |copied: Instant| now.saturating_duration_since(copied) < REPORT_COPY_FOR;
        self.owner == Owner::Ours && self.is_mirrored() && self.job.copied_at.is_some_and(is_new)
    }

    /// When this check is due; `None` while it runs or is not needed.
    pub(super) fn next(&self, check: Check) -> Option<Instant> {
        let at = match check {
            Check::Backup => self.backup.check_at,
            Check::Upstream => self.wants_upstream().then_some(self.upstream.check_at),
            Check::Parts => self.parts_check_at(),
        };
        at.filter(|_| !self.running.is(check))
    }

    /// Records that a check has started.
    pub(super) fn begin(&mut self, check: Check) {
        *self.running.of(check) = true;
    }

    /// Records that a check has ended.
    pub(super) fn end(&mut self, check: Check) {
        *self.running.of(check) = false;
    }

    /// The upstream registry cannot be asked before `until`.
    pub(super) fn postpone_upstream_check(&mut self, until: Instant) {
        self.upstream.check_at = until;
    }

    /// Sets the owner after replicas changed.
    pub(super) fn set_owner(&mut self, owner: Owner, clock: Clock<'_>) {
        if self.owner == owner || self.owner == Owner::Foreign {
            return;
        }
        self.owner = owner;
        self.job.stage = JobStage::None;
        // The previous owner may have changed the copy; the next check accepts what it finds.
        self.backup.distrust();
        self.recheck_parts(clock.now);
        self.upstream
            .reset(clock.recheck_schedule.next(self.phase, clock.now));
        if !self.is_mirrored() && self.backup.check_at.is_some() {
            self.backup.check_at = self.backup.check_at.map(|at| at.min(clock.now));
        }
    }

    /// Records that there was nothing to copy. An image that had a copy before keeps its trust.
    fn mark_late_tag(&mut self) {
        if self.name == NameKind::Tag && self.backup.known.is_none() {
            self.name = NameKind::LateTag;
        }
    }

    fn wants_upstream(&self) -> bool {
        match self.owner {
            Owner::Ours => self.is_mirrored() && self.job.stage != JobStage::Updating,
            Owner::Others => {
                !self.is_mirrored()
                    && self.backup.misses >= MISSES_BEFORE_UPSTREAM
                    && self.backup.check_at.is_some()
            }
            Owner::Foreign => false,
        }
    }
}

impl RunningChecks {
    fn is(mut self, check: Check) -> bool {
        *self.of(check)
    }

    fn of(&mut self, check: Check) -> &mut bool {
        match check {
            Check::Backup => &mut self.backup,
            Check::Upstream => &mut self.upstream,
            Check::Parts => &mut self.parts,
        }
    }
}

impl Clock<'_> {
    /// `wait`, or the re-check interval if that is shorter.
    fn at_most(self, wait: Duration) -> Duration {
        wait.min(self.recheck_schedule.interval())
    }
}

fn never(reason: &str) -> State {
    State::Never {
        reason: Arc::from(reason),
    }
}
