//! Whether a registry answers a mount from the repository itself with what it has.

use std::sync::atomic::{AtomicU8, Ordering};

/// What is known of `POST …/blobs/uploads/?mount=<digest>&from=<the same repository>`. The specification
/// leaves it open; registries built on distribution answer 201 for a blob that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SelfMount {
    Unknown,
    /// It said 201 at least once, so 202 means that the blob is not there.
    Works,
    /// It is refused, or opens a session for a blob that is there.
    Useless,
    /// Mounting from anywhere is refused.
    Never,
}

/// What one registry taught. Once it is useless it stays so; what works is not given up for one refusal.
#[derive(Default)]
pub(crate) struct Learned(AtomicU8);

impl Learned {
    pub(crate) fn get(&self) -> SelfMount {
        match self.0.load(Ordering::Relaxed) {
            0 => SelfMount::Unknown,
            1 => SelfMount::Works,
            2 => SelfMount::Useless,
            _ => SelfMount::Never,
        }
    }

    /// It was refused, for good. That says nothing where it was seen to work.
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
