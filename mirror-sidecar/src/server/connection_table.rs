//! The open connections of a port. A new connection is always added, if need be instead of another one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Connection, Group};
use super::limits::Limits;
use super::peer::Peer;

/// The oldest is first.
type ByAge = BTreeMap<u64, Arc<Connection>>;

pub(super) struct ConnectionTable {
    limits: Limits,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    accepted: u64,
    /// Connections of all `peers`.
    count: usize,
    peers: HashMap<Peer, ByAge>,
}

/// An entry of the table, removed on drop.
pub(super) struct Place {
    table: Arc<ConnectionTable>,
    peer: Peer,
    number: u64,
    pub(super) connection: Arc<Connection>,
}

impl ConnectionTable {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: Mutex::default(),
        }
    }

    /// Adds a connection of this peer. Beyond a limit, connections that have not authenticated are evicted: of the same peer,
    /// or, if the table is full, of the peers with most of them. If all have authenticated, the oldest idle one is evicted.
    /// Returns `None` if there is none, and the new connection must be closed.
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

    /// Evicts some of the oldest connections that have not authenticated, or an idle one. Returns whether there was any.
    pub(super) fn make_room(&self) -> bool {
        self.lock().make_room()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Added {
    pub(super) place: Place,
    /// Another connection was evicted for it.
    pub(super) evicted: bool,
}

impl Entries {
    /// Makes room for an unauthenticated connection of a peer.
    fn shrink(&mut self, peer: Peer, limit: usize) -> bool {
        // The length is an upper bound, and cheap.
        let is_full = |of_peer: &ByAge| of_peer.len() >= limit && unauthenticated(of_peer) >= limit;
        let of_peer = self.peers.get_key_value(&peer);
        let of_peer = of_peer.filter(|(_, of_peer)| is_full(of_peer));
        let victims = victims(of_peer.into_iter(), at_once(limit));
        self.evict(victims)
    }

    /// Makes room for one more connection.
    fn make_room(&mut self) -> bool {
        let counts = self.peers.values().map(unauthenticated);
        let most = counts.max().unwrap_or_default();
        let greedy = self
            .peers
            .iter()
            .filter(|(_, of_peer)| unauthenticated(of_peer) == most);
        let mut victims = victims(greedy, at_once(self.count));
        if victims.is_empty() {
            victims.extend(self.oldest_idle());
        }
        self.evict(victims)
    }

    /// The oldest idle connection of the peer with most of them.
    fn oldest_idle(&self) -> Option<(u64, Peer)> {
        let oldest = self.peers.iter().filter_map(|(peer, of_peer)| {
            let mut idle = of_peer
                .iter()
                .filter(|(_, connection)| connection.is_idle());
            let (oldest, _) = idle.next()?;
            Some((idle.count(), Reverse(*oldest), *peer))
        });
        oldest
            .max()
            .map(|(_, Reverse(number), peer)| (number, peer))
    }

    fn evict(&mut self, victims: Vec<(u64, Peer)>) -> bool {
        let mut is_evicted = false;
        for (number, peer) in victims {
            if let Some(connection) = self.remove(peer, number) {
                connection.evict();
                is_evicted = true;
            }
        }
        is_evicted
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

/// Connections that are evicted together: all must be searched for them, which a flood must not cause each time.
fn at_once(limit: usize) -> usize {
    (limit / 16).max(1)
}

/// Returns the oldest connections of the largest group that has not authenticated. A flood whose connections reach some stage
/// evicts only itself, not connections at other stages.
fn victims<'a>(
    peers: impl Iterator<Item = (&'a Peer, &'a ByAge)>,
    at_once: usize,
) -> Vec<(u64, Peer)> {
    let mut groups = BTreeMap::<Group, Vec<(u64, Peer)>>::new();
    for (peer, of_peer) in peers {
        for (number, connection) in of_peer {
            if let Some(group) = connection.group() {
                groups.entry(group).or_default().push((*number, *peer));
            }
        }
    }
    let oldest = |group: &Vec<(u64, Peer)>| group.iter().min().copied();
    let largest = groups
        .into_values()
        .max_by_key(|group| (group.len(), Reverse(oldest(group))));
    let mut victims = largest.unwrap_or_default();
    victims.sort_unstable();
    victims.truncate(at_once);
    victims
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().remove(self.peer, self.number);
    }
}

#[cfg(test)]
mod tests;
