//! The state of one connection, shared by the server and the service.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

/// The progress of a peer. Each stage needs as much effort as from an honest client.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Stage {
    /// Nothing received.
    Silent,
    /// Some bytes received.
    Speaking,
    /// TLS handshake complete.
    Secure,
    /// Challenge sent.
    Challenged,
    Authenticated,
}

/// Connections that are evicted for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group(u8);

impl Group {
    /// A request in progress is most likely a probe or a query.
    const IN_PROGRESS: Self = Self(Stage::Authenticated as u8);
}

/// An open connection. Each request has it as an extension, in which the service records authentication.
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

    /// Records valid credentials.
    pub fn authenticated(&self) {
        self.unauthorized.store(0, Ordering::Relaxed);
        self.reached(Stage::Authenticated);
    }

    /// Records a response with status 401. Returns whether it must be the last one of this connection.
    pub fn unauthorized(&self) -> bool {
        self.reached(Stage::Challenged);
        let before = self.unauthorized.fetch_add(1, Ordering::Relaxed);
        before.saturating_add(1) >= self.max_unauthorized
    }

    /// Records progress.
    pub(super) fn reached(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == Stage::Authenticated as u8
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Returns the group of a connection that has not authenticated.
    pub(super) fn group(&self) -> Option<Group> {
        let stage = self.stage.load(Ordering::Relaxed);
        match (self.is_authenticated(), self.is_idle()) {
            (true, _) => None,
            (false, true) => Some(Group(stage)),
            (false, false) => Some(Group::IN_PROGRESS),
        }
    }

    /// Counts a request until the returned value is dropped.
    pub(super) fn request(&self) -> RunningRequest<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        RunningRequest(self)
    }

    /// Closes the connection immediately.
    pub(super) fn evict(&self) {
        self.evicted.cancel();
    }

    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

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
    fn a_connection_changes_its_group_with_each_stage() {
        let connection = Connection::new(3);
        let mut groups = vec![connection.group()];
        for stage in [Stage::Speaking, Stage::Secure, Stage::Challenged] {
            connection.reached(stage);
            connection.reached(Stage::Silent);
            groups.push(connection.group());
        }
        let request = connection.request();
        groups.push(connection.group());
        drop(request);
        assert!(
            groups.is_sorted_by(|before, after| before < after),
            "{groups:?}"
        );
        connection.authenticated();
        assert_eq!(connection.group(), None);
    }
}
