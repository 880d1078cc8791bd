//! Events about what this service needs, such as the backup registry, at its own Deployment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::events::{Events, Notice};
use super::shared_index::SharedIndex;

/// Between two reports of what holds: what was dropped must be reported again. The Event is written once an hour.
const REPORT_EVERY: Duration = Duration::from_mins(2);

/// Between two tries while the own Deployment is not known: the first lists take a moment.
const WAIT_FOR_OWN: Duration = Duration::from_secs(1);

/// What is reported, and where.
#[derive(Clone)]
pub(super) struct TroubleEvents<T> {
    pub(super) trouble: watch::Receiver<Option<T>>,
    pub(super) describe: fn(T) -> Notice,
    /// Reported when the trouble is over.
    pub(super) recovered: Notice,
    pub(super) cluster: Arc<SharedIndex>,
    pub(super) events: Events,
}

impl<T: Clone> TroubleEvents<T> {
    /// Reports each change, and what holds from time to time; ends with the checks.
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
                    is_in_trouble.then_some(REPORT_EVERY)
                }
                (Some(_), None) => Some(WAIT_FOR_OWN),
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
