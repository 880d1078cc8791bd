//! Checks that copies are complete: the platforms of an index, configs and layers.
//!
//! A tag proves that a copy was complete when it was created. Garbage collection, clean-up rules and restored backups remove
//! parts and leave the tag.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mirror_contract::ImageRef;
use mirror_copy::{
    Completeness, Digest, ImageContents, PartsQuery, Registry, RegistryError, Resolved,
};
use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::token_bucket::TokenBucket;

/// Time per request for parts in the long run: 50 requests per second.
const REQUEST_EVERY: Duration = Duration::from_millis(20);

/// Requests for parts without a wait: the parts of some ten images.
const BURST: u32 = 500;

/// Concurrent checks for lookups.
const MAX_CHECKS: usize = 16;

/// How long a copy counts as complete for lookups.
const WHOLE_FOR: Duration = Duration::from_hours(24);

/// How long a copy counts as incomplete.
const REMEMBERED_FOR: Duration = Duration::from_hours(1);

/// Copies in each cache, at about 200 bytes each.
const MAX_COPIES: u64 = 10_000;

/// Parts that the original of a copy lacks, at about 100 bytes each, and such copies.
const MAX_LACKED: usize = 64;
const MAX_LACKING: u64 = 1000;

/// Lookups that fail in a row, over at least this time, count as an outage of the backup.
const AWAY_FAILURES: u32 = 3;
const AWAY_AFTER: Duration = Duration::from_secs(1);

/// The configs and layers of an image to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsPlan {
    pub turn: Turn,
    /// The number of them that an earlier check covered.
    pub skip: usize,
}

/// The manifests whose configs and layers are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Only the manifests themselves.
    Nothing,
    Everything,
    /// The share `number` of `of` equal shares, by digest.
    Part {
        /// Counted from 0, modulo `of`.
        number: u64,
        /// At least 1.
        of: u64,
    },
}

/// The rate limit of requests for parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pacing {
    /// That of lookups, without waiting: the check stops at the limit.
    Immediate,
    /// That of lookups.
    Lookup,
    /// That of images in use. The check stops at this time.
    InUse(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Instant,
    failures: u32,
}

/// A repository and a digest.
type Key = (Arc<str>, Digest);

/// Results of checks of parts. Clones share them.
#[derive(Clone)]
pub(super) struct Parts {
    registry: Registry,
    whole: Cache<Key, ()>,
    /// Copies that were complete at their last check, at any time.
    was_whole: Cache<Key, ()>,
    incomplete: Cache<Key, ()>,
    /// Copies whose missing parts were logged.
    reported: Cache<Key, ()>,
    /// Parts that copies lack because their originals lack them.
    lacked_by_originals: Cache<Key, Arc<HashSet<Digest>>>,
    lookup_pace: Arc<Mutex<TokenBucket>>,
    in_use_pace: Arc<Mutex<TokenBucket>>,
    checks: Arc<Semaphore>,
    outage: Arc<Mutex<Option<Outage>>>,
}

impl Parts {
    pub(super) fn new(registry: Registry) -> Self {
        let cache = |life| {
            let builder = Cache::builder().max_capacity(MAX_COPIES);
            builder.time_to_live(life).build()
        };
        let pace = || Arc::new(Mutex::new(TokenBucket::new(REQUEST_EVERY, BURST)));
        Self {
            registry,
            whole: cache(WHOLE_FOR),
            was_whole: Cache::new(MAX_COPIES),
            incomplete: cache(REMEMBERED_FOR),
            reported: cache(REMEMBERED_FOR),
            lacked_by_originals: Cache::builder()
                .max_capacity(MAX_LACKING)
                .time_to_live(WHOLE_FOR)
                .build(),
            lookup_pace: pace(),
            in_use_pace: pace(),
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
            outage: Arc::default(),
        }
    }

    pub(super) fn is_whole(&self, repository: &str, digest: &Digest) -> bool {
        self.whole.contains_key(&key(repository, digest))
    }

