//! Exponential backoff: how long to wait before a failed operation is retried.

use std::time::Duration;

use tokio::time::Instant;

/// Backoff of one host or one object. The time is passed in.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    has_jitter: bool,
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// A backoff that waits `first` after the first failure, then twice as long each time, up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            has_jitter: false,
            failures: 0,
            until: None,
        }
    }

    /// The same with waits that are [`jittered`].
    #[must_use]
    pub fn with_jitter(self) -> Self {
        Self {
            has_jitter: true,
            ..self
        }
    }

    /// The end of the current wait, if `now` is before it.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// Failures in a row, not counting those during a wait.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Records a failure. Operations that were started before the current wait do not extend it.
    pub fn fail(&mut self, now: Instant) {
        if self.until(now).is_none() {
            self.failures = self.failures.saturating_add(1);
            let wait = doubling(self.first, self.longest, self.failures);
            self.until = Some(
                now + if self.has_jitter {
                    jittered(wait)
                } else {
                    wait
                },
            );
        }
    }

    /// Records a success; returns the number of failures in a row before it.
    pub fn succeed(&mut self) -> u32 {
        self.until = None;
        std::mem::take(&mut self.failures)
    }
}

/// Returns the wait after this many `failures` in a row: `first`, doubled with each failure after the first, at most
/// `longest`.
pub fn doubling(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1);
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

/// Adds up to a quarter at random, so that operations that failed together are not retried together. Never less than
/// `pause`, which may be what a server asked for.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + fastrand::f64() / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let longest = Duration::from_mins(15);
        let seconds = |failures| doubling(Duration::from_secs(30), longest, failures).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5].map(seconds), [30, 30, 60, 120, 240, 480]);
        assert_eq!([6, 32, 33, 34, u32::MAX].map(seconds), [900; 5]);
        let first = Duration::from_millis(1);
        assert_eq!(doubling(first, Duration::MAX, 11).as_millis(), 1024);
    }

    #[test]
    fn jitter_only_adds() {
        let pause = Duration::from_secs(100);
        for _ in 0..1000 {
            let jittered = jittered(pause);
            assert!((pause..=pause * 5 / 4).contains(&jittered), "{jittered:?}");
        }
    }
}
