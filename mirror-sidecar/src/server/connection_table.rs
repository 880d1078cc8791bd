//! The open connections of a port: each new one finds a place, if need be that of another one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Connection, Rank};
use super::limits::Limits;
use super::peer::Peer;

/// The connections in order of their age.
type ByAge = BTreeMap<u64, Arc<Connection>>;

/// The open connections of a port.
pub(super) struct ConnectionTable {
    limits: Limits,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    accepted: u64,
    /// Sum of all connections of `peers`.
    count: usize,
    peers: HashMap<Peer, ByAge>,
}

/// A place in the table, given back when it is dropped.
pub(super) struct Place {
    table: Arc<ConnectionTable>,
    peer: Peer,
    number: u64,
    /// The connection that has this place.
    pub(super) connection: Arc<Connection>,
}

impl ConnectionTable {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: Mutex::default(),
        }
    }

    /// Adds a connection of this peer. If it is one too many, another one is closed that has not authenticated: one of the
    /// same peer, or, if the table is full, of the peer that has most of them; of those that got least far the oldest.
    /// Where all have authenticated, the oldest that is idle is closed. Returns `None` if there is none; the new one is to
    /// be closed then.
    pub(super) fn add(self: &Arc<Self>, peer: Peer) -> Option<Added> {
        let mut entries = self.lock();
        let mut evicted = entries.shrink(peer, self.limits.unauthenticated_per_peer);
        if entries.count >= self.limits.connections {
            evicted = true;
            if !entries.make_room() {
                return None;
            }
        }
        let number = entries.accepted;
        entries.accepted = number.wrapping_add(1);
        let connection = Arc::new(Connection::new(self.limits.unauthorized_responses));
        let of_peer = entries.peers.entry(peer).or_default();
        of_peer.insert(number, Arc::clone(&connection));
        entries.count += 1;
        drop(entries);
        let place = Place {
            table: Arc::clone(self),
            peer,
            number,
            connection,
        };
        Some(Added { place, evicted })
    }

    /// Closes the oldest connection that has not authenticated, or that is idle, if there is any.
    pub(super) fn evict_one(&self) -> bool {
        self.lock().make_room()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a new connection.
pub(super) struct Added {
    pub(super) place: Place,
    /// Another connection was closed for it.
    pub(super) evicted: bool,
}

/// The connection of a peer that is closed first.
struct Victim {
    rank: Rank,
    number: u64,
    peer: Peer,
    /// The peer's connections that have not authenticated or, if all have, those that are idle.
    candidates: usize,
}

impl Entries {
    /// Leaves room for one more connection that has not authenticated among those of a peer.
    fn shrink(&mut self, peer: Peer, limit: usize) -> bool {
        let is_full = |of_peer: &&ByAge| of_peer.len() >= limit;
        let of_peer = self.peers.get(&peer).filter(is_full);
        let victim = of_peer.and_then(|of_peer| victim(peer, of_peer));
        victim
            .filter(|victim| victim.rank < Rank::AUTHENTICATED && victim.candidates >= limit)
            .is_some_and(|victim| self.evict(peer, victim.number))
    }

    /// Leaves room for one more connection among all.
    fn make_room(&mut self) -> bool {
        let victims = self
            .peers
            .iter()
            .filter_map(|(peer, of_peer)| victim(*peer, of_peer));
        let victim = victims.max_by_key(|victim| {
            let Victim {
                rank,
                number,
                peer,
                candidates,
            } = *victim;
            (
                rank < Rank::AUTHENTICATED,
                candidates,
                Reverse(rank),
                Reverse(number),
                peer,
            )
        });
        victim.is_some_and(|victim| self.evict(victim.peer, victim.number))
    }

    fn evict(&mut self, peer: Peer, number: u64) -> bool {
        let connection = self.remove(peer, number);
        connection
            .inspect(|connection| connection.evict())
            .is_some()
    }

    fn remove(&mut self, peer: Peer, number: u64) -> Option<Arc<Connection>> {
        let of_peer = self.peers.get_mut(&peer)?;
        let connection = of_peer.remove(&number)?;
        if of_peer.is_empty() {
            self.peers.remove(&peer);
        }
        self.count = self.count.saturating_sub(1);
        Some(connection)
    }
}

/// The connection of a peer that may be closed first, if there is one.
fn victim(peer: Peer, of_peer: &ByAge) -> Option<Victim> {
    let ranks = of_peer
        .iter()
        .filter_map(|(number, connection)| Some((connection.rank()?, *number)));
    let (mut first, mut unauthenticated, mut authenticated) = (None, 0, 0);
    for (rank, number) in ranks {
        if rank < Rank::AUTHENTICATED {
            unauthenticated += 1;
        } else {
            authenticated += 1;
        }
        if first.is_none_or(|first| (rank, number) < first) {
            first = Some((rank, number));
        }
    }
    let (rank, number) = first?;
    let candidates = if unauthenticated > 0 {
        unauthenticated
    } else {
        authenticated
    };
    Some(Victim {
        rank,
        number,
        peer,
        candidates,
    })
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().remove(self.peer, self.number);
    }
}

#[cfg(test)]
mod tests;
