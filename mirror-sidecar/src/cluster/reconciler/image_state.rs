//! One image in use: what is known about it, what follows from what was seen, and when to look next. No I/O: time is given.

mod backup_check;
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
use part_checks::PartChecks;
use referrers::Referrers;

/// Longest time between two looks at an image that has no copy: by then somebody may have mended what is wrong.
const LONGEST_WAIT: Duration = Duration::from_mins(15);

/// Looks in vain after which a replica asks by itself whether the original of another one's image exists at all. The owner
/// does not tell the others why there is no copy.
const PATIENCE: u32 = 3;

/// How often the original must be found to be gone, in a row and with a pause in between, before that is believed.
const ABSENCES: u8 = 2;

/// How long failures that may pass are kept from people.
const PASSING: Duration = Duration::from_mins(1);

/// How long it is told that a copy was made: long enough for a first start, where thousands are, and not so long that it is
/// told twice, since what was told is known for an hour.
pub(super) const NEWS_FOR: Duration = Duration::from_mins(45);

/// One image in use.
#[derive(Debug)]
pub(super) struct ImageState {
    phase: Phase,
    owner: Owner,
    state: State,
    original: Original,
    job: Job,
    /// What the copy was when it was last seen.
    known: Option<Digest<'static>>,
    /// Whether this replica has seen `known` since it keeps the copy.
    is_witness: bool,
    doubt: Doubt,
    name: Name,
    under_way: UnderWay,
    /// When this replica made the copy.
    made_at: Option<Instant>,
    /// When to look at the backup; `None` if that is of no use.
    look_at: Option<Instant>,
    part_checks: PartChecks,
    referrers: Referrers,
    upstream_at: Instant,
    /// The turn in which it last followed its tag.
    updated_in: Option<u128>,
    /// Looks in a row that did not find what should be there.
    vain: u32,
    /// Looks in a row that saw nothing.
    blind: u32,
    failing_since: Option<Instant>,
    /// How often the original was not there, in a row, while there was no copy.
    absences: u8,
    /// A workload names the image as its copy, so there was one.
    is_named_as_copy: bool,
}

/// Who keeps the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This replica.
    Ours,
    /// Another one.
    Others,
    /// The owner of the backup: it may be no copy at all.
    Foreign,
}

/// What is known of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Original {
    /// Nothing that would matter.
    Fine,
    /// Its tag moved, and the copy stays.
    Moved,
    /// It was not there, so many times in a row.
    Absent(u8),
}

/// What became of the last copy that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    None,
    /// The copy is to follow its tag.
    Updating,
    /// It was made just now, and must be seen.
    Made,
    /// It followed its tag just now.
    Updated,
}

/// Whether the copy is what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    None,
    /// It is not what is known, and nothing that was done here explains that.
    Changed,
    /// What is known is to be put back.
    PutBack,
}

/// What the image's name says about its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// It is a digest: nobody can change what it is.
    Digest,
    /// It is a tag alone.
    Tag,
    /// The same, and there was nothing to copy when it was looked for: whoever took the name since may have made what is
    /// there now.
    ///
    /// This is forgotten with the image, when nothing uses it any more, and in a restart. What has a copy by then counts as
    /// mirrored as any other copy does; what has none is asked for anew, and if its original is still absent that is noted
    /// again before there is anything to copy. What appeared late and was copied before the restart is therefore as good as
    /// any other afterwards.
    LateTag,
}

/// Which looks are under way.
#[derive(Clone, Copy, Debug, Default)]
struct UnderWay {
    backup: bool,
    upstream: bool,
    parts: bool,
}

/// What to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Whether the copy is there.
    Backup,
    /// What the original is.
    Upstream,
    /// Whether everything is there that the copy names.
    Parts,
}

/// The time, and when turns are.
#[derive(Clone, Copy)]
pub(super) struct Clock<'a> {
    pub(super) recheck_schedule: &'a RecheckSchedule,
    pub(super) now: Instant,
}

impl ImageState {
    /// An image about which nothing is known; it is to be looked at then for the first time.
    pub(super) fn new(phase: Phase, owner: Owner, first: Instant, clock: Clock<'_>) -> Self {
        Self {
            phase,
            owner,
            state: State::Unknown,
            original: Original::Fine,
            job: Job::None,
            known: None,
            is_witness: false,
            doubt: Doubt::None,
            name: Name::Tag,
            under_way: UnderWay::default(),
            made_at: None,
            look_at: Some(first),
            part_checks: PartChecks::default(),
            referrers: Referrers::default(),
            upstream_at: clock.recheck_schedule.next(phase, clock.now),
            updated_in: None,
            vain: 0,
            blind: 0,
            failing_since: None,
            absences: 0,
            is_named_as_copy: false,
        }
    }

    /// An image that cannot have a copy, for this reason.
    pub(super) fn hopeless(mut self, reason: &str) -> Self {
        self.state = never(reason);
        self.look_at = None;
        self
    }

    /// An image that is named by its digest.
    pub(super) fn pinned(mut self) -> Self {
        self.name = Name::Digest;
        self
    }

    /// Records whether a workload names the image as its copy.
    pub(super) fn set_named_as_copy(&mut self, is_named_as_copy: bool) {
        self.is_named_as_copy = is_named_as_copy;
    }

