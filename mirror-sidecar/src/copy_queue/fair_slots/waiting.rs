//! The jobs that wait for a slot, in the order of their turns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use crate::copy_queue::sources::{BackupId, Class, Domain, Source};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copy_queue) enum Lane {
    /// An object in the cluster uses the image.
    InUse,
    /// Admission requested the image.
    Requested,
}

/// The history of the image. Images of different sorts do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::copy_queue) enum Sort {
    Normal,
    /// The last attempt failed.
    Failed,
    /// The copy took long and made room for others.
    Long,
    /// The image itself was too slow.
    Penalized,
}

/// A job that waits for a slot.
#[derive(Clone, Debug)]
pub(in crate::copy_queue) struct Ticket {
    pub(in crate::copy_queue) lane: Lane,
    /// The namespaces that use the image; it is served in the turn of each. Not empty.
    pub(in crate::copy_queue) groups: Vec<Arc<str>>,
    pub(in crate::copy_queue) source: Source,
    /// The copy existed and is lost: served before the other images in use.
    pub(in crate::copy_queue) is_restore: bool,
    pub(in crate::copy_queue) sort: Sort,
    /// The image may have killed the process, so it is copied alone.
    pub(in crate::copy_queue) is_isolated: bool,
    /// Failed attempts in a row.
    pub(in crate::copy_queue) failures: u32,
}

#[derive(Default)]
pub(super) struct Waiting {
    pub(super) jobs: HashMap<u64, Job>,
    backups: HashMap<BackupId, BackupTurn>,
    pub(super) in_use: LaneGroups,
    pub(super) requested: LaneGroups,
    /// Isolated jobs by their number.
    pub(super) isolated: BTreeMap<u64, u64>,
    pub(super) next_number: u64,
}

pub(super) struct Job {
    pub(super) ticket: Ticket,
    /// Position in the queue; the lowest is first.
    pub(super) number: u64,
    pub(super) since: Instant,
}

/// The turn of a backup with waiting jobs.
struct BackupTurn {
    /// When the backup was last served or started to wait; the lowest is next.
    turn: u64,
    waiting: usize,
}

#[derive(Default)]
pub(super) struct LaneGroups(pub(super) HashMap<Arc<str>, Group>);

pub(super) struct Group {
    /// When the group was last served or started to wait; the lowest is next.
    pub(super) turn: u64,
    pub(super) queues: HashMap<QueueKey, Queue>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct QueueKey {
    domain: Domain,
    sort: Sort,
}

pub(super) struct Queue {
    pub(super) turn: u64,
    /// In the order of service.
    pub(super) jobs: BTreeMap<(bool, u64), u64>,
}

/// The first job of a queue.
pub(super) struct Candidate<'a> {
    pub(super) id: u64,
    pub(super) ticket: &'a Ticket,
    pub(super) class: Class,
    /// In the penalty queue: one of these runs at a time.
    pub(super) is_in_penalty: bool,
    /// In the penalty queue, and served behind all others.
    pub(super) is_penalty: bool,
    /// Would be served behind others, but has waited for long.
    pub(super) is_aged: bool,
    /// The lowest is next.
    pub(super) rank: Rank,
}

/// The order of candidates, most significant first.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are compared in their order"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Backups with fewer slots first, then by turns. Nothing that one backup wants passes the turn of another.
    pub(super) backup: Turn,
    /// The lane was served last.
    pub(super) is_same_lane: bool,
    pub(super) is_no_restore: bool,
    /// Groups with fewer slots first, then by turns.
    pub(super) group: Turn,
    pub(super) has_failed: bool,
    /// The source is untried, and such sources already have half of the slots.
    pub(super) is_disfavored: bool,
    pub(super) source: Turn,
    pub(super) number: u64,
}

/// Slots held, and when last served.
pub(super) type Turn = (usize, u64);

impl Waiting {
    pub(super) fn add(&mut self, id: u64, ticket: Ticket, now: Instant) {
        let number = self.number();
        let backup = self.backups.entry(ticket.source.domain.backup);
        let backup = backup.or_insert(BackupTurn {
            turn: number,
            waiting: 0,
        });
        backup.waiting += 1;
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

    /// Removes a job without serving it.
    pub(super) fn remove(&mut self, id: u64) {
        self.take(id);
    }

    /// Removes the next job; its backup, its groups and its source move to the end of their rounds.
    pub(super) fn serve(&mut self, id: u64) -> Option<Ticket> {
        let job = self.take(id)?;
        let turn = self.number();
        if let Some(backup) = self.backups.get_mut(&job.ticket.source.domain.backup) {
            backup.turn = turn;
        }
        let (group_turn, queue_turn) = (self.number(), self.number());
        for name in &job.ticket.groups {
            if let Some(group) = self.lane_groups_mut(job.ticket.lane).0.get_mut(name) {
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

    /// The turn of a backup with waiting jobs.
    pub(super) fn turn_of(&self, backup: BackupId) -> u64 {
        let backup = self.backups.get(&backup);
        backup.map_or(u64::MAX, |backup| backup.turn)
    }

    fn take(&mut self, id: u64) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.isolated.remove(&job.number);
        self.unlink(&job);
        let backup = job.ticket.source.domain.backup;
        if let Some(of_backup) = self.backups.get_mut(&backup) {
            of_backup.waiting = of_backup.waiting.saturating_sub(1);
            if of_backup.waiting == 0 {
                self.backups.remove(&backup);
            }
        }
        Some(job)
    }

    /// The first isolated job, and since when it waits.
    pub(super) fn isolated(&self) -> Option<(u64, Instant)> {
        let (_, id) = self.isolated.first_key_value()?;
        Some((*id, self.jobs.get(id)?.since))
    }

    fn link(&mut self, id: u64, ticket: &Ticket, number: u64) {
        let (group_turn, queue_turn) = (self.number(), self.number());
        let key = QueueKey::of(ticket);
        for name in &ticket.groups {
            let groups = self.lane_groups_mut(ticket.lane);
            let group = groups.0.entry(Arc::clone(name)).or_insert_with(|| Group {
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
            let groups = self.lane_groups_mut(ticket.lane);
            let Some(group) = groups.0.get_mut(name) else {
                continue;
            };
            if let Some(queue) = group.queues.get_mut(&key) {
                queue.jobs.remove(&(!ticket.is_restore, job.number));
                if queue.jobs.is_empty() {
                    group.queues.remove(&key);
                }
            }
            if group.queues.is_empty() {
                groups.0.remove(name);
            }
        }
    }

    pub(super) fn lane_groups(&self, lane: Lane) -> &LaneGroups {
        match lane {
            Lane::InUse => &self.in_use,
            Lane::Requested => &self.requested,
        }
    }

    fn lane_groups_mut(&mut self, lane: Lane) -> &mut LaneGroups {
        match lane {
            Lane::InUse => &mut self.in_use,
            Lane::Requested => &mut self.requested,
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

impl QueueKey {
    fn of(ticket: &Ticket) -> Self {
        Self {
            domain: ticket.source.domain.clone(),
            sort: ticket.sort,
        }
    }
}