    pub(super) fn was_whole(&self, repository: &str, digest: &Digest) -> bool {
        self.was_whole.contains_key(&key(repository, digest))
    }

    pub(super) fn is_incomplete(&self, repository: &str, digest: &Digest) -> bool {
        self.incomplete.contains_key(&key(repository, digest))
    }

    /// Records a new copy. Its parts were verified while it was created.
    pub(super) async fn copied(&self, repository: &str, digest: &Digest) {
        let key = key(repository, digest);
        self.incomplete.invalidate(&key).await;
        self.mark_whole(key).await;
    }

    /// Logs that a copy lacks a part, once until it is complete again.
    pub(super) async fn report_missing(
        &self,
        image: &ImageRef<'static>,
        repository: &str,
        digest: &Digest,
        part: &Digest,
    ) {
        let entry = self.reported.entry(key(repository, digest));
        if entry.or_insert(()).await.is_fresh() {
            tracing::warn!(
                %image, %part,
                "the copy in the backup lacks parts and is restored; find out what deletes them"
            );
        }
    }

    async fn mark_whole(&self, key: Key) {
        self.reported.invalidate(&key).await;
        self.was_whole.insert(key.clone(), ()).await;
        self.whole.insert(key, ()).await;
    }

    /// Records that the original, which has the same digest, lacks this part as well. Returns `false` if there are too many.
    pub(super) async fn original_lacks(
        &self,
        repository: &str,
        digest: &Digest,
        part: Digest,
    ) -> bool {
        let key = key(repository, digest);
        let mut lacked = HashSet::clone(&*self.lacked_by_original(&key).await);
        if lacked.len() >= MAX_LACKED || !lacked.insert(part) {
            return false;
        }
        self.lacked_by_originals.insert(key, Arc::new(lacked)).await;
        true
    }

    async fn lacked_by_original(&self, key: &Key) -> Arc<HashSet<Digest>> {
        self.lacked_by_originals.get(key).await.unwrap_or_default()
    }

    pub(super) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.checks).try_acquire_owned().ok()
    }

    /// Checks the parts of a copy.
    pub(super) async fn check(
        &self,
        repository: &str,
        root: &Resolved,
        plan: PartsPlan,
        pacing: Pacing,
    ) -> Result<Completeness, RegistryError> {
        let checked = self.check_contents(repository, root, plan, pacing).await;
        checked.map(|(found, _)| found)
    }

    /// As [`Self::check`]; also returns the contents of the copy, if all of it was read.
    pub(super) async fn check_contents(
        &self,
        repository: &str,
        root: &Resolved,
        plan: PartsPlan,
        pacing: Pacing,
    ) -> Result<(Completeness, Option<ImageContents>), RegistryError> {
        let key = key(repository, &root.digest);
        // The rest of the rate limit is for the Pods of the cluster.
        let is_throttled = self.registry.rate_limit().is_some_and(|limit| {
            let half = limit.limit.unwrap_or_default() / 2;
            limit.remaining <= half
        });
        let turn = if is_throttled {
            Turn::Nothing
        } else {
            plan.turn
        };
        let query = PartsQuery {
            blobs_of: |digest: &Digest| turn.has(digest),
            skip: plan.skip,
            excused: self.lacked_by_original(&key).await,
            wait: || self.wait(pacing),
            contents: OnceLock::new(),
        };
        let found = match self.registry.check_parts(repository, root, &query).await {
            Err(error) if !error.retry().is_transient() && !error.is_denied() => {
                // A registry without these requests is trusted, and not asked for each lookup.
                self.mark_whole(key).await;
                return Err(error);
            }
            found => found?,
        };
        match &found {
            Completeness::Missing(_) => {
                self.whole.invalidate(&key).await;
                self.was_whole.invalidate(&key).await;
                self.incomplete.insert(key, ()).await;
            }
            Completeness::Complete { .. } if turn == Turn::Everything => {
                self.incomplete.invalidate(&key).await;
                self.mark_whole(key).await;
            }
            Completeness::Complete { .. } | Completeness::Unfinished { .. } => {}
        }
        Ok((found, query.contents.into_inner()))
    }

    /// Records the result of a lookup. After an outage, the backup may lack parts of any copy.
    pub(super) fn record_lookup(&self, has_failed: bool) {
        let now = Instant::now();
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if has_failed {
            let outage = outage.get_or_insert(Outage {
                since: now,
                failures: 0,
            });
            outage.failures = outage.failures.saturating_add(1);
        } else if let Some(outage) = outage.take()
            && outage.failures >= AWAY_FAILURES
            && now.saturating_duration_since(outage.since) >= AWAY_AFTER
        {
            self.whole.invalidate_all();
            self.was_whole.invalidate_all();
        }
    }

    /// Waits until one more request may be sent. Returns `false` if the check stops before.
    async fn wait(&self, pacing: Pacing) -> bool {
        let (pace, until) = match pacing {
            Pacing::Immediate => (&self.lookup_pace, Some(Instant::now())),
            Pacing::Lookup => (&self.lookup_pace, None),
            Pacing::InUse(until) => (&self.in_use_pace, Some(until)),
        };
        loop {
            let next = {
                let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now().into_std();
                match pace.next_token(now) {
                    None => {
                        pace.take(now);
                        return true;
                    }
                    Some(next) => next,
                }
            };
            let next = next.into();
            if until.is_some_and(|until| next > until) {
                return false;
            }
            sleep_until(next).await;
        }
    }
}

