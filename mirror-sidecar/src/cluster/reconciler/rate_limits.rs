//! How often registries are checked. No I/O; the time is passed in.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_copy::RateLimit;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::token_bucket::TokenBucket;

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

/// The limits of upstream checks, for all backups together: an image that several backups need must not be checked more often
/// because of that. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct UpstreamLimits(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    by_name: HashMap<Box<str>, Host>,
    /// Concurrent checks at registries whose last check failed.
    probes: usize,
    rate: TokenBucket,
    /// The number of the last [`HostLimits`].
    last: u64,
}

#[derive(Debug, Default)]
struct Host {
    in_flight: usize,
    /// One of [`State::probes`] is for this host.
    is_probed: bool,
    backoff: Option<Backoff>,
    /// The numbers of the [`HostLimits`] whose images come from it.
    used_by: BTreeSet<u64>,
}

/// The limits of upstream registries, as one backup uses them.
#[derive(Debug)]
pub(super) struct HostLimits {
    shared: UpstreamLimits,
    number: u64,
}

/// A check that counts as in flight until this is dropped.
#[derive(Debug)]
pub(super) struct HostSlot {
    shared: UpstreamLimits,
    host: Box<str>,
}

/// Whether an upstream check may start.
#[derive(Debug)]
pub(super) enum UpstreamPermit {
    /// It may, and counts as in flight.
    Granted(HostSlot),
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

impl UpstreamLimits {
    /// Returns the limits for one more backup.
    pub(super) fn of_backup(&self) -> HostLimits {
        let mut state = self.lock();
        state.last += 1;
        HostLimits {
            shared: self.clone(),
            number: state.last,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostLimits {
    /// Returns whether the rate of all checks allows one more.
    pub(super) fn has_token(&self, now: Instant) -> bool {
        self.shared.lock().rate.has_token(now.into_std())
    }

    /// Counts a check that starts.
    pub(super) fn take_token(&self, now: Instant) {
        self.shared.lock().rate.take(now.into_std());
    }

    /// Requests a check at `host`, whose last responses sent this rate `limit`; `is_paused` if it requested a pause.
    pub(super) fn request(
        &self,
        host: &str,
        limit: Option<RateLimit>,
        is_paused: bool,
        now: Instant,
    ) -> UpstreamPermit {
        let mut state = self.shared.lock();
        let State {
            by_name, probes, ..
        } = &mut *state;
        let name = host;
        let host = by_name.entry(name.into()).or_default();
        host.used_by.insert(self.number);
        let backoff = host.backoff.as_ref();
        let failures = backoff.map_or(0, Backoff::failures);
        if let Some(until) = backoff.and_then(|backoff| backoff.until(now)) {
            return UpstreamPermit::Throttled(until);
        }
        if is_paused || limit.is_some_and(is_low) {
            return UpstreamPermit::Throttled(now + THROTTLED_FOR);
        }
        if host.in_flight >= MAX_PER_HOST || (failures > 0 && host.in_flight > 0) {
            return UpstreamPermit::Busy(now + BUSY_FOR);
        }
        if failures > 0 {
            if *probes >= MAX_PROBES {
                return UpstreamPermit::Busy(now + PROBE_WAIT);
            }
            *probes += 1;
            host.is_probed = true;
        }
        host.in_flight += 1;
        drop(state);
        UpstreamPermit::Granted(HostSlot {
            shared: self.shared.clone(),
            host: name.into(),
        })
    }

    /// Forgets registries that no image in use of any backup comes from and that have no check in flight.
    pub(super) fn keep(&self, is_used: impl Fn(&str) -> bool) {
        self.shared.lock().by_name.retain(|name, host| {
            if !is_used(name) {
                host.used_by.remove(&self.number);
            }
            host.in_flight > 0 || !host.used_by.is_empty()
        });
    }
}

impl Drop for HostLimits {
    fn drop(&mut self) {
        self.keep(|_| false);
    }
}

impl HostSlot {
    /// Records the end of the check.
    pub(super) fn ended(self, has_response: bool, now: Instant) {
        if let Some(host) = self.shared.lock().by_name.get_mut(&self.host) {
            if has_response {
                host.backoff = None;
            } else {
                let [first, longest] = UPSTREAM_BACKOFF;
                let backoff = host.backoff.get_or_insert(Backoff::new(first, longest));
                backoff.fail(now);
            }
        }
    }
}

impl Drop for HostSlot {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(host) = state.by_name.get_mut(&self.host) {
            host.in_flight = host.in_flight.saturating_sub(1);
            if std::mem::take(&mut host.is_probed) {
                state.probes = state.probes.saturating_sub(1);
            }
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            by_name: HashMap::new(),
            probes: 0,
            rate: TokenBucket::new(CHECK_SPACING, BURST),
            last: 0,
        }
    }
}

/// Checks use the first half of a rate limit; the second half is left to copies.
fn is_low(limit: RateLimit) -> bool {
    limit.remaining.saturating_mul(2) < limit.limit.unwrap_or(ASSUMED_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(permit: UpstreamPermit) -> HostSlot {
        match permit {
            UpstreamPermit::Granted(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn busy(permit: &UpstreamPermit) -> Option<Instant> {
        match permit {
            UpstreamPermit::Busy(until) => Some(*until),
            _ => None,
        }
    }

    fn throttled(permit: &UpstreamPermit) -> Option<Instant> {
        match permit {
            UpstreamPermit::Throttled(until) => Some(*until),
            _ => None,
        }
    }

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
        let hosts = UpstreamLimits::default().of_backup();
        let permit = hosts.request("a", limit, is_paused, Instant::now());
        let is_granted = matches!(permit, UpstreamPermit::Granted(_));
        assert_eq!(is_granted, may_ask, "{permit:?}");
    }

    #[tokio::test]
    async fn a_registry_without_a_response_gets_exponential_backoff() {
        let mut now = Instant::now();
        let limits = UpstreamLimits::default();
        let hosts = limits.of_backup();
        let request = |host: &str, now| hosts.request(host, None, false, now);
        let slots: Vec<_> = (0..MAX_PER_HOST)
            .map(|_| granted(request("a", now)))
            .collect();
        assert_eq!(busy(&request("a", now)), Some(now + BUSY_FOR));
        let other = granted(request("b", now));
        for slot in slots {
            slot.ended(false, now);
        }
        for seconds in [30, 60, 120, 240, 480, 900, 900] {
            let backoff = now + Duration::from_secs(seconds);
            assert_eq!(throttled(&request("a", now)), Some(backoff));
            now = backoff;
            let slot = granted(request("a", now));
            assert!(busy(&request("a", now)).is_some());
            slot.ended(false, now);
        }
        now += Duration::from_hours(1);
        granted(request("a", now)).ended(true, now);
        let slots = [granted(request("a", now)), granted(request("a", now))];
        hosts.keep(|_| false);
        assert_eq!(limits.lock().by_name.len(), 2, "both are being asked");
        drop((slots, other));
        hosts.keep(|_| false);
        assert_eq!(limits.lock().by_name.len(), 0);
    }

    #[tokio::test]
    async fn many_hanging_registries_do_not_delay_the_others() {
        let hosts = UpstreamLimits::default().of_backup();
        let now = Instant::now();
        let names: Vec<_> = (0..100).map(|number| format!("hangs-{number}")).collect();
        for name in &names {
            granted(hosts.request(name, None, false, now)).ended(false, now);
        }
        let later = now + Duration::from_hours(1);
        let asked = || {
            let asked = names.iter();
            let asked = asked.filter_map(|name| match hosts.request(name, None, false, later) {
                UpstreamPermit::Granted(slot) => Some(slot),
                _ => None,
            });
            asked.collect::<Vec<_>>()
        };
        let first = asked();
        assert_eq!(first.len(), MAX_PROBES);
        granted(hosts.request("answers", None, false, later));
        for slot in first {
            slot.ended(false, later);
        }
        assert_eq!(asked().len(), MAX_PROBES);
    }

    #[tokio::test]
    async fn all_backups_share_the_limits() {
        let limits = UpstreamLimits::default();
        let backups: Vec<_> = (0..16).map(|_| limits.of_backup()).collect();
        let now = Instant::now();
        let ask = |host: &str, now| -> Vec<_> {
            let backups = backups.iter();
            let permits =
                backups.flat_map(|hosts| (0..8).map(|_| hosts.request(host, None, false, now)));
            let granted = permits.filter_map(|permit| match permit {
                UpstreamPermit::Granted(slot) => Some(slot),
                _ => None,
            });
            granted.collect()
        };
        let slots = ask("a", now);
        assert_eq!(slots.len(), MAX_PER_HOST);
        for slot in slots {
            slot.ended(false, now);
        }
        assert_eq!(ask("a", now).len(), 0, "in backoff for all of them");
        assert_eq!(ask("a", now + Duration::from_hours(1)).len(), 1);
        // One that uses the registry no more does not end the backoff for the others.
        backups[0].keep(|_| false);
        assert_eq!(ask("a", now).len(), 0);

        let started = backups.iter().map(|hosts| {
            let tokens = (0..BURST).filter(|_| {
                let has_token = hosts.has_token(now);
                if has_token {
                    hosts.take_token(now);
                }
                has_token
            });
            tokens.count()
        });
        assert_eq!(started.sum::<usize>(), BURST as usize);
    }

    #[tokio::test]
    async fn a_reconciler_that_ends_leaves_nothing_in_flight() {
        let limits = UpstreamLimits::default();
        let hosts = limits.of_backup();
        let now = Instant::now();
        let slots: Vec<_> = (0..MAX_PER_HOST)
            .map(|_| granted(hosts.request("a", None, false, now)))
            .collect();
        drop((hosts, slots));
        let hosts = limits.of_backup();
        granted(hosts.request("a", None, false, now));
        drop(hosts);
        assert!(limits.lock().by_name.is_empty());
    }
}
