//! The state of one image in use, and when its checks are due. No I/O; the time is passed in.
//!
//! [`transitions`] has what follows from the result of each check. It changes the parts of the state, which do not know
//! the whole: [`backup_check`], [`upstream_check`], [`part_checks`], [`referrers`].

mod backup_check;
mod part_checks;
mod referrers;
mod transitions;
mod upstream_check;

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::Digest;
use mirror_copy::ImageContents;
use tokio::time::Instant;

use super::probe::{ByCheck, Check};
use super::recheck_schedule::{Clock, Phase};
use super::referrer_checks::ReferrersPlan;
use crate::cluster::copy_status::{Details, Maintainer, Record, State, Upstream};
use crate::cluster::index::Image;
use crate::lookup::PartsPlan;
use backup_check::{BackupState, Integrity};
use part_checks::PartChecks;
use referrers::Referrers;
use upstream_check::{CONFIRMING_ABSENCES, Original, UpstreamState};

/// Misses in a row after which a replica checks the original of another replica's image itself. The owner does not publish
/// why there is no copy.
const MISSES_BEFORE_UPSTREAM: u32 = 3;

/// How long transient failures are not reported.
const TRANSIENT_FOR: Duration = Duration::from_mins(1);

/// How long a new copy is reported: long enough for the thousands of a first start, and less than the hour for which
/// reported Events are remembered.
pub(super) const REPORT_COPY_FOR: Duration = Duration::from_mins(45);

#[derive(Debug)]
pub(super) struct ImageState {
    phase: Phase,
    owner: Owner,
    maintenance: Maintenance,
    name: NameKind,
    /// The names of its copies that workloads use.
    copies: Arc<[Image]>,
    /// One of `copies` is the name that its copy has now, so there was one.
    is_named_as_copy: bool,
    first_seen: Instant,
    state: State,
    /// Why the state is `Missing`, if it is not the copy job that is awaited.
    why_missing: Option<&'static str>,
    contents: Option<Arc<ImageContents>>,
    backup: BackupState,
    upstream: UpstreamState,
    job: JobState,
    part_checks: PartChecks,
    referrers: Referrers,
    running: ByCheck<bool>,
}

/// The owner of the work on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This replica.
    Ours,
    /// Another replica.
    Others,
    /// The owner of the backup: the image may be no copy.
    Foreign,
}

/// What is done for a copy, by the rules of the namespaces that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maintenance {
    /// It is created, restored and updated.
    Full,
    /// No rule wants it any more: a copy that was there is restored. It is neither created nor updated.
    NoNewCopies,
    /// The same, for namespaces whose rules do not use the backup: no failure of it is one of the backup's users.
    Barred,
}

/// The guarantee of the image's name about its content.
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

/// The copy job of the image.
#[derive(Debug, Default)]
struct JobState {
    stage: JobStage,
    /// When this replica made the copy.
    copied_at: Option<Instant>,
    /// When this replica last made or updated the copy.
    ended_at: Option<Instant>,
    failing_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum JobStage {
    #[default]
    None,
    /// The copy is being updated to the current digest of its tag.
    Updating,
    /// The copy was made; the next check must find it.
    Copied,
    /// The copy was updated.
    Updated,
}

/// A condition that an operator must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// There is no copy; with the reason.
    NotMirrored(String),
    /// The original is gone; there is only the copy.
    LastCopy,
    /// Both the original and the copy are gone.
    Lost,
}

