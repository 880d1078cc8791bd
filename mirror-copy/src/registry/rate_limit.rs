//! How many manifests a registry still lets us read (Docker Hub's pull limit; the IETF draft
//! "`RateLimit` header fields for HTTP" in its several forms).
//!
//! A registry that says that nothing is left is believed: asking on would be refused, and some prolong the
//! wait for it.

use reqwest::header::HeaderMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// No window is believed to be longer, in seconds: a mistaken header shall not stop the mirror for weeks.
pub(super) const MAX_WINDOW: u64 = 24 * 60 * 60;

/// When one request more is tried of a registry that does not say how many it allows.
const LIMITLESS_WAIT: Duration = Duration::from_mins(1);

/// How long a host is believed to have what it said. Somebody else may use the same quota, and it fills up again.
const BELIEVED_FOR: Duration = Duration::from_mins(15);

/// How many manifests a host still lets us read, as it said not long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many may be read in a window; some only say what remains.
    pub limit: Option<u64>,
    /// How many of them were left.
    pub remaining: u64,
}

/// What is known of a host's quota.
#[derive(Default)]
pub(super) struct Quota(Mutex<State>);

#[derive(Default)]
pub(super) struct State {
    /// Whether the host ever spoke of a quota.
    pub(super) seen: bool,
    /// What it said last, and until when that is believed.
    pub(super) last: Option<(RateLimit, Instant)>,
    spent: Option<Spent>,
}

/// Nothing is left.
#[derive(Clone, Copy)]
struct Spent {
    reading: Reading,
    /// When one request may find out whether that has changed.
    next_try: Instant,
}

/// What one answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Some only say what remains.
    pub(super) limit: Option<u64>,
    pub(super) remaining: u64,
    pub(super) window: Duration,
}

impl Quota {
    /// Notes what an answer about a manifest says.
    pub(super) fn record(&self, headers: &HeaderMap) {
        let Some(reading) = Reading::of(headers) else {
            return;
        };
        let mut state = self.state();
        state.seen = true;
        let said = RateLimit {
            limit: reading.limit,
            remaining: reading.remaining,
        };
        let until = Instant::now() + reading.window.min(BELIEVED_FOR);
        state.last = Some((said, until));
        state.spent = (reading.remaining == 0).then(|| Spent {
            reading,
            next_try: Instant::now() + reading.one_more_after(),
        });
    }

    /// Leave for one request, or how long there is none. When that time is over one request may try, and
    /// its answer decides.
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// When one request more is due, if they are spread evenly over the window.
    fn one_more_after(&self) -> Duration {
        match self.limit {
            Some(limit) => self.window / u32::try_from(limit).unwrap_or(u32::MAX).max(1),
            None => self.window.min(LIMITLESS_WAIT),
        }
    }
}

/// The number that a header's value begins with.
fn first_number(text: &str) -> Option<u64> {
    let first = text.split([',', ';']).next()?;
    first.trim().parse().ok()
}

/// The number of the first `name=number` in a header's value.
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
    async fn nothing_left_is_believed_for_a_while_and_then_one_may_try() {
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
    async fn manifests_are_not_asked_for_when_nothing_is_left() {
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
        let said = format!(
            "registry {} lets 100 manifests be read in 6 h",
            registry.host()
        );
        assert!(
            text.contains(&said) && text.contains("log in") && text.contains("wait 216 s"),
            "{text}"
        );
        let crate::Retry::Transient { after: Some(after) } = error.retry() else {
            panic!("{error}");
        };
        assert!(after > Duration::from_secs(200));
        registry.resolve("a", &tag).await.unwrap().unwrap();
        assert_eq!((log.count("GET"), log.count("HEAD")), (1, 1));
        let said = registry.rate_limit().unwrap();
        assert_eq!((said.limit, said.remaining), (Some(100), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_host_said_is_believed_for_a_while() {
        let quota = Quota::default();
        let said = || {
            let last = quota
                .state()
                .last
                .filter(|(_, until)| Instant::now() < *until);
            last.map(|(said, _)| said.remaining)
        };
        quota.record(&headers(&[("ratelimit-remaining", "7;w=21600")]));
        assert_eq!(said(), Some(7));
        tokio::time::advance(BELIEVED_FOR).await;
        assert_eq!(said(), None);
        quota.record(&headers(&[("ratelimit-remaining", "8;w=60")]));
        assert_eq!(said(), Some(8));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(said(), None, "the window is over");
    }
}
