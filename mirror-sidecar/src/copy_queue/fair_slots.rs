//! The slots for copies, and which job gets the next one.
//!
//! All backups share the slots, and take turns first. The next slot goes to the backup with the fewest running copies,
//! and one is never given to copies of the same backup as all others, so that a slow backup does not stop the others.
//!
//! Within a backup, images in use and images requested by admission take turns. Among images in use, lost copies are
//! first, and namespaces take turns; within a namespace, and among requested images, sources do. A backup or a group that
//! starts to wait joins at the end of the round, so each one before it is served at most once until its turn. Sources that
//! did not deliver wait in the penalty queue, behind all others.

mod candidates;
mod waiting;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mirror_copy::MemoryPlace;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::limits::{Allowance, Blame, Excess, Pace, Verdict};
use super::progress::JobProgress;
use super::sources::{BackupId, Class, Domain, Sources};
use waiting::{Candidate, Waiting};
pub(super) use waiting::{Lane, Sort, Ticket};

/// One in this many slots is kept for images in use, so that requested images never take them all. Without a cluster
/// nothing is in use and nothing is kept.
const RESERVED_ONE_IN: usize = 4;

/// An image that has waited this long in the penalty queue, or after a failure, is served once as if it were untried,
/// so that a flood of new names does not starve it.
const MAX_PENALTY_WAIT: Duration = Duration::from_mins(15);

/// At most one aged image is served in this time: they must not starve the untried ones in turn.
const AGED_INTERVAL: Duration = Duration::from_mins(2);

/// An isolated image waits until no copy runs. After this time no other copy starts until then, for at most
/// [`DRAIN_WITHIN`].
const IDLE_WITHIN: Duration = Duration::from_mins(15);

/// How long the start of other copies is held back for an isolated one.
const DRAIN_WITHIN: Duration = Duration::from_mins(2);

/// The slots for copies. A registrable domain, and an address, get about half of them for all backups together. If there
/// are two or more, one is never given to an image in use: a workload that is being admitted must not wait behind everything
/// that a cluster runs.
pub(super) struct FairSlots {
    all: usize,
    backups: BTreeMap<BackupId, BackupSlots>,
    running: HashMap<u64, Running>,
    /// Running copies that wait for memory that others hold.
    waiting_for_memory: HashMap<u64, MemoryPlace>,
    waiting: Waiting,
    pub(super) sources: Sources,
    /// An image was in use at any time.
    is_any_in_use: bool,
    /// When an image that had waited for [`MAX_PENALTY_WAIT`] was last served.
    last_aged: Option<Instant>,
}

/// A backup that shares the slots.
struct BackupSlots {
    /// The maximum number of running copies.
    max_parallel: usize,
    /// The lane of the job that was served last, so one of the other lane is next.
    last_lane: Lane,
}

struct Running {
    ticket: Ticket,
    progress: Arc<JobProgress>,
    pace: Pace,
    evict: Option<oneshot::Sender<Verdict>>,
    /// Started from the penalty queue, which has one slot.
    is_penalty: bool,
    /// The source had no record at the start.
    is_untried: bool,
    address: Option<IpAddr>,
    has_reported: bool,
}

#[derive(Clone, Copy, Default)]
struct Taken {
    in_use: usize,
    requested: usize,
}

/// How many slots may be taken: in all, by each lane, from one source.
#[derive(Clone, Copy)]
struct Limits {
    all: usize,
    in_use: usize,
    requested: usize,
    of_source: usize,
    in_use_of_source: usize,
    requested_of_source: usize,
    long: usize,
}

impl FairSlots {
    pub(super) fn new(all: NonZeroUsize) -> Self {
        Self {
            all: all.get(),
            backups: BTreeMap::new(),
            running: HashMap::new(),
            waiting_for_memory: HashMap::new(),
            waiting: Waiting::default(),
            sources: Sources::default(),
            is_any_in_use: false,
            last_aged: None,
        }
    }

    pub(super) fn add_backup(&mut self, backup: BackupId, max_parallel: Option<NonZeroUsize>) {
        let slots = BackupSlots {
            max_parallel: max_parallel.map_or(usize::MAX, NonZeroUsize::get),
            last_lane: Lane::Requested,
        };
        self.backups.insert(backup, slots);
    }

    /// Removes a backup without jobs.
    pub(super) fn remove_backup(&mut self, backup: BackupId) {
        self.backups.remove(&backup);
    }

    pub(super) fn enqueue(&mut self, id: u64, ticket: Ticket, now: Instant) {
        self.is_any_in_use |= ticket.lane == Lane::InUse;
        self.waiting.add(id, ticket, now);
    }

