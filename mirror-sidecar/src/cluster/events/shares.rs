//! How many Events are about one namespace: whoever makes many workloads there must not keep others from being told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The same is news again after this time. It is how long API servers keep Events by default (`--event-ttl`).
pub(super) const AGAIN_AFTER: Duration = Duration::from_hours(1);

/// New notices about one namespace in the time after which the same is news again.
const MOST: u32 = 240;

/// Of these, how many may be good news.
const MOST_GOOD: u32 = MOST / 2;

/// Namespaces after which those are forgotten whose time is over.
const TIDY_AT: usize = 1024;

/// The notices about each namespace.
#[derive(Debug, Default)]
pub(super) struct Shares {
    windows: HashMap<Box<str>, Window>,
    tidy_at: usize,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    count: u32,
}

impl Shares {
    /// Counts a notice about `namespace`; `false` if that is one too many.
    pub(super) fn take(&mut self, namespace: &str, is_warning: bool, now: Instant) -> bool {
        let is_over = |window: &Window| AGAIN_AFTER <= now.saturating_duration_since(window.since);
        if self.windows.len() >= self.tidy_at.max(TIDY_AT) {
            self.windows.retain(|_, window| !is_over(window));
            self.tidy_at = self.windows.len().saturating_mul(2);
        }
        let window = self.windows.entry(namespace.into()).or_insert(Window {
            since: now,
            count: 0,
        });
        if is_over(window) {
            (window.since, window.count) = (now, 0);
        }
        let has_room = window.count < if is_warning { MOST } else { MOST_GOOD };
        window.count = window.count.saturating_add(u32::from(has_room));
        has_room
    }

    /// It was not told after all.
    pub(super) fn put_back(&mut self, namespace: &str) {
        if let Some(window) = self.windows.get_mut(namespace) {
            window.count = window.count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_its_share_and_no_more() {
        let mut shares = Shares::default();
        let now = Instant::now();
        let mut taken = |namespace, is_warning, now| {
            (0..1000)
                .filter(|_| shares.take(namespace, is_warning, now))
                .count()
        };
        assert_eq!(taken("a", false, now), 120);
        assert_eq!(taken("a", true, now), 120, "bad news have room left");
        assert_eq!(taken("b", true, now), 240);
        assert_eq!(taken("a", true, now + AGAIN_AFTER), 240);
        shares.put_back("a");
        assert!(shares.take("a", true, now + AGAIN_AFTER));
        for number in 0..10 * TIDY_AT {
            let later = now + AGAIN_AFTER * u32::try_from(number / TIDY_AT).unwrap();
            shares.take(&number.to_string(), true, later);
        }
        assert!(
            shares.windows.len() <= 3 * TIDY_AT,
            "{}",
            shares.windows.len()
        );
    }
}
