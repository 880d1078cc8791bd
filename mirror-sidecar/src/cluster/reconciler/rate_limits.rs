//! How often registries are checked. No I/O; the time is passed in.

use std::collections::HashMap;
use std::time::Duration;

use mirror_copy::RateLimit;
use tokio::time::Instant;

use crate::backoff::Backoff;

/// Average time between two checks: 50 a second find 2000 copies in 40 s after a start.
pub(super) const CHECK_SPACING: Duration = Duration::from_millis(20);

/// Checks that may start without spacing after an idle time.
pub(super) const BURST: u32 = 50;

/// Concurrent upstream checks at one registry. They are not urgent: each image has the whole interval.
const MAX_PER_HOST: usize = 4;

/// Wait while a registry has that many.
const BUSY_FOR: Duration = Duration::from_millis(250);

/// Concurrent checks at registries whose last check failed, over all of them: half of all upstream checks, so that many
/// hanging hosts cannot block the others.
const MAX_PROBES: usize = 4;

/// Wait while there are that many: long, since thousands of hosts may wait for it.
const PROBE_WAIT: Duration = Duration::from_secs(10);

/// Wait before a used-up rate limit is read again.
const THROTTLED_FOR: Duration = Duration::from_mins(5);

/// The limit of a registry that sends only the remaining number.
const ASSUMED_LIMIT: u64 = 100;

/// First and longest backoff of an upstream registry that does not respond.
const UPSTREAM_BACKOFF: [Duration; 2] = [Duration::from_secs(30), Duration::from_mins(15)];

/// First and longest backoff of the backup registry: short, because copies wait for it.
const BACKUP_BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

/// Failures in a row after which the backup counts as having been down.
pub(super) const OUTAGE_FAILURES: u32 = 2;

/// The limits of upstream registries.
#[derive(Debug, Default)]
pub(super) struct HostLimits {
    by_name: HashMap<Box<str>, Host>,
    /// Concurrent checks at registries whose last check failed.
    probes: usize,
}

#[derive(Debug)]
struct Host {
    in_flight: usize,
    /// One of [`HostLimits::probes`] is for this host.
    is_probed: bool,
    backoff: Backoff,
}

/// Whether an upstream check may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamPermit {
    /// It may, and counts as in flight.
    Granted,
    /// Too many are in flight; retry at this time.
    Busy(Instant),
    /// The registry has a rate limit, requested a pause, or is in backoff; retry at this time.
    Throttled(Instant),
}

/// The backoff of the backup registry.
pub(super) fn backup_backoff() -> Backoff {
    let [first, longest] = BACKUP_BACKOFF;
    Backoff::new(first, longest)
}

impl HostLimits {
    /// Requests a check at `host`, whose last responses sent this rate `limit`; `is_paused` if it requested a pause.
    pub(super) fn request(
        &mut self,
        host: &str,
        limit: Option<RateLimit>,
        is_paused: bool,
        now: Instant,
    ) -> UpstreamPermit {
        let host = self.by_name.entry(host.into()).or_insert_with(|| Host {
            in_flight: 0,
            is_probed: false,
            backoff: Backoff::new(UPSTREAM_BACKOFF[0], UPSTREAM_BACKOFF[1]),
        });
        if let Some(until) = host.backoff.until(now) {
            return UpstreamPermit::Throttled(until);
        }
        if is_paused || limit.is_some_and(is_low) {
            return UpstreamPermit::Throttled(now + THROTTLED_FOR);
        }
        if host.in_flight >= MAX_PER_HOST || (host.backoff.failures() > 0 && host.in_flight > 0) {
            return UpstreamPermit::Busy(now + BUSY_FOR);
        }
        if host.backoff.failures() > 0 {
            if self.probes >= MAX_PROBES {
                return UpstreamPermit::Busy(now + PROBE_WAIT);
            }
            self.probes += 1;
            host.is_probed = true;
        }
        host.in_flight += 1;
        UpstreamPermit::Granted
    }

