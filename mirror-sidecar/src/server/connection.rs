//! What is known about one connection, shared by the server and the service that answers on it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

/// An open connection. Each request carries it as an extension, and the service says through it who the peer is.
#[derive(Debug)]
pub struct Connection {
    is_authenticated: AtomicBool,
    unauthorized: AtomicUsize,
    max_unauthorized: usize,
    requests: AtomicUsize,
    evicted: CancellationToken,
}

impl Connection {
    pub(super) fn new(max_unauthorized: usize) -> Self {
        Self {
            is_authenticated: AtomicBool::new(false),
            unauthorized: AtomicUsize::new(0),
            max_unauthorized,
            requests: AtomicUsize::new(0),
            evicted: CancellationToken::new(),
        }
    }

    /// Records that the peer has presented the right credentials.
    pub fn authenticated(&self) {
        self.unauthorized.store(0, Ordering::Relaxed);
        self.is_authenticated.store(true, Ordering::Relaxed);
    }

    /// Records a response with status 401. Returns true if it must be the last one of this connection.
    pub fn unauthorized(&self) -> bool {
        let before = self.unauthorized.fetch_add(1, Ordering::Relaxed);
        before.saturating_add(1) >= self.max_unauthorized
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Relaxed)
    }

    /// True while no request is being answered.
    pub(super) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
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
    fn it_is_idle_between_requests() {
        let connection = Connection::new(3);
        assert!(connection.is_idle());
        let request = connection.request();
        assert!(!connection.is_idle());
        drop(request);
        assert!(connection.is_idle());
    }
}
