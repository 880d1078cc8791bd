//! Detects a source that is too slow while other images wait, without I/O.

use std::time::Duration;
use tokio::time::Instant;

/// Bytes that a transfer must move within [`PERIOD`]: 1 MiB a minute.
const ENOUGH: u64 = 3 * 1024 * 1024;

/// Observation time before a transfer counts as slow, long enough for a short interruption to end.
const PERIOD: Duration = Duration::from_mins(3);

/// Recent throughput of one transfer.
pub(super) struct SlowSource {
    since: Instant,
    /// Bytes that had moved when the current period began.
    before: u64,
    /// Bytes that moved in the current period.
    moved: u64,
    /// Observations in the current period, and those that waited for the source.
    observations: u32,
    waits: u32,
}

impl SlowSource {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            before: 0,
            moved: 0,
            observations: 0,
            waits: 0,
        }
    }

    /// Records the bytes that moved since the beginning, and whether the transfer waits for the source now.
    pub(super) fn observe(&mut self, now: Instant, bytes: u64, waits_for_source: bool) {
        self.moved = bytes.saturating_sub(self.before);
        if self.moved >= ENOUGH {
            *self = Self {
                before: bytes,
                ..Self::new(now)
            };
        }
        self.observations = self.observations.saturating_add(1);
        self.waits = self.waits.saturating_add(u32::from(waits_for_source));
    }

    /// Returns the bytes moved and the time, if they are too few because of the source. A slow target makes the source wait
    /// instead.
    pub(super) fn slow(&self, now: Instant) -> Option<(u64, Duration)> {
        let within = now.duration_since(self.since);
        let waits_for_source = self.waits > self.observations / 4 * 3;
        (within >= PERIOD && waits_for_source).then_some((self.moved, within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transfer of `rate` bytes a second, which waits for its source in `waits` of ten seconds.
    #[rstest::rstest]
    #[case(1_000, 179, 10, false)]
    #[case(1_000, 180, 10, true)]
    #[case(1_000, 180, 8, true)]
    #[case(1_000, 180, 5, false)]
    #[case(17_000, 3600, 10, true)]
    #[case(18_000, 3600, 10, false)]
    fn slow_is_less_than_a_mebibyte_a_minute(
        #[case] rate: u64,
        #[case] seconds: u64,
        #[case] waits: u64,
        #[case] slow: bool,
    ) {
        let start = Instant::now();
        let mut speed = SlowSource::new(start);
        let mut seen = false;
        for second in 1..=seconds {
            let now = start + Duration::from_secs(second);
            speed.observe(now, rate * second, second % 10 < waits);
            seen |= speed.slow(now).is_some();
        }
        assert_eq!(seen, slow);
    }

    #[test]
    fn a_source_that_becomes_slow_is_detected() {
        let start = Instant::now();
        let mut speed = SlowSource::new(start);
        speed.observe(start, 10 * ENOUGH, false);
        assert!(
            speed
                .slow(start + PERIOD - Duration::from_secs(1))
                .is_none()
        );
        for second in 0..180 {
            let now = start + Duration::from_secs(second);
            speed.observe(now, 10 * ENOUGH + second, true);
        }
        assert_eq!(speed.slow(start + PERIOD), Some((179, PERIOD)));
    }
}