impl ImageState {
    /// An image about which nothing is known.
    pub(super) fn new(phase: Phase, owner: Owner, first_check: Instant, clock: Clock<'_>) -> Self {
        Self {
            phase,
            owner,
            maintenance: Maintenance::Full,
            name: NameKind::Tag,
            copies: Arc::default(),
            is_named_as_copy: false,
            first_seen: clock.now,
            state: State::Unknown,
            why_missing: None,
            contents: None,
            backup: BackupState::new(first_check),
            upstream: UpstreamState::new(clock.next_turn(phase)),
            job: JobState::default(),
            part_checks: PartChecks::default(),
            referrers: Referrers::default(),
            running: ByCheck::default(),
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

    /// Sets the names of copies that workloads use; returns whether they changed.
    pub(super) fn set_copies(&mut self, copies: Vec<Image>, is_named_as_copy: bool) -> bool {
        self.is_named_as_copy = is_named_as_copy;
        let have_changed = *self.copies != *copies;
        if have_changed {
            self.copies = copies.into();
        }
        have_changed
    }

    pub(super) fn copies(&self) -> &[Image] {
        &self.copies
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
            is_barred: self.maintenance == Maintenance::Barred,
            details: self.details(),
        }
    }

    fn details(&self) -> Details {
        let is_missing = self.state == State::Missing;
        Details {
            maintainer: match self.owner {
                Owner::Ours => Maintainer::Own,
                Owner::Others => Maintainer::Other,
                Owner::Foreign => Maintainer::None,
            },
            upstream: if self.is_lost() || self.upstream.is_gone() {
                Upstream::Gone
            } else {
                self.upstream.last_seen
            },
            first_seen: Some(self.first_seen),
            last_check: self.backup.checked_at,
            last_copy: self.job.ended_at,
            why_missing: self.why_missing.filter(|_| is_missing),
            contents: self.contents.clone().filter(|_| self.is_mirrored()),
            copies: Arc::clone(&self.copies),
        }
    }

    /// Sets the contents of the copy, if they are known.
    pub(super) fn set_contents(&mut self, contents: Option<Arc<ImageContents>>) {
        if contents.is_some() {
            self.contents = contents;
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

    /// There is something to report, which may have been reported already.
    pub(super) fn has_report(&self, now: Instant) -> bool {
        self.is_newly_mirrored(now) || self.condition(now).is_some()
    }

    /// When this check is due; `None` while it runs or is not needed.
    pub(super) fn next(&self, check: Check) -> Option<Instant> {
        let at = match check {
            Check::Backup => self.backup.check_at,
            Check::Upstream => Some(self.upstream.check_at).filter(|_| self.wants_upstream()),
            Check::Parts => self.part_checks.at.filter(|_| self.wants_parts()),
        };
        at.filter(|_| !self.running.of(check))
    }

    /// The parts that the next check covers.
    pub(super) fn parts_plan(&self, clock: Clock<'_>) -> PartsPlan {
        self.part_checks.plan(clock.turn(self.phase), clock)
    }

    /// The referrers that the next check of the original covers.
    pub(super) fn referrers_plan(&self, clock: Clock<'_>) -> ReferrersPlan {
        self.referrers.plan(clock.turn(self.phase))
    }

    /// Records that a check has started.
    pub(super) fn begin(&mut self, check: Check) {
        *self.running.of_mut(check) = true;
    }

    /// Records that a check has ended.
    pub(super) fn end(&mut self, check: Check) {
        *self.running.of_mut(check) = false;
    }

    /// Sets when the original is checked next: its registry has no capacity before.
    pub(super) fn postpone_upstream_check(&mut self, until: Instant) {
        self.upstream.check_at = until;
    }

    fn wants_upstream(&self) -> bool {
        match self.owner {
            Owner::Ours => self.is_mirrored() && self.job.stage != JobStage::Updating,
            Owner::Others => {
                !self.is_mirrored()
                    && self.maintenance == Maintenance::Full
                    && self.backup.misses >= MISSES_BEFORE_UPSTREAM
                    && self.backup.check_at.is_some()
            }
            Owner::Foreign => false,
        }
    }

    fn wants_parts(&self) -> bool {
        self.owner == Owner::Ours && self.is_mirrored() && self.job.stage == JobStage::None
    }
}

impl JobState {
    fn has_failed_for(&self, time: Duration, now: Instant) -> bool {
        self.failing_since
            .is_some_and(|since| now.saturating_duration_since(since) >= time)
    }

    /// Returns whether a job of this replica explains that the copy has another digest.
    fn explains_change(&self, integrity: Integrity) -> bool {
        match self.stage {
            JobStage::None => false,
            JobStage::Copied | JobStage::Updated => true,
            // An update does not explain an earlier change.
            JobStage::Updating => integrity == Integrity::Intact,
        }
    }

    /// Records that a check found the copy.
    fn copy_found(&mut self, now: Instant) {
        self.failing_since = None;
        if matches!(self.stage, JobStage::Copied | JobStage::Updated) {
            self.ended_at = Some(now);
            self.stage = JobStage::None;
        }
    }
}

fn never(reason: &str) -> State {
    State::Never {
        reason: Arc::from(reason),
    }
}
