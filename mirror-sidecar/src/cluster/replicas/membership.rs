//! Who is alive, and who does what: state and rules, without clock and network.
//!
//! A replica is alive for [`DURATION`] after its Lease was last seen to change. Only the local clock counts: clocks of
//! different machines differ, so the times in a Lease mean nothing here. This replica always counts as alive, even if the
//! others cannot see it: then its share is done twice, and nothing is left undone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::group::DURATION;

/// How long a replica that just started waits until it knows the others. A rollout would have each new replica begin
/// with everything otherwise.
pub(super) const JOIN_WITHIN: Duration = Duration::from_secs(5);

/// After this time without a change a Lease is deleted: its replica is gone for good, and nobody else does it.
pub(super) const DEAD_AFTER: Duration = DURATION.saturating_mul(10);

/// More replicas than anybody runs; at 200 bytes each. Those beyond are not known, and their shares are done twice.
pub(super) const MAX_OTHERS: usize = 200;

/// The replicas, as this one sees them.
#[derive(Debug)]
pub(super) struct Membership {
    own: Box<str>,
    phase: Phase,
    others: BTreeMap<Box<str>, Other>,
    /// Those whose life was last told.
    told: Vec<String>,
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
    /// When its Lease was last given out for deletion.
    buried_at: Option<Instant>,
    /// That it died was reported.
    is_lost: bool,
}

/// A Lease whose replica is gone for good.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dead {
    pub name: String,
    /// The resource version at which it was dead: a later one is a sign of life.
    pub version: String,
}

impl Membership {
    pub(super) fn new(own: &str, now: Instant) -> Self {
        Self {
            own: own.into(),
            phase: Phase::Joining {
                at_latest: now + JOIN_WITHIN,
            },
            others: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    /// A Lease was seen; `true` if it is another replica's and has changed. Seeing the same again is no sign of life; a Lease
    /// that is seen first is, since nobody knows how old it is.
    pub(super) fn seen(&mut self, name: &str, version: &str, now: Instant) -> bool {
        if *name == *self.own {
            return false;
        }
        if let Some(other) = self.others.get_mut(name) {
            let is_news = *other.version != *version;
            if is_news {
                other.version = version.into();
                other.changed_at = now;
                other.buried_at = None;
                other.is_lost = false;
            }
            return is_news;
        }
        let has_room = self.others.len() < MAX_OTHERS;
        if has_room {
            let other = Other {
                version: version.into(),
                changed_at: now,
                buried_at: None,
                is_lost: false,
            };
            self.others.insert(name.into(), other);
        }
        has_room
    }

    /// A Lease was deleted: its replica left.
    pub(super) fn gone(&mut self, name: &str) {
        self.others.remove(name);
    }

    /// All Leases were listed, and these were there. So the others are known.
    pub(super) fn listed(&mut self, names: &BTreeSet<String>) {
        self.others.retain(|name, _| names.contains(&**name));
        if matches!(self.phase, Phase::Joining { .. }) {
            self.phase = Phase::Joined;
        }
    }

    /// Owns nothing any more.
    pub(super) fn leave(&mut self) {
        self.phase = Phase::Left;
    }

    /// Whether the work that `key` names is this replica's.
    pub(super) fn owns(&self, key: &str, now: Instant) -> bool {
        self.takes_part(now) && owner(self.live(now), key) == Some(&self.own)
    }

    /// The replicas that live, if they are others than at the last call; and if they are known.
    pub(super) fn refresh(&mut self, now: Instant) -> Option<Vec<String>> {
        if !self.takes_part(now) {
            return None;
        }
        let mut live: Vec<String> = self.live(now).map(str::to_owned).collect();
        live.sort_unstable();
        if live == self.told {
            return None;
        }
        self.told.clone_from(&live);
        Some(live)
    }

    /// When the shares change next if nothing is heard until then.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let joining = match self.phase {
            Phase::Joining { at_latest } if now < at_latest => Some(at_latest),
            _ => None,
        };
        let ends = self
            .others
            .values()
            .map(|other| other.changed_at + DURATION);
        ends.filter(|end| now < *end).chain(joining).min()
    }

    /// The replicas that died since the last call: their Leases expired, and were not deleted.
    pub(super) fn take_lost(&mut self, now: Instant) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, other) in &mut self.others {
            if other.changed_at + DURATION <= now && !std::mem::replace(&mut other.is_lost, true) {
                lost.push(name.to_string());
            }
        }
        lost
    }

    /// The Leases to delete, each once in a while.
    pub(super) fn take_dead(&mut self, now: Instant) -> Vec<Dead> {
        let is_over = |since: Instant| DEAD_AFTER <= now.saturating_duration_since(since);
        let mut dead = Vec::new();
        for (name, other) in &mut self.others {
            if is_over(other.changed_at) && other.buried_at.is_none_or(is_over) {
                other.buried_at = Some(now);
                dead.push(Dead {
                    name: name.to_string(),
                    version: other.version.to_string(),
                });
            }
        }
        dead
    }

    fn takes_part(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Joining { at_latest } => at_latest <= now,
            Phase::Joined => true,
            Phase::Left => false,
        }
    }

    /// How many replicas live, this one included.
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

/// Who does the work that `key` names: rendezvous hashing (Thaler and Ravishankar, 1998). Everybody who knows the same
/// members comes to the same result, and when one goes, only its keys move.
fn owner<'a>(members: impl Iterator<Item = &'a str>, key: &str) -> Option<&'a str> {
    members.max_by_key(|member| (weight(member, key), *member))
}

fn weight(member: &str, key: &str) -> [u8; 32] {
    // No name of a Lease has a zero byte.
    let hash = Sha256::new().chain_update(member).chain_update([0]);
    hash.chain_update(key).finalize().into()
}
