//! The open connections of a port: each new one finds a place, if need be that of another one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::Connection;
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

    /// Adds a connection of this peer. If it is one too many, another one is closed: the peer's oldest that has not
    /// authenticated, or, if the table is full, the oldest such one of the peer that has most of them. Where all have
    /// authenticated, the oldest that is idle is closed. Returns `None` if there is none; the new one is to be closed then.
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

/// Connections that may be closed for a new one.
type Candidate = fn(&Connection) -> bool;

/// Those that are closed first come first. A request that is being answered is the most likely to be a probe or a query.
const UNAUTHENTICATED: [Candidate; 2] = [
    |connection| !connection.is_authenticated() && connection.is_idle(),
    |connection| !connection.is_authenticated(),
];
const IDLE: Candidate = Connection::is_idle;

impl Entries {
    /// Leaves room for one more connection that has not authenticated among those of a peer.
    fn shrink(&mut self, peer: Peer, limit: usize) -> bool {
        let Some(of_peer) = self.peers.get(&peer) else {
            return false;
        };
        let [idle, any] = UNAUTHENTICATED;
        // The sum is an upper bound, and cheap.
        if of_peer.len() < limit || numbers(of_peer, any).count() < limit {
            return false;
        }
        let oldest = numbers(of_peer, idle).chain(numbers(of_peer, any)).next();
        oldest.is_some_and(|number| self.evict(peer, number))
    }

    /// Leaves room for one more connection among all.
    fn make_room(&mut self) -> bool {
        let mut candidates = UNAUTHENTICATED.into_iter().chain([IDLE]);
        let victim = candidates.find_map(|candidate| self.oldest_of_most(candidate));
        victim.is_some_and(|(peer, number)| self.evict(peer, number))
    }

    /// The oldest candidate of the peer that has most candidates.
    fn oldest_of_most(&self, candidate: Candidate) -> Option<(Peer, u64)> {
        let oldest = self.peers.iter().filter_map(|(peer, of_peer)| {
            let mut candidates = numbers(of_peer, candidate);
            let oldest = candidates.next()?;
            // Of as many the oldest.
            Some((candidates.count(), Reverse(oldest), *peer))
        });
        oldest
            .max()
            .map(|(_, Reverse(number), peer)| (peer, number))
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

fn numbers(of_peer: &ByAge, candidate: Candidate) -> impl Iterator<Item = u64> + '_ {
    let candidates = of_peer
        .iter()
        .filter(move |(_, connection)| candidate(connection));
    candidates.map(|(number, _)| *number)
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().remove(self.peer, self.number);
    }
}

#[cfg(test)]
mod tests;
