//! What one copy knows of its referrers.

use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Most manifests of one copy whose referrers are looked for.
pub(super) const MAX_SUBJECTS: usize = 256;

/// Most referrers and digest tags of one copy. An image has a handful.
const MAX_REFERRERS: usize = 1000;

/// Referrers, and lists of them, that are read concurrently.
const AT_ONCE: usize = 12;

/// What one copy knows of its referrers.
pub(super) struct Referring {
    /// Everything that was brought, or whose referrers were looked for: each is brought once.
    pub(super) known: Mutex<HashSet<Digest>>,
    pub(super) turns: Semaphore,
    /// The target has the image itself.
    pub(super) root_is_there: AtomicBool,
    /// The target refused something because it does not have the image yet.
    pub(super) was_refused: AtomicBool,
}

impl Default for Referring {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
            root_is_there: AtomicBool::new(false),
            was_refused: AtomicBool::new(false),
        }
    }
}

impl Referring {
    /// Whether this is new, and one copy may have one more.
    pub(super) fn admit(&self, digest: &Digest) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.len() < MAX_SUBJECTS + MAX_REFERRERS && known.insert(digest.clone())
    }

    pub(super) fn forget_all(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }
}
