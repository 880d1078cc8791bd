//! Checks the targets of rewrites for the images of workloads that still use the originals: a pull-through cache may have needed
//! too long for the admission of the workload. The results are in the copy statuses, from which readmission follows.
//!
//! Each replica checks the images of the workloads that it re-admits.

mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::copy_status::CopyStatuses;
use super::index::{Image, ImageNamespaces};
use super::readmission::ReadmissionController;
use super::replicas::Replicas;
use super::shared_index::SharedIndex;
use crate::target_lookup::Found;
use crate::token_bucket::TokenBucket;
use schedule::Schedule;

/// Shortest time between two syncs with the index: the first list of a cluster is thousands of changes.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Average time between two checks, and the number that may start without it after an idle time.
const CHECK_SPACING: Duration = Duration::from_millis(100);
const BURST: u32 = 20;

#[derive(Clone)]
pub(super) struct TargetChecks {
    cluster: Arc<SharedIndex>,
    check: Arc<dyn Fn(Image) -> BoxFuture<'static, Found> + Send + Sync>,
    copy_status: CopyStatuses,
    replicas: Replicas,
}

impl TargetChecks {
    /// The checks of what `readmission` waits for.
    pub(super) fn before(readmission: &ReadmissionController) -> Self {
        let targets = readmission.targets.clone();
        Self {
            cluster: Arc::clone(readmission.indexes.of_default()),
            check: Arc::new(move |image| {
                let targets = targets.clone();
                async move { targets.check(&image).await }.boxed()
            }),
            copy_status: readmission.copy_status.of_default().clone(),
            replicas: readmission.replicas.clone(),
        }
    }

    /// Checks until it is dropped. Sleeps while there is nothing to check.
    pub(super) async fn run(self) {
        let mut index = self.cluster.subscribe();
        let mut shares = self.replicas.subscribe();
        let mut checks: JoinSet<(Image, Found)> = JoinSet::new();
        let mut rate = TokenBucket::new(CHECK_SPACING, BURST);
        let mut schedule = Schedule::default();
        let mut sync_at = Some(Instant::now());
        loop {
            let now = Instant::now();
            if sync_at.is_some_and(|at| at <= now) {
                sync_at = None;
                schedule.sync(self.wanted(), now);
            }
            schedule.release(now);
            while rate.has_token(now.into_std()) {
                let Some(image) = schedule.begin_next(now) else {
                    break;
                };
                rate.take(now.into_std());
                let check = (self.check)(Arc::clone(&image));
                checks.spawn(async move { (image, check.await) });
            }
            if let Some(states) = schedule.take_states() {
                self.copy_status.set_targets(states);
            }
            // The end of a check wakes the loop anyway.
            let next_token = rate.next_token(now.into_std()).map(Instant::from_std);
            let wake_at = next_token.filter(|_| schedule.may_begin());
            let wake_at = wake_at.or_else(|| schedule.next_due());
            // The senders live as long as `self`, so no wait ends in an error.
            let change = async {
                tokio::select! {
                    _ = index.changed() => {}
                    _ = shares.changed() => {}
                }
            };
            tokio::select! {
                Some(Ok((image, found))) = checks.join_next() => {
                    schedule.end(&image, &found, Instant::now());
                }
                () = change, if sync_at.is_none() => sync_at = Some(Instant::now() + SYNC_INTERVAL),
                () = until(sync_at) => {}
                () = until(wake_at) => {}
            }
        }
    }

    fn wanted(&self) -> BTreeMap<Image, ImageNamespaces> {
        let is_ours = |uid: &str| self.replicas.owns(&format!("workload/{uid}"));
        self.cluster.read(|index| index.rewritten(is_ours))
    }
}

/// Never returns without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
