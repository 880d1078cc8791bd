//! How much all blobs in flight together may keep in memory.

use tokio::sync::{Semaphore, SemaphorePermit};

/// What one transfer keeps at most, in KiB: the HTTP client reads up to about 400 KiB at once, and as much
/// again waits to be written.
const PER_TRANSFER: u32 = 1024;

/// What a transfer costs besides its content, in KiB: two connections and their tasks.
const OVERHEAD: u32 = 32;

/// What all transfers may keep together, in KiB. The process stays below 32 MiB with it.
const ALL: u32 = 13 * 1024;

/// Transfers that may have a full share at once. The rest of the memory is for small blobs only.
const LARGE: usize = 9;

/// A share of the memory for each transfer: little for a small blob, so that many of them fly at once.
pub(crate) struct Memory {
    all: Semaphore,
    large: Semaphore,
}

/// A share that was taken; dropping it gives it back.
pub(crate) struct Share<'a> {
    _large: Option<SemaphorePermit<'a>>,
    _memory: Option<SemaphorePermit<'a>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            all: Semaphore::new(ALL as usize),
            large: Semaphore::new(LARGE),
        }
    }
}

impl Memory {
    /// Whether a blob of `size` bytes needs a full share.
    pub(crate) fn is_large(size: u64) -> bool {
        content(size) >= PER_TRANSFER
    }

    /// Waits for a share for a blob of `size` bytes. Neither semaphore is ever closed.
    pub(crate) async fn take(&self, size: u64) -> Share<'_> {
        let large = if Self::is_large(size) {
            self.large.acquire().await.ok()
        } else {
            None
        };
        let share = content(size).min(PER_TRANSFER) + OVERHEAD;
        Share {
            _large: large,
            _memory: self.all.acquire_many(share).await.ok(),
        }
    }
}

/// What the content of a blob takes, in KiB: it is read and written at the same time.
fn content(size: u64) -> u32 {
    u32::try_from(size.div_ceil(1024).saturating_mul(2)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn large_blobs_leave_memory_for_small_ones() {
        let memory = Memory::default();
        let large: Vec<_> = std::iter::from_fn(|| memory.take(1 << 30).now_or_never()).collect();
        assert_eq!(large.len(), LARGE);
        let small: Vec<_> = std::iter::from_fn(|| memory.take(100 << 10).now_or_never()).collect();
        assert!(small.len() >= 16, "{}", small.len());
    }
}
