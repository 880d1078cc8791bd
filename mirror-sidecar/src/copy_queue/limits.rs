//! When a running copy gives up its slot: pure rules, time is passed in.
//!
//! Except for [`STALLED_AFTER`], every limit counts only while another image waits that could use the slot. What was copied
//! is kept: the next attempt finds at the backup every blob that was complete.

use std::time::Duration;

use tokio::time::Instant;

use super::progress::{MIN_MOVEMENT, Measured};
use crate::output::human_bytes;

/// A source must respond with the root manifest by then. A registry that works takes less than a second; a proxy that
/// fetches the image first, some seconds.
pub(super) const RESPONSE_WITHIN: Duration = Duration::from_secs(30);

/// The time over which the rate of a copy is measured. With [`TICK`] it is the longest time that a slow source keeps others
/// waiting.
pub(super) const RATE_PERIOD: Duration = Duration::from_secs(58);

/// Bytes that must arrive in [`RATE_PERIOD`]: 72 kB/s, far less than any registry that somebody runs workloads from. Each
/// failure in a row halves it for a copy in the penalty line, so that an image that can only be slow is copied in the end.
pub(super) const MIN_ARRIVED: u64 = 4 * 1024 * 1024;

/// Failures after which it is halved no more: about 2 kB/s.
const MAX_HALVINGS: u32 = 5;

/// A copy that takes longer is a long one. Long copies get half of the slots at most while others wait, so that short ones
/// pass them whatever the long ones' rate is. Nine of ten images take less over a link of 100 Mbit/s.
pub(super) const LONG_AFTER: Duration = Duration::from_mins(2);

/// The longest time for one attempt while others wait. Each failure in a row doubles it for a copy in the penalty line, so
/// that a layer that takes longer arrives in the end.
pub(super) const ATTEMPT_WITHIN: Duration = Duration::from_mins(15);

/// Failures after which it is doubled no more: four hours.
const MAX_DOUBLINGS: u32 = 4;

/// A registry may take this long to commit a large blob, during which nothing else moves.
pub(super) const STALLED_AFTER: Duration = Duration::from_mins(5);

/// How often running copies are checked.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// The pace of a running copy.
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

/// How much a copy is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    min_arrived: u64,
    attempt_within: Duration,
}

/// What a copy exceeds at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Hardly anything moved for [`STALLED_AFTER`]. This one holds whether or not others wait.
    Stalled,
    /// The source did not respond within [`RESPONSE_WITHIN`].
    Silent,
    /// Too little arrived in [`RATE_PERIOD`], and mostly the source was waited for.
    Slow(String),
    /// Too little arrived in [`RATE_PERIOD`], and nothing tells which side is slow.
    Idle,
    /// The attempt took longer than [`ATTEMPT_WITHIN`].
    Late,
    /// The attempt took longer than [`LONG_AFTER`].
    Long,
}

impl Allowance {
    /// The allowance of a copy in the normal line.
    pub(super) fn normal() -> Self {
        Self {
            min_arrived: MIN_ARRIVED,
            attempt_within: ATTEMPT_WITHIN,
        }
    }

    /// The allowance of a copy in the penalty line, after so many failures in a row.
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

    /// Mean bytes a second since the start.
    pub(super) fn rate(&self, now: Instant, measured: Measured) -> u64 {
        let seconds = now.duration_since(self.started).as_secs().max(1);
        measured.arrived / seconds
    }

    /// Returns what the copy exceeds at this moment, the most serious first.
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
        // A target that takes its time lets the source wait, so it is not waited for.
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
