//! Events about problems of this service, such as with the backup registry, at its own Deployment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::events::{Events, Notice};
use super::shared_index::SharedIndex;

/// Interval between reports of a problem that lasts, since reports may be dropped. The Event is written once an hour.
const REPORT_INTERVAL: Duration = Duration::from_mins(2);

/// Interval between attempts while the own Deployment is not known: the first lists take a moment.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct TroubleEvents<T> {
    pub(super) trouble: watch::Receiver<Option<T>>,
    pub(super) describe: Arc<dyn Fn(T) -> Notice + Send + Sync>,
    /// Reported at the end of the problem.
    pub(super) recovered: Notice,
    pub(super) cluster: Arc<SharedIndex>,
    pub(super) events: Events,
}

impl<T: Clone> TroubleEvents<T> {
    /// Reports each change, and repeats reports of a problem that lasts. Returns when the checks end.
    pub(super) async fn run(mut self) {
        let mut was_in_trouble = false;
        loop {
            let trouble = self.trouble.borrow_and_update().clone();
            let is_in_trouble = trouble.is_some();
            let notice = match trouble {
                Some(trouble) => Some((self.describe)(trouble)),
                None => was_in_trouble.then(|| self.recovered.clone()),
            };
            let pause = match (notice, self.cluster.own_workload()) {
                (Some(notice), Some(own)) => {
                    self.events.report(own, notice);
                    was_in_trouble = is_in_trouble;
                    is_in_trouble.then_some(REPORT_INTERVAL)
                }
                (Some(_), None) => Some(RETRY_INTERVAL),
                (None, _) => None,
            };
            let again = async {
                match pause {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.trouble.changed() => if changed.is_err() {
                    return;
                },
                () = again => {}
            }
        }
    }
}
