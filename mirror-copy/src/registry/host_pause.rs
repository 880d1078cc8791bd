//! Holds back requests to a host that asked for a pause.
//!
//! Reads and writes are paused separately: registries limit uploads by themselves, and lookups of the facade and the
//! readiness must not wait because copies upload too much.

use crate::error::Operation;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The gates of one host.
#[derive(Default)]
pub(super) struct HostPauses {
    reads: HostPause,
    writes: HostPause,
}

impl HostPauses {
    /// Waits until a request for this operation may be sent.
    pub(super) async fn pass(&self, operation: Operation) {
        self.of(operation).pass().await;
    }

    /// Whether requests that write, or those that read, wait now.
    pub(super) fn is_closed(&self, writes: bool) -> bool {
        if writes { &self.writes } else { &self.reads }.is_closed()
    }

    /// Pauses this operation, as the host asked for; returns `true` if there was no pause yet. A pause of reads is one of
    /// writes, too.
    pub(super) fn pause(&self, operation: Operation, pause: Duration) -> bool {
        let is_new = self.of(operation).pause(pause);
        if !operation.is_write() {
            self.writes.pause(pause);
        }
        is_new
    }

    fn of(&self, operation: Operation) -> &HostPause {
        if operation.is_write() {
            &self.writes
        } else {
            &self.reads
        }
    }
}

/// Open unless paused. One 429 concerns all requests: going on with the others only prolongs it.
#[derive(Default)]
struct HostPause {
    closed_until: Mutex<Option<Instant>>,
}

impl HostPause {
    /// Returns when the gate is open. A pause that grows meanwhile is waited for, too.
    async fn pass(&self) {
        loop {
            let until = *self
                .closed_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// Whether it is closed now.
    fn is_closed(&self) -> bool {
        let until = self.closed_until.lock();
        let until = *until.unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| until > Instant::now())
    }

    /// Closes the gate for at least this long; `true` if it was open. Never shortens a pause.
    fn pause(&self, pause: Duration) -> bool {
        let now = Instant::now();
        let until = now + pause;
        let mut closed = self
            .closed_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let was_open = closed.is_none_or(|old| old <= now);
        if closed.is_none_or(|old| old < until) {
            *closed = Some(until);
        }
        was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invented names must not make us forget that a registry asked for a pause.
    #[tokio::test(start_paused = true)]
    async fn a_pause_is_remembered_whatever_other_hosts_are_named() {
        let options = crate::RegistryOptions::default();
        let registries = crate::Registries::new(options).unwrap();
        let get = |name: &str| registries.get(name).unwrap();
        get("paused.example.com").pause(Operation::ReadManifest, Duration::from_secs(30));
        for number in 0..200 {
            get(&format!("host-{number}.example.com"))
                .pause(Operation::ReadManifest, Duration::from_secs(1));
        }
        assert!(get("paused.example.com").is_paused());
        tokio::time::advance(Duration::from_secs(31)).await;
        for number in 0..200 {
            get(&format!("host-{number}.example.net"));
        }
        assert!(registries.len() < 200, "{}", registries.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_everybody_and_the_longest_wins() {
        let gate = HostPause::default();
        let start = Instant::now();
        gate.pass().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(gate.pause(Duration::from_secs(30)));
        assert!(!gate.pause(Duration::from_secs(5)));
        tokio::join!(gate.pass(), gate.pass());
        assert!(start.elapsed() >= Duration::from_secs(30));
        assert!(start.elapsed() < Duration::from_secs(31));
        assert!(gate.pause(Duration::from_secs(1)), "another one");
    }

    #[tokio::test(start_paused = true)]
    async fn reads_do_not_wait_for_writes() {
        let gates = HostPauses::default();
        let start = Instant::now();
        assert!(gates.pause(Operation::StartUpload, Duration::from_secs(30)));
        assert!(!gates.pause(Operation::WriteManifest, Duration::from_secs(5)));
        assert!(gates.is_closed(true) && !gates.is_closed(false));
        gates.pass(Operation::ReadManifest).await;
        gates.pass(Operation::Ping).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(gates.pause(Operation::ReadManifest, Duration::from_mins(1)));
        gates.pass(Operation::WriteBlob).await;
        assert!(start.elapsed() >= Duration::from_mins(1));
    }
}
