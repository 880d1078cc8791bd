//! Capabilities of one registry host, learned from its responses and kept in memory only.

use crate::lock::lock;
use reqwest::StatusCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Size of a chunk in bytes: the smallest known limit of a public registry for the body of one request.
pub(super) const CHUNK: u64 = 4 * 1024 * 1024;

/// Minimum size of a chunk in bytes, if larger ones are refused. Proxies refuse bodies of more than 1 MiB by default (nginx,
/// `client_max_body_size`).
pub(super) const SMALLEST_CHUNK: u64 = 64 * 1024;

/// Time that a missing capability is remembered: registries are updated, and their limits are raised.
const LIFE: Duration = Duration::from_hours(1);

#[derive(Default)]
pub(super) struct Capabilities {
    /// Limit for blobs in one request; larger ones are sent in chunks.
    whole: Mutex<Option<SizeLimit>>,
    /// Limit for chunks.
    chunk: Mutex<Option<SizeLimit>>,
    referrers: Mutex<Referrers>,
    /// No requests for digest tags are sent until then, because one had no response.
    no_digest_tags_until: Mutex<Option<Instant>>,
}

/// A limit that was learned from a refusal.
#[derive(Clone, Copy)]
struct SizeLimit {
    /// Maximum size in bytes.
    size: u64,
    until: Instant,
}

/// What is known about the referrers API (distribution-spec, "Listing Referrers").
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Referrers {
    #[default]
    Unknown,
    Has,
    HasNot {
        until: Instant,
    },
    Silent {
        until: Instant,
    },
}

/// Availability of the referrers API of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReferrersApi {
    Usable,
    Absent,
    /// The host did not respond to such a request within the last hour.
    Silent,
}

impl Capabilities {
    /// Returns whether a blob of this size in bytes is sent in one request.
    pub(super) fn takes_whole(&self, size: u64) -> bool {
        self.refusal().is_none_or(|refusal| size <= refusal.size)
    }

    /// Records that a blob of this size was refused in one request. If the size was the cause, blobs that are not larger
    /// than a chunk are still sent in one.
    pub(super) fn refused_whole(&self, size: u64, status: StatusCode) {
        let chunk = self.chunk();
        let for_its_size = status == StatusCode::PAYLOAD_TOO_LARGE && size > chunk;
        let limit = if for_its_size { chunk } else { 0 };
        let known = self.refusal().map_or(u64::MAX, |refusal| refusal.size);
        *lock(&self.whole) = Some(SizeLimit {
            size: known.min(limit),
            until: Instant::now() + LIFE,
        });
    }

    /// Returns the size of a chunk in bytes, unless the registry requires larger ones.
    pub(super) fn chunk(&self) -> u64 {
        let known = lock(&self.chunk).filter(|limit| Instant::now() < limit.until);
        known.map_or(CHUNK, |limit| limit.size)
    }

    /// Halves the size of chunks after one of this size was refused. Returns `false` if they cannot get smaller; `least` is
    /// the minimum that the registry requires.
    pub(super) fn refused_chunk(&self, size: u64, least: u64) -> bool {
        let smaller = (size / 2).max(SMALLEST_CHUNK).max(least);
        if smaller >= size {
            return false;
        }
        // Several blobs may be refused concurrently.
        let size = smaller.min(self.chunk());
        let until = Instant::now() + LIFE;
        *lock(&self.chunk) = Some(SizeLimit { size, until });
        if let Some(whole) = lock(&self.whole).as_mut() {
            whole.size = whole.size.min(size);
        }
        true
    }

    /// Returns the last refusal, if it is not too old.
    fn refusal(&self) -> Option<SizeLimit> {
        lock(&self.whole).filter(|refusal| Instant::now() < refusal.until)
    }

    pub(super) fn referrers_api(&self) -> ReferrersApi {
        let now = Instant::now();
        match *lock(&self.referrers) {
            Referrers::HasNot { until } if until > now => ReferrersApi::Absent,
            Referrers::Silent { until } if until > now => ReferrersApi::Silent,
            _ => ReferrersApi::Usable,
        }
    }

    pub(super) fn has_referrers(&self) {
        *lock(&self.referrers) = Referrers::Has;
    }

    /// Records that the host does not have the API, unless it was seen to have it.
    pub(super) fn has_no_referrers(&self) {
        let mut referrers = lock(&self.referrers);
        if *referrers != Referrers::Has {
            let until = Instant::now() + LIFE;
            *referrers = Referrers::HasNot { until };
        }
    }

    /// Records that the host did not respond in time, unless it was seen to have the API: the list of one repository may
    /// take long.
    pub(super) fn referrers_hang(&self) {
        let mut referrers = lock(&self.referrers);
        if *referrers != Referrers::Has {
            let until = Instant::now() + LIFE;
            *referrers = Referrers::Silent { until };
        }
    }

