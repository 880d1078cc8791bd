//! The rate limit of a registry for reading manifests (the pull limit of Docker Hub; the IETF draft "`RateLimit` header
//! fields for HTTP" in its several versions).
//!
//! After a response that none is left, no request is sent: it would be refused, and some registries extend the wait for it.

use crate::lock::lock;
use reqwest::header::HeaderMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// Maximum length of a window in seconds: a wrong header must not stop copies for weeks.
pub(super) const MAX_WINDOW: u64 = 24 * 60 * 60;

/// Wait before one request is tried at a registry that does not report its limit.
const LIMITLESS_WAIT: Duration = Duration::from_mins(1);

/// Time that a report is valid. Other clients may share the limit, and it is replenished.
const VALID_FOR: Duration = Duration::from_mins(15);

/// The rate limit for reading manifests, as reported by a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Manifests that may be read within a window, if the host reports that.
    pub limit: Option<u64>,
    /// Manifests that may still be read.
    pub remaining: u64,
}

/// The last report of a host.
#[derive(Default)]
pub(super) struct Quota(Mutex<State>);

#[derive(Default)]
pub(super) struct State {
    /// The host has reported a rate limit.
    pub(super) seen: bool,
    /// The last report, and the end of its validity.
    pub(super) last: Option<(RateLimit, Instant)>,
    spent: Option<Spent>,
}

/// No manifest may be read.
#[derive(Clone, Copy)]
struct Spent {
    reading: Reading,
    /// Time when one request may check whether that has changed.
    next_try: Instant,
}

/// The report of one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) limit: Option<u64>,
    pub(super) remaining: u64,
    pub(super) window: Duration,
}

impl Quota {
    /// Records the headers of a response about a manifest.
    pub(super) fn record(&self, headers: &HeaderMap) {
        let Some(reading) = Reading::of(headers) else {
            return;
        };
        let mut state = self.state();
        state.seen = true;
        let reported = RateLimit {
            limit: reading.limit,
            remaining: reading.remaining,
        };
        let until = Instant::now() + reading.window.min(VALID_FOR);
        state.last = Some((reported, until));
        state.spent = (reading.remaining == 0).then(|| Spent {
            reading,
            next_try: Instant::now() + reading.one_more_after(),
        });
    }

    /// Returns the last report and the remaining wait if no request may be sent. After the wait one request may be sent, and
    /// its response decides.
    pub(super) fn take(&self) -> Result<(), (Reading, Duration)> {
        let now = Instant::now();
        match &mut self.state().spent {
            None => Ok(()),
            Some(spent) if spent.next_try <= now => {
                spent.next_try = now + spent.reading.one_more_after();
                Ok(())
            }
            Some(spent) => Err((spent.reading, spent.next_try - now)),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl Reading {
    /// `RateLimit-Limit: 100;w=21600` with `RateLimit-Remaining: 12;w=21600` (and `RateLimit-Reset: 30`), or
    /// `RateLimit: "default";r=12;t=30` with `RateLimit-Policy: "default";q=100;w=60`, or
    /// `RateLimit: limit=100, remaining=12, reset=30`. Of several policies the first one counts.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let (limits, remaining, both) = (
            text("ratelimit-limit"),
            text("ratelimit-remaining"),
            text("ratelimit"),
        );
        let policy = text("ratelimit-policy");
        let limit = first_number(limits)
            .or_else(|| parameter(both, "limit"))
            .or_else(|| parameter(policy, "q"));
        let remaining_count = first_number(remaining)
            .or_else(|| parameter(both, "remaining"))
            .or_else(|| parameter(both, "r"))?;
        let window = parameter(limits, "w")
            .or_else(|| parameter(remaining, "w"))
            .or_else(|| parameter(policy, "w"))
            .or_else(|| first_number(text("ratelimit-reset")))
            .or_else(|| parameter(both, "reset"))
            .or_else(|| parameter(both, "t"))?;
        Some(Self {
            limit,
            remaining: remaining_count,
            window: Duration::from_secs(window.min(MAX_WINDOW)),
        })
    }

    /// Returns the time until the next request, if they are spread evenly over the window.
    fn one_more_after(&self) -> Duration {
        match self.limit {
            Some(limit) => self.window / u32::try_from(limit).unwrap_or(u32::MAX).max(1),
            None => self.window.min(LIMITLESS_WAIT),
        }
    }
}

/// Returns the number at the beginning of a header value.
fn first_number(text: &str) -> Option<u64> {
    let first = text.split([',', ';']).next()?;
    first.trim().parse().ok()
}

/// Returns the number of the first `name=number` in a header value.
fn parameter(text: &str, name: &str) -> Option<u64> {
    let pairs = text
        .split([',', ';'])
        .filter_map(|part| part.split_once('='));
    let value = pairs
        .into_iter()
        .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?
        .1;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{registry, respond};
    use super::*;
    use crate::TagOrDigest;
    use reqwest::header::{HeaderName, HeaderValue};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[rstest::rstest]
    #[case(&[("RateLimit-Limit", "100;w=21600"), ("ratelimit-remaining", "12;w=21600")], Some((Some(100), 12, 21600)))]
    #[case(&[("RateLimit-Limit", "10, 10;w=1, 50;w=60"), ("RateLimit-Remaining", "9"), ("RateLimit-Reset", "7")], Some((Some(10), 9, 1)))]
    #[case(&[("RateLimit-Limit", "10"), ("RateLimit-Remaining", "9"), ("RateLimit-Reset", "7")], Some((Some(10), 9, 7)))]
    #[case(&[("RateLimit", r#""default";r=0;t=30"#), ("RateLimit-Policy", r#""default";q=100;w=60"#)], Some((Some(100), 0, 60)))]
    #[case(&[("RateLimit", "limit=5, remaining=3, reset=2")], Some((Some(5), 3, 2)))]
    #[case(&[("RateLimit-Limit", "1;w=99999999999"), ("RateLimit-Remaining", "0")], Some((Some(1), 0, 86400)))]
    #[case(&[("RateLimit-Remaining", "0;w=21600")], Some((None, 0, 21600)))]
    #[case(&[("RateLimit-Limit", "100;w=21600")], None)]
    #[case(&[("RateLimit-Limit", "many"), ("RateLimit-Remaining", "-1")], None)]
    #[case(&[], None)]
    fn readings(
        #[case] pairs: &[(&'static str, &'static str)],
        #[case] expected: Option<(Option<u64>, u64, u64)>,
    ) {
        let reading = Reading::of(&headers(pairs));
        assert_eq!(
            reading.map(|r| (r.limit, r.remaining, r.window.as_secs())),
            expected
        );
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_last_one_a_single_request_may_try_after_a_wait() {
        let quota = Quota::default();
        quota.record(&headers(&[("ratelimit-remaining", "0;w=21600")]));
        assert_eq!(quota.take().unwrap_err().1, LIMITLESS_WAIT);
        let spent = headers(&[
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "0;w=21600"),
        ]);
        quota.record(&spent);
        assert_eq!(quota.take().unwrap_err().1, Duration::from_secs(216));
        tokio::time::advance(Duration::from_secs(216)).await;
        assert!(quota.take().is_ok());
        assert!(quota.take().is_err(), "only one may try");
        quota.record(&headers(&[
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "1;w=21600"),
        ]));
        assert!(quota.take().is_ok());
        assert!(quota.take().is_ok());
    }

