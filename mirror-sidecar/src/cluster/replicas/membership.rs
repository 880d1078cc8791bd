//! The live replicas, and the owner of each piece of work. No I/O; the time is passed in.
//!
//! A replica is alive for [`DURATION`] after its Lease was last seen to change. Only the local clock counts: clocks of
//! different machines differ, so the times in a Lease are ignored. This replica always counts as alive, even if the others
//! cannot see it: then its share is done twice, and nothing is left undone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// How long a replica counts as alive after its Lease changed: a crash costs at most this time. Three renewals may be lost.
pub(super) const DURATION: Duration = Duration::from_secs(15);

/// How long a new replica waits until it knows the others. Otherwise, each new replica of a rollout would begin with all
/// of the work.
pub(super) const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a change after which a Lease is deleted: its replica is gone for good, and nothing else deletes it.
pub(super) const DEAD_AFTER: Duration = DURATION.saturating_mul(10);

/// Limit of known replicas, at 200 bytes each: more than anybody runs. The shares of those beyond it are done twice.
pub(super) const MAX_OTHERS: usize = 200;

#[derive(Debug)]
pub(super) struct Membership {
    own: Box<str>,
    phase: Phase,
    others: BTreeMap<Box<str>, Other>,
    /// The live replicas at the last [`Self::refresh`].
    reported: Vec<String>,
}

#[derive(Debug)]
enum Phase {
    /// The others are not known yet.
    Joining {
        at_latest: Instant,
    },
    Joined,
    Left,
}

#[derive(Debug)]
struct Other {
    /// The resource version of its Lease.
    version: Box<str>,
    changed_at: Instant,
    /// When its Lease was last to be deleted.
    deleted_at: Option<Instant>,
    /// Its crash was reported.
    is_lost: bool,
    /// The address of its admin port.
    address: Option<SocketAddr>,
}

/// A Lease whose replica is gone for good.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dead {
    pub name: String,
    /// The resource version at which it was dead: at a later one, the replica lives.
    pub version: String,
}

impl Membership {
    pub(super) fn new(own: &str, now: Instant) -> Self {
        Self {
            own: own.into(),
            phase: Phase::Joining {
                at_latest: now + JOIN_TIMEOUT,
            },
            others: BTreeMap::new(),
            reported: Vec::new(),
        }
    }

    /// Records a Lease; returns `true` if it is another replica's and has changed. A Lease that is seen for the first time
    /// counts as changed, since its age is not known.
    pub(super) fn seen(&mut self, name: &str, version: &str, now: Instant) -> bool {
        if *name == *self.own {
            return false;
        }
        if let Some(other) = self.others.get_mut(name) {
            let is_news = *other.version != *version;
            if is_news {
                other.version = version.into();
                other.changed_at = now;
                other.deleted_at = None;
                other.is_lost = false;
            }
            return is_news;
        }
        let has_room = self.others.len() < MAX_OTHERS;
        if has_room {
            let other = Other {
                version: version.into(),
                changed_at: now,
                deleted_at: None,
                is_lost: false,
                address: None,
            };
            self.others.insert(name.into(), other);
        }
        has_room
    }

    /// Records the address of the admin port that a Lease has.
    pub(super) fn set_address(&mut self, name: &str, address: Option<SocketAddr>) {
        if let Some(other) = self.others.get_mut(name) {
            other.address = address;
        }
    }

    pub(super) fn own_name(&self) -> &str {
        &self.own
    }

    /// The other live replicas, with the addresses of their admin ports.
    pub(super) fn live_others(&self, now: Instant) -> Vec<(String, Option<SocketAddr>)> {
        let others = self.others.iter();
        others
            .filter(|(_, other)| now < other.changed_at + DURATION)
            .map(|(name, other)| (name.to_string(), other.address))
            .collect()
    }

