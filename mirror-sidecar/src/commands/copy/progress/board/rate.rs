//! The rate of a transfer.

use std::fmt;
use std::time::{Duration, Instant};

use crate::output::human_bytes;

/// The period of the average: long enough to be steady, short enough to show a stop.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Longest remaining time that is shown.
const LONGEST_GUESS: Duration = Duration::from_hours(100);

/// Bytes per second, smoothed.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Rate {
    started: Instant,
    at: Instant,
    bytes: u64,
    per_second: f64,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            at: now,
            bytes: 0,
            per_second: 0.0,
        }
    }

    /// Adds a reading. A lower one, after a blob was restarted, counts as no progress.
    pub(super) fn update(&mut self, bytes: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        if elapsed <= 0.0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
        let current = bytes.saturating_sub(self.bytes) as f64 / elapsed;
        // The mean since the start, until the period is over.
        let age = now.saturating_duration_since(self.started).as_secs_f64();
        let weight = (elapsed / age).max(1.0 - (-elapsed / RATE_WINDOW.as_secs_f64()).exp());
        self.per_second = self.per_second.mul_add(1.0 - weight, current * weight);
        (self.at, self.bytes) = (now, bytes);
    }

    /// Returns the time for this many bytes; `None` if it is unknown.
    pub(super) fn time_for(&self, bytes: u64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "it is shown in seconds")]
        let seconds = bytes as f64 / self.per_second;
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|time| *time < LONGEST_GUESS)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "never negative, and far below 2^64"
        )]
        let bytes = self.per_second as u64;
        write!(f, "{}/s", human_bytes(bytes))
    }
}
