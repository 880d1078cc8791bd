//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// The pause after so many `failures` in a row: `first` after the first one, doubled with each further one, but never more
/// than `longest`.
#[must_use]
pub fn doubling(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1);
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

/// The pause or up to a quarter more, at random: what failed together must not come back together. Never less, since who
/// asked for a pause means it.
#[must_use]
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
