//! Events about the backup registry, at the Deployment of this service.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::events::{Events, Notice};
use super::shared_index::SharedIndex;
use crate::backup_health::Trouble;

/// Between two reports of what holds: what was dropped must be reported again. The Event is written once an hour.
const REPORT_EVERY: Duration = Duration::from_mins(2);

/// Between two tries while the own Deployment is not known: the first lists take a moment.
const WAIT_FOR_OWN: Duration = Duration::from_secs(1);

/// What is reported, and where.
#[derive(Clone)]
pub(super) struct BackupEvents {
    pub(super) trouble: watch::Receiver<Option<Trouble>>,
    pub(super) cluster: Arc<SharedIndex>,
    pub(super) events: Events,
}

impl BackupEvents {
    /// Reports each change, and what holds from time to time; ends with the health checks.
    pub(super) async fn run(mut self) {
        let mut was_in_trouble = false;
        loop {
            let trouble = self.trouble.borrow_and_update().clone();
            let is_in_trouble = trouble.is_some();
            let notice = match trouble {
                Some(Trouble { kind, reason }) => Some(Notice::BackupTrouble { kind, reason }),
                None => was_in_trouble.then_some(Notice::BackupRecovered),
            };
            let pause = match (notice, self.cluster.own_workload()) {
                (Some(notice), Some(own)) => {
                    self.events.tell(own, notice);
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
