//! When each image is re-checked.
//!
//! Turns are spread evenly over the interval. They depend on the wall clock and a hash of the image's name, so they survive
//! a restart and are the same in all replicas.

use std::time::Duration;

use mirror_contract::ImageRef;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// Longest time between two checks of an image that is not as it should be: the cause may have been fixed by then.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(15);

/// A schedule in which every image has one turn in each interval.
#[derive(Clone, Debug)]
pub(super) struct RecheckSchedule {
    /// In nanoseconds, at least 1.
    interval: u128,
    started: Instant,
    /// The wall clock at that moment, in nanoseconds since 1970.
    started_at: u128,
}

/// The position of an image's turn in the interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phase(u64);

/// The schedule at one moment.
#[derive(Clone, Copy)]
pub(super) struct Clock<'a> {
    schedule: &'a RecheckSchedule,
    pub now: Instant,
}

impl Phase {
    /// Derives the phase from the name alone, in the same way in every version.
    pub(super) fn of(image: &ImageRef<'_>) -> Self {
        let hash = Sha256::digest(image.to_string());
        let bytes = hash.iter().take(8);
        Self(bytes.fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }
}

impl RecheckSchedule {
    /// A schedule whose wall clock was `since_1970` at `started`.
    pub(super) fn new(interval: Duration, started: Instant, since_1970: Duration) -> Self {
        Self {
            interval: interval.as_nanos().max(1),
            started,
            started_at: since_1970.as_nanos(),
        }
    }

    pub(super) fn at(&self, now: Instant) -> Clock<'_> {
        let schedule = self;
        Clock { schedule, now }
    }
}

impl Clock<'_> {
    pub(super) fn interval(self) -> Duration {
        nanos(self.schedule.interval)
    }

    /// The end of `wait`, or of the re-check interval if that is shorter.
    pub(super) fn after(self, wait: Duration) -> Instant {
        self.now + wait.min(self.interval())
    }

    /// The number of the current turn.
    pub(super) fn turn(self, phase: Phase) -> u128 {
        self.position(phase) / self.schedule.interval
    }

    /// The start of the next turn, later than now.
    pub(super) fn next_turn(self, phase: Phase) -> Instant {
        let passed = self.position(phase) % self.schedule.interval;
        self.now + nanos(self.schedule.interval - passed)
    }

    /// Nanoseconds since the image's turn number 0.
    fn position(self, phase: Phase) -> u128 {
        let RecheckSchedule {
            interval,
            started,
            started_at,
        } = self.schedule;
        let elapsed = self.now.saturating_duration_since(*started).as_nanos();
        started_at + elapsed + u128::from(phase.0) % interval
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
