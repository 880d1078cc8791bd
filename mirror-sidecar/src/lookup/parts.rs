//! Whether copies are whole: the platforms below an index, configs and layers.
//!
//! A tag says that a copy was whole when it was written. Garbage collection, clean-up rules and restored backups take
//! parts away and leave the tag.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_contract::ImageRef;
use mirror_copy::{Completeness, Digest, PartsQuery, Registry, RegistryError, Resolved};
use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::token_bucket::TokenBucket;

/// Between two requests below the roots of copies, in the long run: 50 a second.
const REQUEST_EVERY: Duration = Duration::from_millis(20);

/// Such requests that may follow each other immediately: the parts of some ten images, for which lookups need not wait.
const BURST: u32 = 500;

/// Checks for lookups of the facade at a time.
const MAX_CHECKS: usize = 16;

/// How long a copy counts as whole for lookups of the facade.
const WHOLE_FOR: Duration = Duration::from_hours(24);

/// How long it is remembered that a copy lacks parts, or has all that its original has.
const REMEMBERED_FOR: Duration = Duration::from_hours(1);

/// Copies remembered, at about 200 bytes each.
const MAX_COPIES: u64 = 10_000;

/// Parts remembered that the original of one copy lacks, and copies of such originals, at about 100 bytes for each part.
const MAX_LACKED: usize = 64;
const MAX_LACKING: u64 = 1000;

/// The backup counts as having been away if so many lookups in a row failed, for that long.
const AWAY_FAILURES: u32 = 3;
const AWAY_AFTER: Duration = Duration::from_secs(1);

/// Which configs and layers of an image to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsPlan {
    /// The manifests whose configs and layers are looked for.
    pub turn: Turn,
    /// How many of them an earlier check looked for.
    pub skip: usize,
}

/// Manifests whose configs and layers are looked for at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// None: only the manifests themselves.
    Nothing,
    Everything,
    /// The `number`-th part `of` so many, by their digests.
    Part {
        /// Counted from 0, modulo `of`.
        number: u64,
        /// At least 1.
        of: u64,
    },
}

/// Whose turn a request below the root waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pacing {
    /// Nobody's, since a lookup waits for it: the check ends when lookups have no turn left.
    Immediate,
    /// That of lookups of the facade.
    Lookup,
    /// That of images in use, until then.
    InUse(Instant),
}

/// Failed lookups in a row.
#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Instant,
    failures: u32,
}

/// A repository and a digest.
type Key = (Arc<str>, Digest);

/// What is known of the parts of copies. Clones share it.
#[derive(Clone)]
pub(super) struct Parts {
    registry: Registry,
    whole: Cache<Key, ()>,
    /// Copies that were whole when they were checked last, however long ago.
    was_whole: Cache<Key, ()>,
    incomplete: Cache<Key, ()>,
    /// Copies whose missing parts were logged.
    reported: Cache<Key, ()>,
    /// Parts that copies lack because their originals do.
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

    /// Whether all parts were seen a while ago.
    pub(super) fn is_whole(&self, repository: &str, digest: &Digest) -> bool {
        self.whole.contains_key(&key(repository, digest))
    }

    /// Whether all parts were there when they were checked last.
    pub(super) fn was_whole(&self, repository: &str, digest: &Digest) -> bool {
        self.was_whole.contains_key(&key(repository, digest))
    }

    /// Whether a part was missing a while ago.
    pub(super) fn is_incomplete(&self, repository: &str, digest: &Digest) -> bool {
        self.incomplete.contains_key(&key(repository, digest))
    }

    /// A copy was made, and verified on the way.
    pub(super) async fn copied(&self, repository: &str, digest: &Digest) {
        let key = key(repository, digest);
        self.incomplete.invalidate(&key).await;
        self.mark_whole(key).await;
    }

    /// Logs that a copy lacks a part, once until it is whole again, whichever check finds it first.
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
                "the copy in the backup lacks parts and is restored; find out what deletes there"
            );
        }
    }

    async fn mark_whole(&self, key: Key) {
        self.reported.invalidate(&key).await;
        self.was_whole.insert(key.clone(), ()).await;
        self.whole.insert(key, ()).await;
    }

    /// The original, which is this digest too, lacks this part, so the copy cannot have it. Returns whether that is
    /// remembered.
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

    /// Leave for one more check on behalf of a lookup.
    pub(super) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.checks).try_acquire_owned().ok()
    }

    /// Looks for the parts of a copy.
    pub(super) async fn check(
        &self,
        repository: &str,
        root: &Resolved,
        plan: PartsPlan,
        pacing: Pacing,
    ) -> Result<Completeness, RegistryError> {
        let key = key(repository, &root.digest);
        // The Pods of the cluster need what is left of it more.
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
        };
        let found = match self.registry.check_parts(repository, root, &query).await {
            Err(error) if !error.retry().is_transient() && !error.is_denied() => {
                // A registry that cannot be asked is believed, and not asked again for each lookup.
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
        Ok(found)
    }

    /// A lookup succeeded or failed. After the backup was away for a while, it may have lost parts of any copy.
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

    /// Completes when one more request may be sent, with `false` if that is not to be waited for.
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
