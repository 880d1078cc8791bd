//! How much may be asked of the registries. No I/O: time is given.

use std::collections::HashMap;
use std::time::Duration;

use mirror_copy::RateLimit;
use tokio::time::Instant;

use crate::backoff::doubling;

/// Between two looks, in the long run: 50 a second find 2000 copies in 40 s after a start.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks that may begin at once after a rest.
pub(super) const BURST: u32 = 50;

/// Questions at a time to one registry about originals. They have all the interval, and people wait for other answers.
const AT_A_TIME: usize = 4;

/// When to try again if that many are under way.
const BUSY_FOR: Duration = Duration::from_millis(250);

/// Questions at a time to registries whose last answer was none, all together: half of those that may be under way at all, so
/// that many hosts that hang cannot hold up the ones that answer.
const DOUBTFUL_AT_A_TIME: usize = 4;

/// When to try again if that many are under way: not soon, since thousands of hosts may wait for it.
const DOUBTFUL_FOR: Duration = Duration::from_secs(10);

/// When to see whether there is more of a rate limit left.
const SPARED_FOR: Duration = Duration::from_mins(5);

/// Of a registry that says what remains, but not of how many.
const ASSUMED_LIMIT: u64 = 100;

/// First and longest rest of a registry of originals that does not answer.
const UPSTREAM_REST: [Duration; 2] = [Duration::from_secs(30), Duration::from_mins(15)];

/// First and longest rest of the backup registry. It is waited for, so the rests are short.
const BACKUP_REST: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

/// Failures in a row, with a rest in between, after which a registry counts as having been away.
const AWAY_FAILURES: u32 = 2;

/// A registry that does not answer is left alone for a while, each time for longer.
#[derive(Debug)]
pub(super) struct Rest {
    first: Duration,
    longest: Duration,
    failures: u32,
    until: Option<Instant>,
}

/// The registries of originals.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    by_name: HashMap<Box<str>, Host>,
    /// Questions under way to those whose last answer was none.
    doubtful: usize,
}

#[derive(Debug)]
struct Host {
    asking: usize,
    /// Whether it is asked one question because its last answer was none.
    is_probed: bool,
    rest: Rest,
}

/// Whether a registry may be asked about an original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It may, and counts as being asked from now on.
    Ask,
    /// Others are being asked about; come again then.
    Busy(Instant),
    /// It is spared; come again then.
    Spared(Instant),
}

impl Rest {
    fn of([first, longest]: [Duration; 2]) -> Self {
        Self {
            first,
            longest,
            failures: 0,
            until: None,
        }
    }

    /// Of the backup registry, which answers as far as is known.
    pub(super) fn of_backup() -> Self {
        Self::of(BACKUP_REST)
    }

    /// Until when it is left alone, if it is.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// Whether its last answer was none. Then one question is enough to find out more.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.failures > 0
    }

    /// It did not answer. What was asked before the rest does not make it longer.
    pub(super) fn failed(&mut self, now: Instant) {
        if self.until(now).is_none() {
            self.failures = self.failures.saturating_add(1);
            self.until = Some(now + doubling(self.first, self.longest, self.failures));
        }
    }

    /// It responded; returns whether it was away for a while before.
    pub(super) fn answered(&mut self) -> bool {
        self.until = None;
        std::mem::take(&mut self.failures) >= AWAY_FAILURES
    }
}

impl Hosts {
    /// Whether `host` may be asked now. It said that it has `limit` left, and whether it `is_paused`.
    pub(super) fn ask(
        &mut self,
        host: &str,
        limit: Option<RateLimit>,
        is_paused: bool,
        now: Instant,
    ) -> Leave {
        let host = self.by_name.entry(host.into()).or_insert_with(|| Host {
            asking: 0,
            is_probed: false,
            rest: Rest::of(UPSTREAM_REST),
        });
        if let Some(until) = host.rest.until(now) {
            return Leave::Spared(until);
        }
        if is_paused || limit.is_some_and(is_low) {
            return Leave::Spared(now + SPARED_FOR);
        }
        if host.asking >= AT_A_TIME || (host.rest.is_in_doubt() && host.asking > 0) {
            return Leave::Busy(now + BUSY_FOR);
        }
        if host.rest.is_in_doubt() {
            if self.doubtful >= DOUBTFUL_AT_A_TIME {
                return Leave::Busy(now + DOUBTFUL_FOR);
            }
            self.doubtful += 1;
            host.is_probed = true;
        }
        host.asking += 1;
        Leave::Ask
    }

