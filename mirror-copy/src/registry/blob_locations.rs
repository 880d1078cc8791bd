//! Where blobs were seen on one registry, so that shared base layers are mounted, not sent again.

use oci_spec::image::Digest;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

/// Digests remembered per host: about 2 MiB at most. The oldest go first.
const MAX_DIGESTS: usize = 8192;

/// Repositories remembered per digest: one is enough to mount from, a second one is spare.
const MAX_REPOSITORIES: usize = 2;

/// How long a blob that was seen counts as being there. No registry collects what is that young, and one
/// that lost it all the same says so when the manifest is pushed.
const LATELY: Duration = Duration::from_mins(5);

/// How long somebody waits for another copy to bring a blob.
const PATIENCE: Duration = Duration::from_secs(30);

/// A bounded memory of digest → repositories. A hint only: what it says is tried, never trusted.
#[derive(Default)]
pub(crate) struct BlobLocations {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    places: HashMap<Digest, VecDeque<Sighting>>,
    order: VecDeque<Digest>,
    /// Blobs that somebody brings to this host now.
    turns: HashMap<Digest, Weak<AsyncMutex<()>>>,
}

struct Sighting {
    repository: Arc<str>,
    at: Instant,
}

/// The right to bring a blob to a host; dropping it passes it on.
pub(crate) struct Turn(#[expect(dead_code, reason = "held, never looked at")] OwnedMutexGuard<()>);

impl BlobLocations {
    /// Remembers that this repository has this blob.
    pub(crate) fn add(&self, digest: &Digest, repository: &Arc<str>) {
        let mut guard = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        if !inner.places.contains_key(digest) {
            inner.order.push_back(digest.clone());
            if inner.order.len() > MAX_DIGESTS
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.places.remove(&oldest);
            }
        }
        let places = inner.places.entry(digest.clone()).or_default();
        places.retain(|place| place.repository != *repository);
        places.push_front(Sighting {
            repository: Arc::clone(repository),
            at: Instant::now(),
        });
        places.truncate(MAX_REPOSITORIES);
    }

    /// Waits until nobody else brings this blob to this host. Copies that share a base layer so send it
    /// once: who comes second finds it there.
    /// Nobody waits for ever: after [`PATIENCE`] the answer is `None`, and sending it twice the lesser evil.
    pub(crate) async fn turn(&self, digest: &Digest) -> Option<Turn> {
        let mutex = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
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
        let turn = timeout(PATIENCE, mutex.lock_owned()).await;
        turn.map(Turn).ok()
    }

    /// Whether this repository had this blob a moment ago.
    pub(crate) fn lately(&self, digest: &Digest, repository: &str) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let places = inner.places.get(digest);
        places.is_some_and(|places| {
            let mut places = places.iter();
            places.any(|place| *place.repository == *repository && place.at.elapsed() < LATELY)
        })
    }

    /// A repository other than `except` that had this blob.
    pub(crate) fn find(&self, digest: &Digest, except: &str) -> Option<Arc<str>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .places
            .get(digest)?
            .iter()
            .find(|place| place.repository.as_ref() != except)
            .map(|place| Arc::clone(&place.repository))
    }

    /// Forgets that this repository has this blob.
    pub(crate) fn forget(&self, digest: &Digest, repository: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = inner.places.get_mut(digest) {
            places.retain(|place| place.repository.as_ref() != repository);
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
    fn it_finds_another_repository_and_forgets() {
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
            seen.inner.lock().unwrap().places[&digest(7)].len(),
            MAX_REPOSITORIES
        );
    }
}