    /// Changes the lane and groups of a waiting job without losing its age.
    pub(super) fn regroup(&mut self, id: u64, lane: Lane, groups: Vec<Arc<str>>) {
        self.is_any_in_use |= lane == Lane::InUse;
        self.waiting.regroup(id, lane, groups);
    }

    /// Removes a waiting or running job.
    pub(super) fn remove(&mut self, id: u64) {
        self.waiting.remove(id);
        self.running.remove(&id);
    }

    /// Returns whether no job waits or runs.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Returns whether this job, which just started to wait, may run now. No other waiting job may, or it would run.
    pub(super) fn may_start(&self, id: u64, now: Instant) -> bool {
        match self.waiting.candidate(id, self, now) {
            Some(candidate) => self.is_open(now) && self.admits(&candidate, None, now),
            None => self.next(now) == Some(id),
        }
    }

    /// The next job, if one may run now.
    pub(super) fn next(&self, now: Instant) -> Option<u64> {
        let isolated = || self.waiting.isolated().filter(|_| self.running.is_empty());
        if !self.is_open(now) {
            return isolated().map(|(id, _)| id);
        }
        self.best(false, now)
            .or_else(|| self.best(true, now))
            .or_else(|| isolated().map(|(id, _)| id))
    }

    /// The job with the lowest rank that may run, in the penalty queue or outside.
    fn best(&self, is_penalty: bool, now: Instant) -> Option<u64> {
        let mut best: Option<Candidate<'_>> = None;
        for candidate in self.all_candidates(now) {
            let is_better = |best: &Candidate<'_>| candidate.rank < best.rank;
            if candidate.is_penalty == is_penalty
                && best.as_ref().is_none_or(is_better)
                && self.admits(&candidate, None, now)
            {
                best = Some(candidate);
            }
        }
        best.map(|candidate| candidate.id)
    }

