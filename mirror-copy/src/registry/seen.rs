//! Where blobs were seen on one registry, so that shared base layers are mounted, not sent again.

use oci_spec::image::Digest;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Digests remembered per host: about 2 MiB at most. The oldest go first.
const MAX_DIGESTS: usize = 8192;

/// Repositories remembered per digest: one is enough to mount from, a second one is spare.
const MAX_REPOSITORIES: usize = 2;

/// A bounded memory of digest → repositories. A hint only: what it says is tried, never trusted.
#[derive(Default)]
pub(crate) struct Seen {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    places: HashMap<Digest, VecDeque<Arc<str>>>,
    order: VecDeque<Digest>,
}

impl Seen {
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
        if !places.contains(repository) {
            places.push_front(Arc::clone(repository));
            places.truncate(MAX_REPOSITORIES);
        }
    }

    /// A repository other than `except` that had this blob.
    pub(crate) fn find(&self, digest: &Digest, except: &str) -> Option<Arc<str>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .places
            .get(digest)?
            .iter()
            .find(|place| place.as_ref() != except)
            .cloned()
    }

    /// Forgets that this repository has this blob.
    pub(crate) fn forget(&self, digest: &Digest, repository: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = inner.places.get_mut(digest) {
            places.retain(|place| place.as_ref() != repository);
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
        let seen = Seen::default();
        seen.add(&digest(1), &"a".into());
        assert!(seen.find(&digest(1), "a").is_none());
        assert_eq!(seen.find(&digest(1), "b").as_deref(), Some("a"));
        seen.forget(&digest(1), "a");
        assert!(seen.find(&digest(1), "b").is_none());
    }

    #[test]
    fn it_is_bounded() {
        let seen = Seen::default();
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
