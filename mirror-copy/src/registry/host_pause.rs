//! Delays requests to a host that requested a pause.
//!
//! Reads and writes are paused separately: registries limit uploads separately, and lookups must not wait because copies
//! upload too much.

use crate::error::Operation;
use crate::lock::lock;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

#[derive(Default)]
pub(super) struct HostPauses {
    reads: HostPause,
    writes: HostPause,
}

impl HostPauses {
    /// Waits until a request for this operation may be sent.
    pub(super) async fn wait(&self, operation: Operation) {
        self.of(operation).wait().await;
    }

    /// Returns whether requests that write, or those that read, wait now.
    pub(super) fn is_paused(&self, writes: bool) -> bool {
        if writes { &self.writes } else { &self.reads }.is_paused()
    }

    /// Pauses this kind of operation. Returns `true` if it was not paused yet. A pause of reads also pauses writes.
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

/// A pause after one 429 applies to all requests: sending others only extends it.
#[derive(Default)]
struct HostPause {
    paused_until: Mutex<Option<Instant>>,
}

impl HostPause {
    /// Waits for the end of the pause, also if it is extended in the meantime.
    async fn wait(&self) {
        loop {
            let until = *lock(&self.paused_until);
            match until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    fn is_paused(&self) -> bool {
        let until = *lock(&self.paused_until);
        until.is_some_and(|until| until > Instant::now())
    }

    /// Pauses for at least this long. Returns `true` if it was not paused. Never shortens a pause.
    fn pause(&self, pause: Duration) -> bool {
        let now = Instant::now();
        let until = now + pause;
        let mut paused = lock(&self.paused_until);
        let was_running = paused.is_none_or(|old| old <= now);
        if paused.is_none_or(|old| old < until) {
            *paused = Some(until);
        }
        was_running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invented names must not displace the pause of a registry.
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
    async fn a_pause_delays_all_requests_and_the_longest_wins() {
        let pause = HostPause::default();
        let start = Instant::now();
        pause.wait().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(pause.pause(Duration::from_secs(30)));
        assert!(!pause.pause(Duration::from_secs(5)));
        tokio::join!(pause.wait(), pause.wait());
        assert!(start.elapsed() >= Duration::from_secs(30));
        assert!(start.elapsed() < Duration::from_secs(31));
        assert!(pause.pause(Duration::from_secs(1)), "another one");
    }

    #[tokio::test(start_paused = true)]
    async fn reads_do_not_wait_for_writes() {
        let pauses = HostPauses::default();
        let start = Instant::now();
        assert!(pauses.pause(Operation::StartUpload, Duration::from_secs(30)));
        assert!(!pauses.pause(Operation::WriteManifest, Duration::from_secs(5)));
        assert!(pauses.is_paused(true) && !pauses.is_paused(false));
        pauses.wait(Operation::ReadManifest).await;
        pauses.wait(Operation::Ping).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(pauses.pause(Operation::ReadManifest, Duration::from_mins(1)));
        pauses.wait(Operation::WriteBlob).await;
        assert!(start.elapsed() >= Duration::from_mins(1));
    }
}
