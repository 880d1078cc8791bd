//! What was asked of registries, in figures.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was asked of a registry, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// HTTP requests, those to token services and redirect targets included.
    pub requests: u64,
    /// Pauses that it asked for: answers 429, and 503 with `Retry-After`, while no pause lasted yet.
    pub pauses: u64,
}

/// Counts it.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    pauses: AtomicU64,
}

impl Counters {
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            pauses: self.pauses.load(Ordering::Relaxed),
        }
    }
}
