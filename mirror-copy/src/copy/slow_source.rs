//! Whether a source is slower than it may be while others wait: pure bookkeeping.

use std::time::Duration;
use tokio::time::Instant;

/// What a transfer has to move in [`PERIOD`], in bytes: one MiB a minute.
const ENOUGH: u64 = 3 * 1024 * 1024;

/// How long a transfer is looked at before it is called slow: a hiccup must be over by then.
const PERIOD: Duration = Duration::from_mins(3);

/// What one transfer moved lately.
pub(super) struct SlowSource {
    /// When the present period began, and what had moved by then.
    since: Instant,
    before: u64,
    moved: u64,
    /// How often somebody looked in this period, and how often the source was waited for.
    looks: u32,
    waits: u32,
}

impl SlowSource {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            before: 0,
            moved: 0,
            looks: 0,
            waits: 0,
        }
    }

    /// Notes that `bytes` have moved since the beginning, and whether the source is waited for at this moment.
    pub(super) fn look(&mut self, now: Instant, bytes: u64, waits_for_source: bool) {
        self.moved = bytes.saturating_sub(self.before);
        if self.moved >= ENOUGH {
            *self = Self {
                before: bytes,
                ..Self::new(now)
            };
        }
        self.looks = self.looks.saturating_add(1);
        self.waits = self.waits.saturating_add(u32::from(waits_for_source));
    }

    /// What moved and in which time, if that is too little and the source's fault: a target that takes its time lets the
    /// source wait.
    pub(super) fn slow(&self, now: Instant) -> Option<(u64, Duration)> {
        let within = now.duration_since(self.since);
        let is_the_sources_fault = self.waits > self.looks / 4 * 3;
        (within >= PERIOD && is_the_sources_fault).then_some((self.moved, within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a transfer of so many bytes a second is slow after so many seconds, of which its source was waited for
    /// in so many of ten.
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
        let mut pace = SlowSource::new(start);
        let mut seen = false;
        for second in 1..=seconds {
            let now = start + Duration::from_secs(second);
            pace.look(now, rate * second, second % 10 < waits);
            seen |= pace.slow(now).is_some();
        }
        assert_eq!(seen, slow);
    }

    #[test]
    fn who_becomes_slow_is_found_out() {
        let start = Instant::now();
        let mut pace = SlowSource::new(start);
        pace.look(start, 10 * ENOUGH, false);
        assert!(pace.slow(start + PERIOD - Duration::from_secs(1)).is_none());
        for second in 0..180 {
            let now = start + Duration::from_secs(second);
            pace.look(now, 10 * ENOUGH + second, true);
        }
        assert_eq!(pace.slow(start + PERIOD), Some((179, PERIOD)));
    }
}
