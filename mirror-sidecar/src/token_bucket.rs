//! Rate limits.

use std::time::{Duration, Instant};

/// A token bucket, stored as the time at which it is full again. The time is passed in.
#[derive(Debug)]
pub struct TokenBucket {
    /// The time in which one token is added.
    each: Duration,
    /// A token is available if [`Self::full_at`] is at most this far ahead.
    slack: Duration,
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket with a capacity of `burst` tokens, at least one, that gains a token in each `each`.
    #[must_use]
    pub fn new(each: Duration, burst: u32) -> Self {
        Self {
            each,
            slack: each.saturating_mul(burst.saturating_sub(1)),
            full_at: None,
        }
    }

    #[must_use]
    pub fn has_token(&self, now: Instant) -> bool {
        self.full_at(now).duration_since(now) <= self.slack
    }

    /// Returns when a token is available; `None` if now.
    #[must_use]
    pub fn next_token(&self, now: Instant) -> Option<Instant> {
        let full_at = self.full_at(now);
        full_at.checked_sub(self.slack).filter(|at| *at > now)
    }

    /// Takes a token, if need be one of the future.
    pub fn take(&mut self, now: Instant) {
        self.full_at = Some(self.full_at(now) + self.each);
    }

    pub fn try_take(&mut self, now: Instant) -> bool {
        let has_token = self.has_token(now);
        if has_token {
            self.take(now);
        }
        has_token
    }

    fn full_at(&self, now: Instant) -> Instant {
        self.full_at.unwrap_or(now).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_becomes_a_burst_and_then_a_steady_flow() {
        let mut pace = TokenBucket::new(Duration::from_millis(100), 30);
        let start = Instant::now();
        let mut taken = |second| {
            let now = start + SECOND * second;
            (0..1000).filter(|_| pace.try_take(now)).count()
        };
        assert_eq!([0, 1, 2, 60, 61].map(&mut taken), [30, 10, 10, 30, 10]);
    }

    #[test]
    fn what_is_taken_ahead_of_time_is_missing_later() {
        let mut pace = TokenBucket::new(SECOND, 1);
        let start = Instant::now();
        assert_eq!(pace.next_token(start), None);
        for taken in 1..=3 {
            pace.take(start);
            assert!(!pace.try_take(start));
            assert_eq!(pace.next_token(start), Some(start + SECOND * taken));
        }
        let end = start + SECOND * 3;
        assert!(!pace.has_token(end.checked_sub(SECOND / 1000).unwrap()));
        assert!(pace.try_take(end));
    }

    /// Nothing is made of a bucket that holds nothing.
    #[test]
    fn there_is_always_room_for_one() {
        let now = Instant::now();
        assert!(TokenBucket::new(SECOND, 0).try_take(now));
    }
}
