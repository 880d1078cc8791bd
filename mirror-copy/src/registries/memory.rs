//! How much all blobs in flight together may keep in memory.

use tokio::sync::{Semaphore, SemaphorePermit};

/// What one transfer keeps at most, in KiB: the HTTP client reads up to about 400 KiB at once, and some
/// more are on their way to the other side.
const PER_TRANSFER: u32 = 512;

/// What a transfer costs besides its content, in KiB: two connections and their tasks.
const OVERHEAD: u32 = 32;

/// What all transfers may keep together, in KiB. The process stays below 32 MiB with it.
const ALL: u32 = 12 * 1024;

/// A share of the memory for each transfer: little for a small blob, so that many of them fly at once.
pub(crate) struct Memory(Semaphore);

impl Default for Memory {
    fn default() -> Self {
        Self(Semaphore::new(ALL as usize))
    }
}

impl Memory {
    /// Waits for a share for a blob of `size` bytes. `None` never happens: the semaphore is never closed.
    pub(crate) async fn take(&self, size: u64) -> Option<SemaphorePermit<'_>> {
        let content = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX);
        let share = content.min(PER_TRANSFER) + OVERHEAD;
        self.0.acquire_many(share).await.ok()
    }
}