    /// Records the end of a check.
    pub(super) fn ended(&mut self, host: &str, has_response: bool, now: Instant) {
        if let Some(host) = self.by_name.get_mut(host) {
            if std::mem::take(&mut host.is_probed) {
                self.probes = self.probes.saturating_sub(1);
            }
            host.in_flight = host.in_flight.saturating_sub(1);
            if has_response {
                host.backoff.succeed();
            } else {
                host.backoff.fail(now);
            }
        }
    }

    /// Forgets registries that no image in use comes from and that have no check in flight.
    pub(super) fn keep(&mut self, is_used: impl Fn(&str) -> bool) {
        self.by_name
            .retain(|name, host| host.in_flight > 0 || is_used(name));
    }
}

/// Checks use the first half of a rate limit; the second half is left to copies.
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
        let leave = HostLimits::default().request("a", limit, is_paused, Instant::now());
        assert_eq!(leave == UpstreamPermit::Granted, may_ask, "{leave:?}");
    }

    #[tokio::test]
    async fn a_registry_without_a_response_gets_exponential_backoff() {
        let mut now = Instant::now();
        let mut hosts = HostLimits::default();
        for _ in 0..MAX_PER_HOST {
            assert_eq!(
                hosts.request("a", None, false, now),
                UpstreamPermit::Granted
            );
        }
        assert_eq!(
            hosts.request("a", None, false, now),
            UpstreamPermit::Busy(now + BUSY_FOR)
        );
        assert_eq!(
            hosts.request("b", None, false, now),
            UpstreamPermit::Granted
        );
        for _ in 0..MAX_PER_HOST {
            hosts.ended("a", false, now);
        }
        for seconds in [30, 60, 120, 240, 480, 900, 900] {
            let backoff = now + Duration::from_secs(seconds);
            assert_eq!(
                hosts.request("a", None, false, now),
                UpstreamPermit::Throttled(backoff)
            );
            now = backoff;
            assert_eq!(
                hosts.request("a", None, false, now),
                UpstreamPermit::Granted
            );
            assert!(matches!(
                hosts.request("a", None, false, now),
                UpstreamPermit::Busy(_)
            ));
            hosts.ended("a", false, now);
        }
        now += Duration::from_hours(1);
        assert_eq!(
            hosts.request("a", None, false, now),
            UpstreamPermit::Granted
        );
        hosts.ended("a", true, now);
        assert_eq!(
            hosts.request("a", None, false, now),
            UpstreamPermit::Granted
        );
        assert_eq!(
            hosts.request("a", None, false, now),
            UpstreamPermit::Granted
        );
        hosts.keep(|_| false);
        assert_eq!(hosts.by_name.len(), 2, "both are being asked");
    }

    #[tokio::test]
    async fn many_hanging_registries_do_not_delay_the_others() {
        let mut hosts = HostLimits::default();
        let now = Instant::now();
        let names: Vec<_> = (0..100).map(|number| format!("hangs-{number}")).collect();
        for name in &names {
            assert_eq!(
                hosts.request(name, None, false, now),
                UpstreamPermit::Granted
            );
            hosts.ended(name, false, now);
        }
        let later = now + Duration::from_hours(1);
        let asked = |hosts: &mut HostLimits| {
            let asked = names.iter();
            let asked = asked
                .filter(|name| hosts.request(name, None, false, later) == UpstreamPermit::Granted);
            asked.cloned().collect::<Vec<_>>()
        };
        let first = asked(&mut hosts);
        assert_eq!(first.len(), MAX_PROBES);
        assert_eq!(
            hosts.request("answers", None, false, later),
            UpstreamPermit::Granted
        );
        for name in &first {
            hosts.ended(name, false, later);
        }
        assert_eq!(asked(&mut hosts).len(), MAX_PROBES);
    }
}
