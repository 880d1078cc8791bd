//! The open connections of a port: each new one finds a place, if need be that of another one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Connection, Group};
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
    /// same peer, or, if the table is full, one of the peers that have most of them. Where all have authenticated, the
    /// oldest that is idle is closed. Returns `None` if there is none; the new one is to be closed then.
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

impl Entries {
    /// Leaves room for one more connection that has not authenticated among those of a peer.
    fn shrink(&mut self, peer: Peer, limit: usize) -> bool {
        // The sum is an upper bound, and cheap.
        let is_full =
            |of_peer: &&ByAge| of_peer.len() >= limit && unauthenticated(of_peer) >= limit;
        let of_peer = self
            .peers
            .get_key_value(&peer)
            .filter(|(_, of_peer)| is_full(of_peer));
        let victim = victim(of_peer.into_iter());
        victim.is_some_and(|(peer, number)| self.evict(peer, number))
    }

    /// Leaves room for one more connection among all.
    fn make_room(&mut self) -> bool {
        let most = self
            .peers
            .values()
            .map(unauthenticated)
            .max()
            .unwrap_or_default();
        let greedy = self
            .peers
            .iter()
            .filter(|(_, of_peer)| unauthenticated(of_peer) == most);
        let victim = victim(greedy).or_else(|| self.oldest_idle());
        victim.is_some_and(|(peer, number)| self.evict(peer, number))
    }

    /// The oldest idle connection of the peer that has most of them.
    fn oldest_idle(&self) -> Option<(Peer, u64)> {
        let oldest = self.peers.iter().filter_map(|(peer, of_peer)| {
            let mut idle = of_peer
                .iter()
                .filter(|(_, connection)| connection.is_idle());
            let (oldest, _) = idle.next()?;
            Some((idle.count(), Reverse(*oldest), *peer))
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

fn unauthenticated(of_peer: &ByAge) -> usize {
    let those = of_peer
        .values()
        .filter(|connection| connection.group().is_some());
    those.count()
}

/// The oldest connection of the largest group among those that have not authenticated. A flood that gets as far as some
/// stage displaces itself, and not who is further, or not yet there.
fn victim<'a>(peers: impl Iterator<Item = (&'a Peer, &'a ByAge)>) -> Option<(Peer, u64)> {
    let mut groups = BTreeMap::<Group, (usize, u64, Peer)>::new();
    for (peer, of_peer) in peers {
        for (number, connection) in of_peer {
            let Some(group) = connection.group() else {
                continue;
            };
            let (count, oldest, of) = groups.entry(group).or_insert((0, *number, *peer));
            *count += 1;
            if number < oldest {
                (*oldest, *of) = (*number, *peer);
            }
        }
    }
    let largest = groups
        .into_values()
        .max_by_key(|(count, oldest, _)| (*count, Reverse(*oldest)));
    largest.map(|(_, number, peer)| (peer, number))
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().remove(self.peer, self.number);
    }
}

#[cfg(test)]
mod tests;