    #[tokio::test]
    async fn no_manifest_is_requested_when_none_is_left() {
        let left = Arc::new(AtomicU64::new(1));
        let (registry, log) = registry(move |parts, _| {
            let counts = parts.method == "GET";
            let now = left
                .load(Ordering::Relaxed)
                .saturating_sub(u64::from(counts));
            left.store(now, Ordering::Relaxed);
            let remaining = format!("{now};w=21600");
            let digest = format!("sha256:{}", "0".repeat(64));
            let headers = [
                ("RateLimit-Limit", "100;w=21600"),
                ("RateLimit-Remaining", remaining.as_str()),
                ("docker-content-digest", digest.as_str()),
            ];
            respond(
                200,
                if counts { &headers[..2] } else { &headers },
                r#"{"schemaVersion":2}"#,
            )
        })
        .await;
        let tag = TagOrDigest::parse("1");
        assert!(!registry.counts_reads());
        registry.manifest("a", &tag).await.unwrap();
        assert!(registry.counts_reads());
        let error = registry.manifest("a", &tag).await.unwrap_err();
        let text = error.to_string();
        let limit = format!("registry {} allows 100 manifests in 6 h", registry.host());
        assert!(
            text.contains(&limit) && text.contains("log in") && text.contains("wait 216 s"),
            "{text}"
        );
        let crate::Retry::Transient { after: Some(after) } = error.retry() else {
            panic!("{error}");
        };
        assert!(after > Duration::from_secs(200));
        registry.resolve("a", &tag).await.unwrap().unwrap();
        assert_eq!((log.count("GET"), log.count("HEAD")), (1, 1));
        let reported = registry.rate_limit().unwrap();
        assert_eq!((reported.limit, reported.remaining), (Some(100), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_is_valid_for_a_while() {
        let quota = Quota::default();
        let remaining = || {
            let last = quota
                .state()
                .last
                .filter(|(_, until)| Instant::now() < *until);
            last.map(|(reported, _)| reported.remaining)
        };
        quota.record(&headers(&[("ratelimit-remaining", "7;w=21600")]));
        assert_eq!(remaining(), Some(7));
        tokio::time::advance(VALID_FOR).await;
        assert_eq!(remaining(), None);
        quota.record(&headers(&[("ratelimit-remaining", "8;w=60")]));
        assert_eq!(remaining(), Some(8));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(remaining(), None, "the window is over");
    }
}
