//! The client of the API server, and outages of the API server.
//!
//! All tasks share the client. An outage is logged once when it begins, with the address of the API server, and once when it
//! ends. The tasks log only failures that the outage does not explain.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::{Client, Error};
use tokio::time::Instant;

/// Consecutive requests of all tasks without a response that count as an outage. A single connection may break at any time.
const FAILURES_OF_AN_OUTAGE: u32 = 3;

/// 403 is expected for this long after an outage: a starting API server has not read the roles yet.
const SETTLING: Duration = Duration::from_secs(30);

/// The client of the API server. Clones share the state.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    address: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests without a response since the last one with a response.
    failures: u32,
    away_since: Option<Instant>,
    back_at: Option<Instant>,
}

/// A change that is logged.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Away,
    Back(Duration),
}

impl ApiServer {
    /// The API server at `address` that `client` connects to.
    #[must_use]
    pub fn new(client: Client, address: &str) -> Self {
        Self {
            client,
            address: address.into(),
            state: Arc::default(),
        }
    }

    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Records the outcome of a request.
    pub fn observe<T>(&self, result: &Result<T, Error>) {
        match result {
            Err(error) if is_unreachable(error) => self.failed(error),
            _ => self.responded(),
        }
    }

    /// Records a response.
    pub fn responded(&self) {
        if let Some(Change::Back(away)) = self.state().responded(Instant::now()) {
            tracing::info!(
                server = &*self.address,
                away_seconds = away.as_secs(),
                "API server is reachable again"
            );
        }
    }

    /// Records a request that got no response.
    pub fn failed(&self, error: &dyn fmt::Display) {
        if self.state().failed(Instant::now()) == Some(Change::Away) {
            tracing::warn!(
                server = &*self.address,
                %error,
                "API server is unreachable; images that are known are still copied and the policy gets responses; \
                 check the API server and the network between it and mirror-sidecar"
            );
        }
    }

    #[must_use]
    pub fn is_away(&self) -> bool {
        self.state().away_since.is_some()
    }

    /// Returns whether an outage explains `error`. The first of several failures may be the beginning of one.
    #[must_use]
    pub fn explains(&self, error: &Error, is_first: bool) -> bool {
        match error {
            Error::Api(status) if status.code == 403 => self.state().is_settling(Instant::now()),
            error => is_unreachable(error) && (is_first || self.is_away()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Client> for ApiServer {
    fn from(client: Client) -> Self {
        Self::new(client, "")
    }
}

impl State {
    fn responded(&mut self, now: Instant) -> Option<Change> {
        self.failures = 0;
        let since = self.away_since.take()?;
        self.back_at = Some(now);
        Some(Change::Back(now.saturating_duration_since(since)))
    }

    fn is_settling(&self, now: Instant) -> bool {
        let until = self.back_at.map(|back| back + SETTLING);
        self.away_since.is_some() || until.is_some_and(|until| now < until)
    }

    fn failed(&mut self, now: Instant) -> Option<Change> {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES_OF_AN_OUTAGE || self.away_since.is_some() {
            return None;
        }
        self.away_since = Some(now);
        Some(Change::Away)
    }
}

/// Returns whether no API server responded: the connection failed, or a load balancer responded in its place.
#[must_use]
pub fn is_unreachable(error: &Error) -> bool {
    match error {
        Error::HyperError(_) | Error::Service(_) | Error::ReadEvents(_) => true,
        Error::Api(status) => matches!(status.code, 502..=504),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_three_failures_in_a_row_and_is_reported_once() {
        let mut state = State::default();
        let start = Instant::now();
        for _ in 0..2 {
            assert_eq!(state.failed(start), None);
        }
        assert_eq!(state.responded(start), None, "a broken connection");
        let changes: Vec<_> = (0..5).map(|_| state.failed(start)).collect();
        assert_eq!(changes, [None, None, Some(Change::Away), None, None]);
        let minute = Duration::from_mins(1);
        assert_eq!(state.responded(start + minute), Some(Change::Back(minute)));
        assert!(state.is_settling(start + minute));
        assert!(!state.is_settling(start + 2 * minute));
        assert_eq!(state.responded(start), None);
        assert_eq!(state.failed(start), None);
    }
}
