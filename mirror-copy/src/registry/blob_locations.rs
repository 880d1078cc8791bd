//! Repositories of one registry in which blobs were seen, so that shared base layers are mounted instead of sent again.

use crate::lock::lock;
use oci_spec::image::Digest;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

/// Maximum number of digests per host, about 2 MiB. The oldest are dropped first.
const MAX_DIGESTS: usize = 8192;

/// Maximum number of repositories per digest: one is enough to mount from, the second is a spare.
const MAX_REPOSITORIES: usize = 2;

/// Time that a blob counts as present after it was seen. No registry deletes blobs that soon, and one that lost it refuses
/// the manifest.
const RECENT: Duration = Duration::from_mins(5);

/// Maximum wait for another copy that sends the same blob.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// A bounded map from digests to repositories. It is only a hint.
#[derive(Default)]
pub(crate) struct BlobLocations {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sightings: HashMap<Digest, VecDeque<Sighting>>,
    order: VecDeque<Digest>,
    /// Blobs that copies are sending to this host.
    turns: HashMap<Digest, Weak<AsyncMutex<()>>>,
}

struct Sighting {
    repository: Arc<str>,
    at: Instant,
}

/// The exclusive right to send a blob to a host; dropping it releases it.
pub(crate) struct Turn(#[expect(dead_code, reason = "held, never read")] OwnedMutexGuard<()>);

impl BlobLocations {
    pub(crate) fn add(&self, digest: &Digest, repository: &Arc<str>) {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        if !inner.sightings.contains_key(digest) {
            inner.order.push_back(digest.clone());
            if inner.order.len() > MAX_DIGESTS
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.sightings.remove(&oldest);
            }
        }
        let sightings = inner.sightings.entry(digest.clone()).or_default();
        sightings.retain(|sighting| sighting.repository != *repository);
        sightings.push_front(Sighting {
            repository: Arc::clone(repository),
            at: Instant::now(),
        });
        sightings.truncate(MAX_REPOSITORIES);
    }

    /// Waits until no other copy sends this blob to this host. So copies that share a base layer send it once, and the
    /// second one finds it present. Returns `None` after [`MAX_WAIT`]: sending it twice is then better than waiting.
    pub(crate) async fn turn(&self, digest: &Digest) -> Option<Turn> {
        let mutex = {
            let mut inner = lock(&self.inner);
            let known = inner.turns.get(digest).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                if inner.turns.len() >= MAX_DIGESTS {
                    inner.turns.retain(|_, mutex| mutex.strong_count() > 0);
                }
                let mutex = Arc::default();
                inner.turns.insert(digest.clone(), Arc::downgrade(&mutex));
                mutex
            })
        };
        let turn = timeout(MAX_WAIT, mutex.lock_owned()).await;
        turn.map(Turn).ok()
    }

    /// Returns whether this repository had this blob within the last minutes.
    pub(crate) fn was_seen_recently(&self, digest: &Digest, repository: &str) -> bool {
        let inner = lock(&self.inner);
        let sightings = inner.sightings.get(digest);
        sightings.is_some_and(|sightings| {
            let mut sightings = sightings.iter();
            sightings.any(|sighting| {
                *sighting.repository == *repository && sighting.at.elapsed() < RECENT
            })
        })
    }

    /// Returns a repository other than `except` that had this blob.
    pub(crate) fn find(&self, digest: &Digest, except: &str) -> Option<Arc<str>> {
        let inner = lock(&self.inner);
        inner
            .sightings
            .get(digest)?
            .iter()
            .find(|sighting| sighting.repository.as_ref() != except)
            .map(|sighting| Arc::clone(&sighting.repository))
    }

    pub(crate) fn forget(&self, digest: &Digest, repository: &str) {
        let mut inner = lock(&self.inner);
        if let Some(sightings) = inner.sightings.get_mut(digest) {
            sightings.retain(|sighting| sighting.repository.as_ref() != repository);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> Digest {
        format!("sha256:{number:064x}").parse().unwrap()
    }

    #[test]
    fn another_repository_is_found_and_forgotten() {
        let seen = BlobLocations::default();
        seen.add(&digest(1), &"a".into());
        assert!(seen.find(&digest(1), "a").is_none());
        assert_eq!(seen.find(&digest(1), "b").as_deref(), Some("a"));
        seen.forget(&digest(1), "a");
        assert!(seen.find(&digest(1), "b").is_none());
    }

    #[test]
    fn it_is_bounded() {
        let seen = BlobLocations::default();
        for number in 0..=MAX_DIGESTS {
            seen.add(&digest(number), &"a".into());
        }
        assert!(seen.find(&digest(0), "b").is_none());
        assert!(seen.find(&digest(MAX_DIGESTS), "b").is_some());
        for repository in ["x", "y", "z"] {
            seen.add(&digest(7), &repository.into());
        }
        assert_eq!(
            seen.inner.lock().unwrap().sightings[&digest(7)].len(),
            MAX_REPOSITORIES
        );
    }
}
