//! What the target accepted from one copy. It may show it a moment later.

use super::node::Node;
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Digests of blobs and manifests. Their number is bounded by what one copy may have.
#[derive(Default)]
pub(super) struct Sent(Mutex<HashSet<Digest>>);

impl Sent {
    pub(super) fn add(&self, digest: &Digest) {
        self.lock().insert(digest.clone());
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.lock().contains(digest)
    }

    /// Returns whether all manifests that this one names are among it.
    pub(super) fn has_children_of(&self, node: &Node) -> bool {
        let sent = self.lock();
        node.children.iter().all(|child| sent.contains(child))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
