//! Limits the Events about one namespace: a tenant with many workloads must not suppress the Events of others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A repeated notice is news again after this time: as long as API servers keep Events by default (`--event-ttl`).
pub(super) const REPEAT_AFTER: Duration = Duration::from_hours(1);

/// New notices about one namespace per [`REPEAT_AFTER`].
const MAX_NOTICES: u32 = 240;

/// Of these, the limit for notices that are no warnings.
const MAX_NORMAL: u32 = MAX_NOTICES / 2;

/// Number of namespaces at which expired ones are dropped.
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
    /// Counts a notice about `namespace`; `false` if it exceeds the limit.
    pub(super) fn take(&mut self, namespace: &str, is_warning: bool, now: Instant) -> bool {
        let is_over = |window: &Window| REPEAT_AFTER <= now.saturating_duration_since(window.since);
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
        let has_room = window.count < if is_warning { MAX_NOTICES } else { MAX_NORMAL };
        window.count = window.count.saturating_add(u32::from(has_room));
        has_room
    }

    /// Reverts [`Self::take`].
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
        assert_eq!(taken("a", true, now + REPEAT_AFTER), 240);
        shares.put_back("a");
        assert!(shares.take("a", true, now + REPEAT_AFTER));
        for number in 0..10 * TIDY_AT {
            let later = now + REPEAT_AFTER * u32::try_from(number / TIDY_AT).unwrap();
            shares.take(&number.to_string(), true, later);
        }
        assert!(
            shares.windows.len() <= 3 * TIDY_AT,
            "{}",
            shares.windows.len()
        );
    }
}