    /// Who keeps the copy.
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// What the copy was when it was last seen.
    pub(super) fn known(&self) -> Option<&Digest<'static>> {
        self.known.as_ref()
    }

    /// What the copy's tag is to stand for again.
    pub(super) fn to_put_back(&self) -> Option<&Digest<'static>> {
        self.known().filter(|_| self.doubt == Doubt::PutBack)
    }

    /// Whether nobody has looked for its copy yet.
    pub(super) fn is_new(&self) -> bool {
        self.state == State::Unknown
    }

    /// What others may know.
    pub(super) fn record(&self) -> Record {
        let is_mirrored = self.is_mirrored();
        Record {
            state: self.state.clone(),
            is_last_copy: self.is_lost()
                || is_mirrored
                    && matches!(self.original, Original::Absent(times) if times >= ABSENCES),
            is_kept: is_mirrored && self.original == Original::Moved,
            appeared_late: is_mirrored && self.name == Name::LateTag,
        }
    }

    /// Whether a copy is being made, or may be tried again by itself.
    pub(super) fn follows_a_job(&self) -> bool {
        let is_open = !self.is_mirrored() || self.job == Job::Updating;
        is_open && self.owner != Owner::Foreign && self.look_at.is_some()
    }

    /// Whether its copy is being made, or waits for its turn.
    pub(super) fn is_copying(&self) -> bool {
        self.state == State::Copying
    }

    /// What is wrong and should be told, if it is this replica's to tell.
    pub(super) fn alarm(&self, now: Instant) -> Option<Condition> {
        if self.owner == Owner::Others {
            return None;
        }
        let has_lasted = |since: Instant| now.saturating_duration_since(since) >= PASSING;
        if self.is_lost() {
            return Some(Condition::Lost);
        }
        match &self.state {
            State::Never { reason } => Some(Condition::NotMirrored(reason.to_string())),
            State::Failed { reason } if self.failing_since.is_some_and(has_lasted) => {
                Some(Condition::NotMirrored(reason.to_string()))
            }
            State::Mirrored { .. } if self.record().is_last_copy => Some(Condition::LastCopy),
            _ => None,
        }
    }

    /// Whether an attempt to copy it has failed, and none succeeded since.
    pub(super) fn has_failed_copy(&self) -> bool {
        self.failing_since.is_some()
    }

    /// Whether the copy is there.
    pub(super) fn is_mirrored(&self) -> bool {
        matches!(self.state, State::Mirrored { .. })
    }

    /// Whether there was a copy once, and neither it nor the original is there any more.
    fn is_lost(&self) -> bool {
        let was_there = self.known.is_some() || self.is_named_as_copy;
        was_there && !self.is_mirrored() && self.absences >= ABSENCES
    }

    /// Whether this replica made the copy just now.
    pub(super) fn has_news(&self, now: Instant) -> bool {
        let is_new = |made: Instant| now.saturating_duration_since(made) < NEWS_FOR;
        self.owner == Owner::Ours && self.is_mirrored() && self.made_at.is_some_and(is_new)
    }

    /// When that is to be found out next; `None` while it is, or if it is of no use.
    pub(super) fn next(&self, look: Look) -> Option<Instant> {
        let at = match look {
            Look::Backup => self.look_at,
            Look::Upstream => self.wants_upstream().then_some(self.upstream_at),
            Look::Parts => self.parts_at(),
        };
        at.filter(|_| !self.under_way.is(look))
    }

    /// It is being looked at.
    pub(super) fn begin(&mut self, look: Look) {
        *self.under_way.of(look) = true;
    }

    /// It is not being looked at any more.
    pub(super) fn end(&mut self, look: Look) {
        *self.under_way.of(look) = false;
    }

    /// The original's registry cannot be asked before then.
    pub(super) fn spare(&mut self, until: Instant) {
        self.upstream_at = until;
    }

    /// The shares of the replicas are like this now.
    pub(super) fn give_to(&mut self, owner: Owner, clock: Clock<'_>) {
        if self.owner == owner || self.owner == Owner::Foreign {
            return;
        }
        self.owner = owner;
        self.original = Original::Fine;
        self.absences = 0;
        self.job = Job::None;
        // Whoever kept it until now may have changed it; the next look believes what it sees.
        self.is_witness = false;
        self.doubt = Doubt::None;
        self.vain = 0;
        self.recheck_parts(clock.now);
        self.upstream_at = clock.recheck_schedule.next(self.phase, clock.now);
        if !self.is_mirrored() && self.look_at.is_some() {
            self.look_at = self.look_at.map(|at| at.min(clock.now));
        }
    }

    /// There was nothing to copy. What was there once is no stranger.
    fn record_absence(&mut self) {
        if self.name == Name::Tag && self.known.is_none() {
            self.name = Name::LateTag;
        }
    }

    fn wants_upstream(&self) -> bool {
        match self.owner {
            Owner::Ours => self.is_mirrored() && self.job != Job::Updating,
            Owner::Others => !self.is_mirrored() && self.vain >= PATIENCE && self.look_at.is_some(),
            Owner::Foreign => false,
        }
    }
}

impl UnderWay {
    fn is(mut self, look: Look) -> bool {
        *self.of(look)
    }

    fn of(&mut self, look: Look) -> &mut bool {
        match look {
            Look::Backup => &mut self.backup,
            Look::Upstream => &mut self.upstream,
            Look::Parts => &mut self.parts,
        }
    }
}

impl Clock<'_> {
    /// That long, but not longer than an interval.
    fn at_most(self, wait: Duration) -> Duration {
        wait.min(self.recheck_schedule.interval())
    }
}

fn never(reason: &str) -> State {
    State::Never {
        reason: Arc::from(reason),
    }
}
