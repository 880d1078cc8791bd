//! The jobs that wait for a slot, in the order of their turns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::{FairSlots, Lane, Sort, Ticket};
use crate::copy_queue::sources::Class;

#[derive(Default)]
pub(super) struct Waiting {
    jobs: HashMap<u64, Job>,
    in_use: Line,
    asked: Line,
    /// Those that run alone, by their number.
    isolated: BTreeMap<u64, u64>,
    next_number: u64,
}

struct Job {
    ticket: Ticket,
    /// Whoever came first in a queue is the first of it.
    number: u64,
    since: Instant,
}

/// The groups of a lane.
#[derive(Default)]
struct Line(HashMap<Arc<str>, Group>);

struct Group {
    /// When it was served last, or started to wait; the lowest is next.
    turn: u64,
    queues: HashMap<QueueKey, Queue>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct QueueKey {
    domain: Arc<str>,
    sort: Sort,
}

struct Queue {
    turn: u64,
    /// By the order of service.
    jobs: BTreeMap<(bool, u64), u64>,
}

/// The first job of a queue.
pub(super) struct Candidate<'a> {
    pub(super) id: u64,
    pub(super) ticket: &'a Ticket,
    pub(super) class: Class,
    /// It belongs to the penalty line: one of these runs at a time.
    pub(super) is_in_penalty: bool,
    /// It is served behind all others, too.
    pub(super) is_penalty: bool,
    /// It would be, but has waited for long.
    pub(super) is_aged: bool,
    /// The lowest is next.
    pub(super) rank: Rank,
}

/// What makes a candidate the next, by weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    is_no_restore: bool,
    /// Groups with fewer slots first, then by turns.
    group: Turn,
    has_failed: bool,
    /// Nothing is known of the source, and such sources have half of the slots.
    is_disfavored: bool,
    source: Turn,
    number: u64,
}

/// Slots that are held, and when it was served last.
type Turn = (usize, u64);

impl Waiting {
    pub(super) fn add(&mut self, id: u64, ticket: Ticket, now: Instant) {
        let number = self.number();
        if ticket.is_isolated {
            self.isolated.insert(number, id);
        } else {
            self.link(id, &ticket, number);
        }
        let job = Job {
            ticket,
            number,
            since: now,
        };
        self.jobs.insert(id, job);
    }

    pub(super) fn regroup(&mut self, id: u64, lane: Lane, groups: Vec<Arc<str>>) {
        let Some(mut job) = self.jobs.remove(&id) else {
            return;
        };
        self.unlink(&job);
        job.ticket.lane = lane;
        job.ticket.groups = groups;
        if !job.ticket.is_isolated {
            self.link(id, &job.ticket, job.number);
        }
        self.jobs.insert(id, job);
    }

