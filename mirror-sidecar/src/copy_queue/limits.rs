//! Limits on running copies, and what follows from exceeding them. Pure rules; the time is passed in.
//!
//! Except for [`STALLED_AFTER`], every limit counts only while another image waits that could use the slot. Complete
//! blobs are kept: the next attempt finds them in the backup.

use std::time::Duration;

use tokio::time::Instant;

use super::progress::{MIN_MOVEMENT, Measured};
use crate::output::human_bytes;

/// Time for the source to respond with the root manifest. A healthy registry takes less than a second; a proxy that
/// fetches the image first, some seconds.
pub(super) const RESPONSE_WITHIN: Duration = Duration::from_secs(30);

/// The time over which the rate of a copy is measured. With [`TICK`], the longest time that a slow source delays
/// others.
pub(super) const RATE_PERIOD: Duration = Duration::from_secs(58);

/// Bytes that must arrive in [`RATE_PERIOD`]: 72 kB/s, far less than any registry that serves workloads. In the penalty
/// queue, each failure in a row halves it, so that an image that is always slow is copied in the end.
pub(super) const MIN_ARRIVED: u64 = 4 * 1024 * 1024;

/// Failures after which [`MIN_ARRIVED`] is halved no more: about 2 kB/s.
const MAX_HALVINGS: u32 = 5;

/// A copy is long after this time. While others wait, long copies get at most half of the slots, so that short ones
/// pass them whatever their rate. Nine of ten images take less over a link of 100 Mbit/s.
pub(super) const LONG_AFTER: Duration = Duration::from_mins(2);

/// The longest time for one attempt while others wait. In the penalty queue, each failure in a row doubles it, so that
/// a layer that takes longer arrives in the end.
pub(super) const ATTEMPT_WITHIN: Duration = Duration::from_mins(15);

/// Failures after which [`ATTEMPT_WITHIN`] is doubled no more: four hours.
const MAX_DOUBLINGS: u32 = 4;

/// A registry may take this long to commit a large blob, while no bytes move.
pub(super) const STALLED_AFTER: Duration = Duration::from_mins(5);

/// How often running copies are checked.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Measures the progress of a running copy.
#[derive(Debug)]
pub(super) struct Pace {
    started: Instant,
    period: Period,
    stall: Period,
}

#[derive(Debug)]
struct Period {
    since: Instant,
    before: Measured,
}

/// The limits of one copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    min_arrived: u64,
    attempt_within: Duration,
}

/// The limit that a copy exceeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Less than [`MIN_MOVEMENT`] in [`STALLED_AFTER`]. Applies whether or not others wait.
    Stalled,
    /// The source did not respond within [`RESPONSE_WITHIN`].
    Silent,
    /// Too little arrived in [`RATE_PERIOD`], and the copy mostly waited for the source.
    Slow(String),
    /// Too little arrived in [`RATE_PERIOD`]; the slow side is unknown.
    Idle,
    /// The attempt took longer than [`ATTEMPT_WITHIN`].
    Late,
    /// The attempt took longer than [`LONG_AFTER`].
    Long,
}

/// Why a running copy ends before it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The job waits for its next turn, as if it had not started.
    Requeue,
    /// The copy took long, others wait, and too many long copies run: it waits for a slot for long copies. This is no
    /// failure.
    MakeRoom,
    GiveUp {
        /// One sentence.
        reason: String,
        blame: Blame,
    },
}

/// Which images move to the penalty queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// None: the cause may be the backup, or a pause that the source requested. Failed images still wait behind untried
    /// ones.
    Nobody,
    /// This image: other images of its source arrive.
    Image,
    /// All images of the source.
    Source,
    /// All images of the source; this image also after the source delivers again.
    Both,
}

impl Allowance {
    pub(super) fn normal() -> Self {
        Self {
            min_arrived: MIN_ARRIVED,
            attempt_within: ATTEMPT_WITHIN,
        }
    }

    /// The allowance of a copy in the penalty queue after this many failures in a row.
    pub(super) fn in_penalty(failures: u32) -> Self {
        Self {
            min_arrived: MIN_ARRIVED >> failures.min(MAX_HALVINGS),
            attempt_within: ATTEMPT_WITHIN * (1 << failures.min(MAX_DOUBLINGS)),
        }
    }
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        let period = || Period {
            since: now,
            before: Measured::default(),
        };
        Self {
            started: now,
            period: period(),
            stall: period(),
        }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn is_long(&self, now: Instant) -> bool {
        now.duration_since(self.started) >= LONG_AFTER
    }

    /// Mean bytes per second since the start.
    pub(super) fn rate(&self, now: Instant, measured: Measured) -> u64 {
        let seconds = now.duration_since(self.started).as_secs().max(1);
        measured.arrived / seconds
    }

    /// Returns the limit that the copy exceeds, the most serious first.
    pub(super) fn check(
        &mut self,
        now: Instant,
        measured: Measured,
        allowance: Allowance,
    ) -> Option<Excess> {
        let elapsed = now.duration_since(self.started);
        if measured.movement.saturating_sub(self.stall.before.movement) >= MIN_MOVEMENT {
            self.stall.restart(now, measured);
        } else if now.duration_since(self.stall.since) >= STALLED_AFTER {
            return Some(Excess::Stalled);
        }
        if measured.is_requested && !measured.has_responded && elapsed >= RESPONSE_WITHIN {
            return Some(Excess::Silent);
        }
        let arrived = measured.arrived.saturating_sub(self.period.before.arrived);
        if arrived >= allowance.min_arrived {
            self.period.restart(now, measured);
        } else if let Some(excess) = self.too_slow(now, measured, arrived) {
            return Some(excess);
        }
        if elapsed >= allowance.attempt_within {
            return Some(Excess::Late);
        }
        (elapsed >= LONG_AFTER).then_some(Excess::Long)
    }

    fn too_slow(&self, now: Instant, measured: Measured, arrived: u64) -> Option<Excess> {
        let within = now.duration_since(self.period.since);
        if within < RATE_PERIOD {
            return None;
        }
        let before = self.period.before;
        let samples = measured.samples.saturating_sub(before.samples);
        let waits = measured.source_waits.saturating_sub(before.source_waits);
        if samples == 0 {
            return Some(Excess::Idle);
        }
        // A slow target does not count: the copy does not wait for the source then.
        (waits > samples / 4 * 3).then(|| {
            let (arrived, seconds) = (human_bytes(arrived), within.as_secs());
            Excess::Slow(format!(
                "only {arrived} arrived in {seconds} s while other images waited"
            ))
        })
    }
}

impl Period {
    fn restart(&mut self, now: Instant, measured: Measured) {
        self.since = now;
        self.before = measured;
    }
}

impl Blame {
    pub(super) fn is_on_source(self) -> bool {
        matches!(self, Self::Source | Self::Both)
    }

    pub(super) fn is_on_image(self) -> bool {
        matches!(self, Self::Image | Self::Both)
    }
}