    /// Records that a Lease was deleted: its replica left.
    pub(super) fn deleted(&mut self, name: &str) {
        self.others.remove(name);
    }

    /// Records the names of all Leases.
    pub(super) fn listed(&mut self, names: &BTreeSet<String>) {
        self.others.retain(|name, _| names.contains(&**name));
        if matches!(self.phase, Phase::Joining { .. }) {
            self.phase = Phase::Joined;
        }
    }

    /// Gives up all work.
    pub(super) fn leave(&mut self) {
        self.phase = Phase::Left;
    }

    /// Returns whether this replica owns the work that `key` names.
    pub(super) fn owns(&self, key: &str, now: Instant) -> bool {
        self.has_joined(now) && owner(self.live(now), key) == Some(&self.own)
    }

    /// Returns the owner of the work that `key` names; `None` until the others are known.
    pub(super) fn owner(&self, key: &str, now: Instant) -> Option<String> {
        let is_known = self.has_joined(now);
        owner(self.live(now), key)
            .filter(|_| is_known)
            .map(str::to_owned)
    }

    /// Returns the live replicas if they changed since the last call. Returns `None` until they are known.
    pub(super) fn refresh(&mut self, now: Instant) -> Option<Vec<String>> {
        if !self.has_joined(now) {
            return None;
        }
        let mut live: Vec<String> = self.live(now).map(str::to_owned).collect();
        live.sort_unstable();
        if live == self.reported {
            return None;
        }
        self.reported.clone_from(&live);
        Some(live)
    }

    /// When the shares change next if no Lease changes until then.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let joined = match self.phase {
            Phase::Joining { at_latest } if now < at_latest => Some(at_latest),
            _ => None,
        };
        let ends = self
            .others
            .values()
            .map(|other| other.changed_at + DURATION);
        ends.filter(|end| now < *end).chain(joined).min()
    }

    /// Returns the replicas that crashed since the last call: their Leases expired, and were not deleted.
    pub(super) fn take_lost(&mut self, now: Instant) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, other) in &mut self.others {
            if other.changed_at + DURATION <= now && !std::mem::replace(&mut other.is_lost, true) {
                lost.push(name.to_string());
            }
        }
        lost
    }

    /// Returns the Leases to delete, each at most once per [`DEAD_AFTER`].
    pub(super) fn take_dead(&mut self, now: Instant) -> Vec<Dead> {
        let is_over = |since: Instant| DEAD_AFTER <= now.saturating_duration_since(since);
        let mut dead = Vec::new();
        for (name, other) in &mut self.others {
            if is_over(other.changed_at) && other.deleted_at.is_none_or(is_over) {
                other.deleted_at = Some(now);
                dead.push(Dead {
                    name: name.to_string(),
                    version: other.version.to_string(),
                });
            }
        }
        dead
    }

    fn has_joined(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Joining { at_latest } => at_latest <= now,
            Phase::Joined => true,
            Phase::Left => false,
        }
    }

    /// The number of live replicas, this one included.
    pub(super) fn count(&self, now: Instant) -> usize {
        self.live(now).count()
    }

    fn live(&self, now: Instant) -> impl Iterator<Item = &str> {
        let others = self
            .others
            .iter()
            .filter(move |(_, other)| now < other.changed_at + DURATION)
            .map(|(name, _)| &**name);
        others.chain([&*self.own])
    }
}

/// The owner of the work that `key` names, by rendezvous hashing (Thaler and Ravishankar, 1998): all replicas that know the
/// same members come to the same result, and when one goes, only its keys move.
fn owner<'a>(members: impl Iterator<Item = &'a str>, key: &str) -> Option<&'a str> {
    members.max_by_key(|member| (weight(member, key), *member))
}

fn weight(member: &str, key: &str) -> [u8; 32] {
    // No name of a Lease has a zero byte.
    let hash = Sha256::new().chain_update(member).chain_update([0]);
    hash.chain_update(key).finalize().into()
}