impl Turn {
    fn has(self, digest: &Digest) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Part { number, of } => {
                let hex = digest.digest().get(..15).unwrap_or_default();
                let place = u64::from_str_radix(hex, 16).unwrap_or_default();
                place % of.max(1) == number % of.max(1)
            }
        }
    }
}

fn key(repository: &str, digest: &Digest) -> Key {
    (repository.into(), digest.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let registries = mirror_copy::Registries::new(mirror_copy::RegistryOptions::default());
        Parts::new(registries.unwrap().get("backup.example").unwrap())
    }

    /// A single failure is no outage, however long nobody asks afterwards.
    #[tokio::test(start_paused = true)]
    async fn what_is_known_survives_a_passing_failure() {
        let parts = parts();
        let digest: Digest = format!("sha256:{:064x}", 1).parse().unwrap();
        parts.copied("app", &digest).await;
        for failures in [1, AWAY_FAILURES - 1, AWAY_FAILURES] {
            for _ in 0..failures {
                parts.record_lookup(true);
                tokio::time::advance(AWAY_AFTER).await;
            }
            assert!(parts.is_whole("app", &digest));
            parts.record_lookup(false);
            let was_away = failures == AWAY_FAILURES;
            assert_eq!(parts.is_whole("app", &digest), !was_away, "{failures}");
        }
    }

    /// Only what the original was seen to lack is excused, and not without bounds.
    #[tokio::test]
    async fn parts_that_originals_lack_are_remembered_by_root() {
        let parts = parts();
        let digest = |number: usize| -> Digest { format!("sha256:{number:064x}").parse().unwrap() };
        for number in 1..=MAX_LACKED {
            assert!(
                parts
                    .original_lacks("app", &digest(0), digest(number))
                    .await
            );
        }
        assert!(!parts.original_lacks("app", &digest(0), digest(1000)).await);
        let lacked = |root| {
            let key = key("app", &digest(root));
            let parts = &parts;
            async move { parts.lacked_by_original(&key).await.len() }
        };
        assert_eq!((lacked(0).await, lacked(1).await), (MAX_LACKED, 0));
    }

    /// Each manifest has its turn once, whatever the number of parts.
    #[test]
    fn every_digest_has_one_turn() {
        for of in [1, 7, 168] {
            for seed in 0..100_u64 {
                let digest = format!("sha256:{:064x}", u128::from(seed) << 100 | 7);
                let digest: Digest = digest.parse().unwrap();
                let turns = (0..of).filter(|number| {
                    let number = number + 3 * of;
                    Turn::Part { number, of }.has(&digest)
                });
                assert_eq!(turns.count(), 1);
            }
        }
    }
}
