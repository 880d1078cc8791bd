//! What is known about one connection, shared by the server and the service that answers on it.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

/// How far a peer has got. A peer that only wants to be a burden has to do as much as a client to get as far.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Stage {
    /// It has sent nothing yet.
    Silent,
    /// It has sent something.
    Speaking,
    /// The TLS handshake is complete.
    Secure,
    /// It has got the challenge.
    Challenged,
    /// It has presented the right credentials.
    Authenticated,
}

/// The order in which connections are closed for new ones: the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u8);

impl Rank {
    /// The rank of idle connections that have authenticated.
    pub(super) const AUTHENTICATED: Self = Self(u8::MAX);
    /// What a request in progress adds: it is the most likely to be a probe or a query.
    const IN_PROGRESS: u8 = 1 << 4;
}

/// An open connection. Each request carries it as an extension, and the service says through it who the peer is.
#[derive(Debug)]
pub struct Connection {
    stage: AtomicU8,
    unauthorized: AtomicUsize,
    max_unauthorized: usize,
    requests: AtomicUsize,
    evicted: CancellationToken,
}

impl Connection {
    pub(super) fn new(max_unauthorized: usize) -> Self {
        Self {
            stage: AtomicU8::new(Stage::Silent as u8),
            unauthorized: AtomicUsize::new(0),
            max_unauthorized,
            requests: AtomicUsize::new(0),
            evicted: CancellationToken::new(),
        }
    }

    /// Records that the peer has presented the right credentials.
    pub fn authenticated(&self) {
        self.unauthorized.store(0, Ordering::Relaxed);
        self.reached(Stage::Authenticated);
    }

    /// Records a response with status 401. Returns true if it must be the last one of this connection.
    pub fn unauthorized(&self) -> bool {
        self.reached(Stage::Challenged);
        let before = self.unauthorized.fetch_add(1, Ordering::Relaxed);
        before.saturating_add(1) >= self.max_unauthorized
    }

    /// Records progress; it never goes back.
    pub(super) fn reached(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == Stage::Authenticated as u8
    }

    /// Returns `None` if it must not be closed for another one: a query of an authenticated peer is being answered.
    pub(super) fn rank(&self) -> Option<Rank> {
        let is_idle = self.requests.load(Ordering::Relaxed) == 0;
        let stage = self.stage.load(Ordering::Relaxed);
        match (self.is_authenticated(), is_idle) {
            (true, true) => Some(Rank::AUTHENTICATED),
            (true, false) => None,
            (false, true) => Some(Rank(stage)),
            (false, false) => Some(Rank(stage | Rank::IN_PROGRESS)),
        }
    }

    /// Counts a request until the returned value is dropped.
    pub(super) fn request(&self) -> RunningRequest<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        RunningRequest(self)
    }

    /// Closes it without regard to what it is doing.
    pub(super) fn evict(&self) {
        self.evicted.cancel();
    }

    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

/// A request that is being answered.
pub(super) struct RunningRequest<'a>(&'a Connection);

impl Drop for RunningRequest<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_refusals_in_a_row_ends_the_connection() {
        let connection = Connection::new(3);
        assert!(!connection.unauthorized());
        assert!(!connection.unauthorized());
        connection.authenticated();
        assert!(!connection.unauthorized());
        assert!(!connection.unauthorized());
        assert!(connection.unauthorized());
    }

    #[test]
    fn the_further_a_peer_has_got_the_later_it_is_closed() {
        let connection = Connection::new(3);
        let mut ranks = vec![connection.rank()];
        for stage in [Stage::Speaking, Stage::Secure, Stage::Challenged] {
            connection.reached(stage);
            connection.reached(Stage::Silent);
            ranks.push(connection.rank());
        }
        let request = connection.request();
        ranks.push(connection.rank());
        connection.authenticated();
        assert_eq!(connection.rank(), None);
        drop(request);
        ranks.push(connection.rank());
        assert!(
            ranks.is_sorted_by(|before, after| before < after),
            "{ranks:?}"
        );
        assert_eq!(ranks.last(), Some(&Some(Rank::AUTHENTICATED)));
    }
}
