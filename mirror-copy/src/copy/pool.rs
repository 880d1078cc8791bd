//! Runs a bounded number of futures at once, in the caller's own task: dropping it stops them all.

use futures_util::stream::{FuturesUnordered, StreamExt as _};

/// Up to `limit` running futures. The first failure is handed out by whichever call meets it.
pub(super) struct Pool<F> {
    running: FuturesUnordered<F>,
    limit: usize,
}

impl<F, E> Pool<F>
where
    F: Future<Output = Result<(), E>>,
{
    /// A `limit` of 0 counts as 1.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            running: FuturesUnordered::new(),
            limit: limit.max(1),
        }
    }

    /// Starts a future, once there is room for it. Large ones come boxed.
    pub(super) async fn add(&mut self, work: F) -> Result<(), E> {
        while self.running.len() >= self.limit
            && let Some(done) = self.running.next().await
        {
            done?;
        }
        self.running.push(work);
        Ok(())
    }

    /// Waits for all that still run.
    pub(super) async fn finish(mut self) -> Result<(), E> {
        while let Some(done) = self.running.next().await {
            done?;
        }
        Ok(())
    }
}