    /// Removes a job that leaves without having been served.
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(job) = self.jobs.remove(&id) {
            self.isolated.remove(&job.number);
            self.unlink(&job);
        }
    }

    /// Removes a job whose turn it is; its groups and its source go to the end of their rounds.
    pub(super) fn serve(&mut self, id: u64) -> Option<Ticket> {
        let job = self.jobs.remove(&id)?;
        self.isolated.remove(&job.number);
        self.unlink(&job);
        let (group_turn, queue_turn) = (self.number(), self.number());
        for name in &job.ticket.groups {
            if let Some(group) = self.line_mut(job.ticket.lane).0.get_mut(name) {
                group.turn = group_turn;
                for (key, queue) in &mut group.queues {
                    if key.domain == job.ticket.source.domain {
                        queue.turn = queue_turn;
                    }
                }
            }
        }
        Some(job.ticket)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// The first of those that run alone, and since when it waits.
    pub(super) fn isolated(&self) -> Option<(u64, Instant)> {
        let (_, id) = self.isolated.first_key_value()?;
        Some((*id, self.jobs.get(id)?.since))
    }

    /// The first job of every queue of a lane.
    pub(super) fn candidates<'a>(
        &'a self,
        lane: Lane,
        slots: &'a FairSlots,
        now: Instant,
    ) -> impl Iterator<Item = Candidate<'a>> {
        let disfavored = slots.is_disfavored(Class::Untried, lane);
        let groups = self.line(lane).0.iter();
        groups.flat_map(move |(name, group)| {
            let turn = (slots.held_by_group(lane, name), group.turn);
            group.queues.values().filter_map(move |queue| {
                let (_, id) = queue.jobs.first_key_value()?;
                let job = self.jobs.get(id)?;
                Some(job.candidate(*id, (turn, queue.turn), disfavored, slots, now))
            })
        })
    }

    /// One job, as if it were the first of its queue.
    pub(super) fn candidate<'a>(
        &'a self,
        id: u64,
        slots: &'a FairSlots,
        now: Instant,
    ) -> Option<Candidate<'a>> {
        let job = self.jobs.get(&id)?;
        (!job.ticket.is_isolated).then(|| job.candidate(id, ((0, 0), 0), false, slots, now))
    }

    fn link(&mut self, id: u64, ticket: &Ticket, number: u64) {
        let (group_turn, queue_turn) = (self.number(), self.number());
        let key = QueueKey::of(ticket);
        for name in &ticket.groups {
            let line = self.line_mut(ticket.lane);
            let group = line.0.entry(Arc::clone(name)).or_insert_with(|| Group {
                turn: group_turn,
                queues: HashMap::new(),
            });
            let queue = group.queues.entry(key.clone()).or_insert_with(|| Queue {
                turn: queue_turn,
                jobs: BTreeMap::new(),
            });
            queue.jobs.insert((!ticket.is_restore, number), id);
        }
    }

    fn unlink(&mut self, job: &Job) {
        let ticket = &job.ticket;
        let key = QueueKey::of(ticket);
        for name in &ticket.groups {
            let line = self.line_mut(ticket.lane);
            let Some(group) = line.0.get_mut(name) else {
                continue;
            };
            if let Some(queue) = group.queues.get_mut(&key) {
                queue.jobs.remove(&(!ticket.is_restore, job.number));
                if queue.jobs.is_empty() {
                    group.queues.remove(&key);
                }
            }
            if group.queues.is_empty() {
                line.0.remove(name);
            }
        }
    }

    fn line(&self, lane: Lane) -> &Line {
        match lane {
            Lane::InUse => &self.in_use,
            Lane::Requested => &self.asked,
        }
    }

    fn line_mut(&mut self, lane: Lane) -> &mut Line {
        match lane {
            Lane::InUse => &mut self.in_use,
            Lane::Requested => &mut self.asked,
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

impl Job {
    fn candidate<'a>(
        &'a self,
        id: u64,
        (group, queue_turn): (Turn, u64),
        disfavored: bool,
        slots: &FairSlots,
        now: Instant,
    ) -> Candidate<'a> {
        let ticket = &self.ticket;
        let class = slots.sources.class(&ticket.source, now);
        let is_in_penalty = ticket.sort == Sort::Penalized || class == Class::Penalized;
        let since = slots
            .sources
            .struck_at(&ticket.source)
            .max(Some(self.since));
        let is_aged = since.is_some_and(|since| slots.is_aged(since, now));
        let has_failed = ticket.failures > 0;
        let is_disfavored = disfavored && class == Class::Untried;
        Candidate {
            id,
            ticket,
            class,
            is_in_penalty,
            is_penalty: is_in_penalty && !is_aged,
            is_aged: is_aged && (is_in_penalty || has_failed),
            rank: Rank {
                is_no_restore: !ticket.is_restore,
                group,
                has_failed: has_failed && !is_aged,
                is_disfavored,
                source: (slots.held_by_domain(&ticket.source.domain), queue_turn),
                number: self.number,
            },
        }
    }
}

impl QueueKey {
    fn of(ticket: &Ticket) -> Self {
        Self {
            domain: Arc::clone(&ticket.source.domain),
            sort: ticket.sort,
        }
    }
}