    /// Returns whether requests for digest tags are sent to the host.
    pub(super) fn shows_digest_tags(&self) -> bool {
        let until = *lock(&self.no_digest_tags_until);
        until.is_none_or(|until| until <= Instant::now())
    }

    /// Records that the host did not respond to a request for a digest tag in time.
    pub(super) fn digest_tags_hang(&self) {
        *lock(&self.no_digest_tags_until) = Some(Instant::now() + LIFE);
    }
}

/// Effect of `POST …/blobs/uploads/?mount=<digest>&from=<the same repository>`. The specification leaves it open; registries
/// based on distribution respond 201 for a blob that is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SelfMount {
    Unknown,
    /// It responded 201 at least once, so 202 means that the blob is missing.
    Works,
    /// It is refused, or opens a session for a blob that is present.
    Useless,
    /// Mounting from any repository is refused.
    Never,
}

/// The effect as learned from responses. It only changes upwards, and not from [`SelfMount::Works`] because of a refusal.
#[derive(Default)]
pub(crate) struct LearnedSelfMount(AtomicU8);

impl LearnedSelfMount {
    pub(crate) fn get(&self) -> SelfMount {
        match self.0.load(Ordering::Relaxed) {
            0 => SelfMount::Unknown,
            1 => SelfMount::Works,
            2 => SelfMount::Useless,
            _ => SelfMount::Never,
        }
    }

    /// Records a permanent refusal, unless it was seen to work.
    pub(crate) fn refused(&self, found: SelfMount) {
        if self.get() != SelfMount::Works {
            self.set(found);
        }
    }

    pub(crate) fn set(&self, found: SelfMount) {
        let number = match found {
            SelfMount::Unknown => 0,
            SelfMount::Works => 1,
            SelfMount::Useless => 2,
            SelfMount::Never => 3,
        };
        self.0.fetch_max(number, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_size_leaves_small_blobs_whole() {
        let capabilities = Capabilities::default();
        assert!(capabilities.takes_whole(u64::MAX));
        capabilities.refused_whole(CHUNK + 1, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(capabilities.takes_whole(CHUNK) && !capabilities.takes_whole(CHUNK + 1));
        capabilities.refused_whole(CHUNK + 1, StatusCode::METHOD_NOT_ALLOWED);
        assert!(capabilities.takes_whole(0) && !capabilities.takes_whole(1));
        capabilities.refused_whole(CHUNK + 1, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(!capabilities.takes_whole(1), "the lower limit stays");
    }

    #[test]
    fn chunks_are_halved_down_to_the_smallest() {
        let capabilities = Capabilities::default();
        capabilities.refused_whole(100 * CHUNK, StatusCode::PAYLOAD_TOO_LARGE);
        for size in [CHUNK / 2, CHUNK / 4, CHUNK / 8] {
            assert!(capabilities.refused_chunk(capabilities.chunk(), 0));
            assert_eq!(capabilities.chunk(), size);
            assert!(capabilities.takes_whole(size) && !capabilities.takes_whole(size + 1));
        }
        assert!(
            capabilities.refused_chunk(CHUNK, 0),
            "a larger one that was sent before"
        );
        assert_eq!(capabilities.chunk(), CHUNK / 8);
        assert!(
            !capabilities.refused_chunk(CHUNK / 8, CHUNK / 8),
            "the registry wants no smaller ones"
        );
        while capabilities.refused_chunk(capabilities.chunk(), 0) {}
        assert_eq!(capabilities.chunk(), SMALLEST_CHUNK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_forgotten() {
        let capabilities = Capabilities::default();
        capabilities.refused_whole(CHUNK + 1, StatusCode::METHOD_NOT_ALLOWED);
        tokio::time::advance(LIFE / 2).await;
        assert!(!capabilities.takes_whole(1));
        tokio::time::advance(LIFE / 2).await;
        assert!(capabilities.takes_whole(u64::MAX));
        capabilities.refused_whole(CHUNK + 1, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(
            capabilities.takes_whole(CHUNK),
            "the old refusal does not come back"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_lack_of_referrers_is_forgotten() {
        let capabilities = Capabilities::default();
        capabilities.has_no_referrers();
        assert_eq!(capabilities.referrers_api(), ReferrersApi::Absent);
        tokio::time::advance(LIFE).await;
        assert_eq!(capabilities.referrers_api(), ReferrersApi::Usable);
        capabilities.referrers_hang();
        assert_eq!(capabilities.referrers_api(), ReferrersApi::Silent);
        capabilities.has_referrers();
        capabilities.has_no_referrers();
        capabilities.referrers_hang();
        assert_eq!(capabilities.referrers_api(), ReferrersApi::Usable);
    }
}