    /// A question was answered, or was not.
    pub(super) fn asked(&mut self, host: &str, answered: bool, now: Instant) {
        if let Some(host) = self.by_name.get_mut(host) {
            if std::mem::take(&mut host.is_probed) {
                self.doubtful = self.doubtful.saturating_sub(1);
            }
            host.asking = host.asking.saturating_sub(1);
            if answered {
                host.rest.answered();
            } else {
                host.rest.failed(now);
            }
        }
    }

    /// Forgets those that nothing is in use of any more, and that are not being asked.
    pub(super) fn keep(&mut self, is_used: impl Fn(&str) -> bool) {
        self.by_name
            .retain(|name, host| host.asking > 0 || is_used(name));
    }
}

/// The first half of a rate limit is for whoever asks; the other one is for copies.
fn is_low(limit: RateLimit) -> bool {
    limit.remaining.saturating_mul(2) < limit.limit.unwrap_or(ASSUMED_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(Some((Some(100), 51)), false, true)]
    #[case(Some((Some(100), 50)), false, true)]
    #[case(Some((Some(100), 49)), false, false)]
    #[case(Some((None, 60)), false, true)]
    #[case(Some((None, 40)), false, false)]
    #[case(Some((Some(u64::MAX), u64::MAX)), false, true)]
    #[case(None, false, true)]
    #[case(None, true, false)]
    #[tokio::test]
    async fn half_of_a_rate_limit_is_left_to_copies(
        #[case] said: Option<(Option<u64>, u64)>,
        #[case] is_paused: bool,
        #[case] may_ask: bool,
    ) {
        let limit = said.map(|(limit, remaining)| RateLimit { limit, remaining });
        let leave = Hosts::default().ask("a", limit, is_paused, Instant::now());
        assert_eq!(leave == Leave::Ask, may_ask, "{leave:?}");
    }

    #[tokio::test]
    async fn a_registry_that_does_not_answer_is_left_alone_each_time_for_longer() {
        let mut now = Instant::now();
        let mut hosts = Hosts::default();
        for _ in 0..AT_A_TIME {
            assert_eq!(hosts.ask("a", None, false, now), Leave::Ask);
        }
        assert_eq!(
            hosts.ask("a", None, false, now),
            Leave::Busy(now + BUSY_FOR)
        );
        assert_eq!(hosts.ask("b", None, false, now), Leave::Ask);
        for _ in 0..AT_A_TIME {
            hosts.asked("a", false, now);
        }
        for seconds in [30, 60, 120, 240, 480, 900, 900] {
            let rest = now + Duration::from_secs(seconds);
            assert_eq!(hosts.ask("a", None, false, now), Leave::Spared(rest));
            now = rest;
            assert_eq!(hosts.ask("a", None, false, now), Leave::Ask);
            assert!(matches!(hosts.ask("a", None, false, now), Leave::Busy(_)));
            hosts.asked("a", false, now);
        }
        now += Duration::from_hours(1);
        assert_eq!(hosts.ask("a", None, false, now), Leave::Ask);
        hosts.asked("a", true, now);
        assert_eq!(hosts.ask("a", None, false, now), Leave::Ask);
        assert_eq!(hosts.ask("a", None, false, now), Leave::Ask);
        hosts.keep(|_| false);
        assert_eq!(hosts.by_name.len(), 2, "both are being asked");
    }

    #[tokio::test]
    async fn many_registries_that_hang_do_not_hold_up_the_others() {
        let mut hosts = Hosts::default();
        let now = Instant::now();
        let names: Vec<_> = (0..100).map(|number| format!("hangs-{number}")).collect();
        for name in &names {
            assert_eq!(hosts.ask(name, None, false, now), Leave::Ask);
            hosts.asked(name, false, now);
        }
        let later = now + Duration::from_hours(1);
        let asked = |hosts: &mut Hosts| {
            let asked = names.iter();
            let asked = asked.filter(|name| hosts.ask(name, None, false, later) == Leave::Ask);
            asked.cloned().collect::<Vec<_>>()
        };
        let first = asked(&mut hosts);
        assert_eq!(first.len(), DOUBTFUL_AT_A_TIME);
        assert_eq!(hosts.ask("answers", None, false, later), Leave::Ask);
        for name in &first {
            hosts.asked(name, false, later);
        }
        assert_eq!(asked(&mut hosts).len(), DOUBTFUL_AT_A_TIME);
    }
}
