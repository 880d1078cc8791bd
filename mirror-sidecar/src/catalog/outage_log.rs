//! Logs why the backup registry gives no answer, since those who ask for images do not read it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mirror_copy::RegistryError;
use tokio::time::Instant;

/// Shortest time between two lines: every request of the policy may find the same outage.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// When the last line was written.
#[derive(Debug, Default)]
pub(super) struct OutageLog(Mutex<Option<Instant>>);

impl OutageLog {
    /// Logs the error, unless one was logged a moment ago.
    pub(super) fn log(&self, error: &RegistryError) {
        if self.is_due(Instant::now()) {
            tracing::warn!(%error, "cannot look up copies in the backup registry; check the registry and its credentials");
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.duration_since(last) >= LOG_EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_one_line_in_a_while() {
        let (log, start) = (OutageLog::default(), Instant::now());
        let due =
            [0, 1, 29, 30, 31, 60].map(|seconds| log.is_due(start + Duration::from_secs(seconds)));
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
