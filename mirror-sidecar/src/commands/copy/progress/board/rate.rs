//! How fast bytes move.

use std::fmt;
use std::time::{Duration, Instant};

use crate::output::human_bytes;

/// How far back a rate looks: long enough not to jump, short enough to show a stop.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Longest time that is foretold. What would take longer stands still.
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

    /// Takes a new reading into account. Restarts of blobs let the reading fall: that counts as standing still.
    pub(super) fn update(&mut self, bytes: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        if elapsed <= 0.0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
        let current = bytes.saturating_sub(self.bytes) as f64 / elapsed;
        // The mean of everything at first, until there is enough to forget what is old.
        let age = now.saturating_duration_since(self.started).as_secs_f64();
        let weight = (elapsed / age).max(1.0 - (-elapsed / RATE_WINDOW.as_secs_f64()).exp());
        self.per_second = self.per_second.mul_add(1.0 - weight, current * weight);
        (self.at, self.bytes) = (now, bytes);
    }

    /// How long so many more bytes take; `None` if that is anybody's guess.
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