    /// The first job of every queue.
    fn all_candidates(&self, now: Instant) -> impl Iterator<Item = Candidate<'_>> {
        let lanes = [Lane::InUse, Lane::Requested].into_iter();
        lanes.flat_map(move |lane| self.waiting.candidates(lane, self, now))
    }

    /// Marks the job as running. `evict` ends it.
    pub(super) fn start(
        &mut self,
        id: u64,
        progress: Arc<JobProgress>,
        evict: oneshot::Sender<Verdict>,
        now: Instant,
    ) {
        let is_aged = self
            .waiting
            .candidate(id, self, now)
            .is_some_and(|candidate| candidate.is_aged);
        if is_aged {
            self.last_aged = Some(now);
        }
        let Some(ticket) = self.waiting.serve(id) else {
            return;
        };
        let class = self.sources.class(&ticket.source, now);
        if let Some(backup) = self.backups.get_mut(&ticket.source.domain.backup) {
            backup.last_lane = ticket.lane;
        }
        let running = Running {
            is_penalty: ticket.sort == Sort::Penalized || class == Class::Penalized,
            is_untried: class == Class::Untried,
            address: self.sources.address(&ticket.source),
            progress,
            pace: Pace::new(now),
            evict: Some(evict),
            ticket,
            has_reported: false,
        };
        self.running.insert(id, running);
    }

    /// Ends copies that must make room. `state` returns the address of a running job's registry, if known, and whether
    /// that registry requested a pause.
    pub(super) fn check_running(
        &mut self,
        now: Instant,
        state: impl Fn(u64) -> (Option<IpAddr>, bool),
    ) {
        let mut ids: Vec<u64> = self.running.keys().copied().collect();
        ids.sort_unstable();
        let waiting = self.running.iter();
        let waiting =
            waiting.filter_map(|(id, running)| Some((*id, running.progress.waited_for_memory()?)));
        self.waiting_for_memory = waiting.collect();
        let mut slowest_long = None;
        for id in ids {
            let (address, is_paused) = state(id);
            let Some((excess, measured_rate)) = self.check(id, address, is_paused, now) else {
                continue;
            };
            let verdict = match excess {
                Some(Excess::Long) => {
                    if self.is_draining(now) || self.is_memory_wanted(id) {
                        self.evict(id, Verdict::MakeRoom);
                    } else if self.must_make_room(id, now) {
                        let slower = (measured_rate, std::cmp::Reverse(id));
                        if slowest_long.is_none_or(|slowest| slower < slowest) {
                            slowest_long = Some(slower);
                        }
                    }
                    None
                }
                Some(excess) => self.judge(id, &excess, is_paused, now),
                None => self.judge_address(id, now),
            };
            if let Some(verdict) = verdict {
                self.evict(id, verdict);
            }
        }
        if let Some((_, std::cmp::Reverse(id))) = slowest_long {
            self.evict(id, Verdict::MakeRoom);
        }
    }

    fn check(
        &mut self,
        id: u64,
        address: Option<IpAddr>,
        is_paused: bool,
        now: Instant,
    ) -> Option<(Option<Excess>, u64)> {
        let is_single = self.all == 1;
        let is_memory_wanted = self.is_memory_wanted(id);
        let running = self.running.get_mut(&id)?;
        // A verdict was sent already.
        running.evict.as_ref()?;
        let measured = running.progress.measured();
        if let Some(address) = address {
            running.address = Some(address);
            self.sources.learn_address(&running.ticket.source, address);
        }
        if measured.has_responded && !std::mem::replace(&mut running.has_reported, true) {
            self.sources.responded(&running.ticket.source, now);
        }
        let allowance = if running.is_penalty && !is_single && !is_memory_wanted {
            Allowance::in_penalty(running.ticket.failures)
        } else {
            Allowance::normal()
        };
        let excess = running.pace.check(now, measured, allowance);
        let is_held_back = is_paused && !measured.has_responded;
        let excess = excess.or(is_held_back.then_some(Excess::Silent));
        Some((excess, running.pace.rate(now, measured)))
    }

    /// Returns the consequence of an excess, if a job waits that it affects.
    fn judge(&self, id: u64, excess: &Excess, is_paused: bool, now: Instant) -> Option<Verdict> {
        let running = self.running.get(&id)?;
        let started = running.pace.started();
        let source = &running.ticket.source;
        let by_source = |is_alive: bool| {
            if is_alive {
                Blame::Image
            } else {
                Blame::Source
            }
        };
        let is_of_others = matches!(excess, Excess::Silent | Excess::Slow(_) | Excess::Idle);
        if *excess != Excess::Stalled && !self.is_in_the_way(id, is_of_others, now) {
            return None;
        }
        if self.waiting_for_memory.contains_key(&id) && is_of_others {
            return Some(Verdict::Requeue);
        }
        let (reason, blame) = match excess {
            Excess::Silent if is_paused => (
                "the source requested a pause while other images waited".into(),
                Blame::Nobody,
            ),
            Excess::Silent => (
                "the source did not respond while other images waited".into(),
                by_source(self.sources.has_responded_since(source, started)),
            ),
            Excess::Slow(reason) => (
                reason.clone(),
                if self.sources.has_delivered_since(source, started) {
                    Blame::Image
                } else {
                    Blame::Both
                },
            ),
            Excess::Stalled => (
                "less than 256 KiB moved in 300 s".into(),
                by_source(self.sources.has_responded_since(source, started)),
            ),
            // The cause may be the backup, or something that all copies share.
            Excess::Idle => (
                "too little data moved while other images waited".into(),
                Blame::Nobody,
            ),
            Excess::Late => (
                format!(
                    "the copy was not complete after {} s while other images waited",
                    now.duration_since(started).as_secs()
                ),
                Blame::Image,
            ),
            Excess::Long => return Some(Verdict::MakeRoom),
        };
        Some(Verdict::GiveUp { reason, blame })
    }

    /// Re-checks limits by address, which becomes known only after a copy starts.
    fn judge_address(&self, id: u64, now: Instant) -> Option<Verdict> {
        let running = self.running.get(&id)?;
        let address = running.address?;
        let ticket = &running.ticket;
        let is_penalized = running.is_untried
            && !running.is_penalty
            && self.sources.class(&ticket.source, now) == Class::Penalized;
        let order = |id: u64, running: &Running| (running.pace.started(), id);
        let own = order(id, running);
        let before = self.running.iter().filter(|(other, running)| {
            running.address == Some(address) && order(**other, running) < own
        });
        let exceeds = before.count() >= self.limits().of_source;
        let must_wait = (is_penalized || exceeds) && self.is_in_the_way(id, true, now);
        must_wait.then_some(Verdict::Requeue)
    }

    fn evict(&mut self, id: u64, verdict: Verdict) {
        if let Some(running) = self.running.get_mut(&id)
            && let Some(evict) = running.evict.take()
        {
            // A copy that just ended needs no verdict.
            let _ = evict.send(verdict);
        }
    }

    /// Returns whether the copy holds memory that a copy of another domain waits for. Copies in the penalty queue count
    /// only for others there.
    fn is_memory_wanted(&self, id: u64) -> bool {
        let Some(own) = self.running.get(&id) else {
            return false;
        };
        let holds = own.progress.holds_memory();
        let mut waiting = self.waiting_for_memory.iter();
        waiting.any(|(id, place)| {
            self.running.get(id).is_some_and(|other| {
                holds >= Some(*place)
                    && other.ticket.source.domain != own.ticket.source.domain
                    && (own.is_penalty || !other.is_penalty)
            })
        })
    }

    /// Returns whether a job waits that could have this job's slot: of another source, or at least of another account
    /// or other namespaces. While slots are drained, an isolated image could have any; a running copy that waits for
    /// memory needs that of the others.
    pub(super) fn is_in_the_way(&self, id: u64, must_differ_in_domain: bool, now: Instant) -> bool {
        let Some(running) = self.running.get(&id) else {
            return false;
        };
        if self.is_draining(now) || self.is_memory_wanted(id) {
            return true;
        }
        let own = &running.ticket;
        self.all_candidates(now).any(|candidate| {
            let other = candidate.ticket;
            let is_other = if must_differ_in_domain {
                other.source.domain != own.source.domain
            } else {
                !other.source.is_same_account(&own.source) || other.groups != own.groups
            };
            is_other
                && (running.is_penalty || !candidate.is_penalty)
                && self.admits(&candidate, Some(id), now)
        })
    }

    /// Returns whether a long copy may have to make room, if it is the slowest: more than half of the slots have long
    /// copies, or copies of other backups keep one from its turn.
    fn must_make_room(&self, id: u64, now: Instant) -> bool {
        (self.long() > self.limits().long && self.is_in_the_way(id, false, now))
            || self.keeps_other_backup_waiting(id, now)
    }

    /// Returns whether a job waits whose backup has no slot, or none of this domain, and only long copies of other backups
    /// have those that it could get.
    fn keeps_other_backup_waiting(&self, id: u64, now: Instant) -> bool {
        let Some(running) = self.running.get(&id) else {
            return false;
        };
        let own = &running.ticket.source.domain;
        let is_short = |(id, running): (&u64, &Running)| (!running.is_long(now)).then_some(*id);
        let short: Vec<u64> = self.running.iter().filter_map(is_short).collect();
        self.all_candidates(now).any(|candidate| {
            let other = &candidate.ticket.source.domain;
            let has_none = self.held_by_backup(other.backup) == 0
                || (other.name == own.name && self.held_by_domain(other) == 0);
            other.backup != own.backup
                && has_none
                && (running.is_penalty || !candidate.is_penalty)
                && self.admits(&candidate, Some(id), now)
                && !self.admits(&candidate, None, now)
                && !short
                    .iter()
                    .any(|id| self.admits(&candidate, Some(*id), now))
        })
    }

    /// Returns whether there is a slot for a normal job, counting all slots together.
    fn is_open(&self, now: Instant) -> bool {
        let runs_alone = self
            .running
            .values()
            .any(|running| running.ticket.is_isolated && !running.pace.is_long(now));
        self.running.len() < self.all && !runs_alone && !self.is_draining(now)
    }

    fn is_draining(&self, now: Instant) -> bool {
        let Some((_, since)) = self.waiting.isolated() else {
            return false;
        };
        let beyond = now.duration_since(since).checked_sub(IDLE_WITHIN);
        beyond.is_some_and(|beyond| {
            let period = (IDLE_WITHIN + DRAIN_WITHIN).as_secs();
            beyond.as_secs() % period < DRAIN_WITHIN.as_secs()
        })
    }

    /// Returns whether the candidate may run if `except` did not.
    fn admits(&self, candidate: &Candidate<'_>, except: Option<u64>, now: Instant) -> bool {
        let limits = self.limits();
        let ticket = candidate.ticket;
        let lane = ticket.lane;
        let address = self.sources.address(&ticket.source);
        let (mut all, mut of_domain, mut of_address) =
            (Taken::default(), Taken::default(), Taken::default());
        let (mut untried, mut long, mut penalty, mut of_backup) = (0, 0, 0, 0);
        for (id, running) in &self.running {
            if Some(*id) == except {
                continue;
            }
            let other = &running.ticket;
            all.add(other.lane);
            of_backup += usize::from(other.source.domain.backup == ticket.source.domain.backup);
            if other.source.domain.name == ticket.source.domain.name {
                of_domain.add(other.lane);
            }
            if address.is_some() && running.address == address {
                of_address.add(other.lane);
            }
            let is_silent = running.is_untried && !running.progress.has_responded();
            untried += usize::from(is_silent && other.lane == lane);
            long += usize::from(running.is_long(now));
            penalty += usize::from(running.is_penalty);
        }
        let is_serviceable = all.sum() < limits.all
            && all.of(lane) < limits.of(lane)
            && of_backup < self.limit_of_backup(ticket.source.domain.backup);
        let is_untried = candidate.class == Class::Untried;
        is_serviceable
            && limits.admit_source(lane, of_domain)
            && limits.admit_source(lane, of_address)
            && (!is_untried || untried < limits.untried(lane))
            && (ticket.sort != Sort::Long || long < limits.long)
            && (!candidate.is_in_penalty || penalty == 0)
    }

    /// Returns whether an image that has waited since then is served like an untried one.
    fn is_aged(&self, since: Instant, now: Instant) -> bool {
        let is_due = |last| now.duration_since(last) >= AGED_INTERVAL;
        now.duration_since(since) >= MAX_PENALTY_WAIT && self.last_aged.is_none_or(is_due)
    }

    fn held_by_group(&self, lane: Lane, name: &Arc<str>) -> usize {
        let running = self.running.values().map(|running| &running.ticket);
        let of_group = running.filter(|ticket| ticket.lane == lane && ticket.groups.contains(name));
        of_group.count()
    }

    fn held_by_domain(&self, domain: &Domain) -> usize {
        let running = self.running.values().map(|running| &running.ticket);
        let of_domain = running.filter(|ticket| ticket.source.domain == *domain);
        of_domain.count()
    }

    fn held_by_backup(&self, backup: BackupId) -> usize {
        let running = self.running.values().map(|running| &running.ticket);
        let of_backup = running.filter(|ticket| ticket.source.domain.backup == backup);
        of_backup.count()
    }

    /// One slot is left to other backups, if there are any.
    fn limit_of_backup(&self, backup: BackupId) -> usize {
        let slots = self.backups.get(&backup);
        let max_parallel = slots.map_or(1, |slots| slots.max_parallel);
        let reserved = usize::from(self.backups.len() > 1);
        max_parallel.min(self.all.saturating_sub(reserved).max(1))
    }

    /// Returns whether the backup got its last slot for this lane.
    fn was_served_last(&self, backup: BackupId, lane: Lane) -> bool {
        let slots = self.backups.get(&backup);
        slots.is_some_and(|slots| slots.last_lane == lane)
    }

    fn long(&self) -> usize {
        let now = Instant::now();
        self.running.values().filter(|it| it.is_long(now)).count()
    }

    fn is_disfavored(&self, class: Class, lane: Lane) -> bool {
        if class != Class::Untried {
            return false;
        }
        let of_lane = self
            .running
            .values()
            .filter(|running| running.ticket.lane == lane);
        let (untried, others): (Vec<_>, Vec<_>) = of_lane.partition(|running| running.is_untried);
        untried.len() >= others.len()
    }

    fn limits(&self) -> Limits {
        let all = self.all;
        let kept = if self.is_any_in_use {
            all / RESERVED_ONE_IN
        } else {
            0
        };
        let reserved = usize::from(all > 1);
        let half = all.div_ceil(2);
        let of_source = (all - reserved).max(1);
        Limits {
            all,
            in_use: all - reserved,
            requested: all - kept,
            of_source,
            // A source, too, has a slot for each lane, if it may have two.
            in_use_of_source: (half + kept).min(of_source.saturating_sub(reserved)).max(1),
            requested_of_source: half,
            long: (all / 2).max(1),
        }
    }
}

impl Running {
    fn is_long(&self, now: Instant) -> bool {
        self.ticket.sort == Sort::Long || self.pace.is_long(now)
    }
}

impl Taken {
    fn add(&mut self, lane: Lane) {
        match lane {
            Lane::InUse => self.in_use += 1,
            Lane::Requested => self.requested += 1,
        }
    }

    fn of(self, lane: Lane) -> usize {
        match lane {
            Lane::InUse => self.in_use,
            Lane::Requested => self.requested,
        }
    }

    fn sum(self) -> usize {
        self.in_use + self.requested
    }
}

impl Limits {
    fn of(self, lane: Lane) -> usize {
        match lane {
            Lane::InUse => self.in_use,
            Lane::Requested => self.requested,
        }
    }

    /// Slots of a lane for untried sources that have not responded yet. One is left to sources that are known to
    /// deliver.
    fn untried(self, lane: Lane) -> usize {
        self.of(lane).saturating_sub(1).max(1)
    }

    fn admit_source(self, lane: Lane, taken: Taken) -> bool {
        let of_lane = match lane {
            Lane::InUse => self.in_use_of_source,
            Lane::Requested => self.requested_of_source,
        };
        taken.sum() < self.of_source && taken.of(lane) < of_lane
    }
}
