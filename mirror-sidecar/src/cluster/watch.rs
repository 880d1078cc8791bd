//! The watch streams of the API server, which keep the index true.
//!
//! One task a kind. A task that breaks off is started again, and a kind that cannot be watched never stops the others.

mod page_size;
pub(super) mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kube::Resource as _;
use kube::runtime::watcher::Event;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use super::index::Change;
use super::json_filter::Keep;
use super::shared_index::SharedIndex;
use super::supervision::supervise;
use super::workload::Watched;
use super::workload_kind::{Kind, WorkloadKind};

/// Kinds that are listed at the same time. Each list is work for the API server, and none is urgent.
const LISTS_AT_A_TIME: usize = 1;

/// Watches all kinds until `stop`, and keeps the index true.
pub async fn watch(
    server: impl Into<ApiServer>,
    cluster: Arc<SharedIndex>,
    stop: CancellationToken,
) {
    let server = server.into();
    let lists = Arc::new(Semaphore::new(LISTS_AT_A_TIME));
    let watches = supervise(&Kind::ALL, move |kind| {
        let cluster = Arc::clone(&cluster);
        stream::watch(server.clone(), OfKind { cluster, kind }, Arc::clone(&lists))
    });
    // Ending the supervision ends the tasks.
    stop.run_until_cancelled_owned(watches).await;
}

/// Passes the objects of a kind to the index.
struct OfKind {
    cluster: Arc<SharedIndex>,
    kind: Kind,
}

impl stream::Subject for OfKind {
    type Object = Watched;

    fn kind(&self) -> &'static str {
        self.kind.name()
    }

    fn path(&self) -> String {
        Watched::url_path(&self.kind, None)
    }

    fn keep(&self) -> Keep {
        Watched::KEEP
    }

    fn take(&self, event: Event<Watched>) {
        if let Some(change) = change(event, self.kind) {
            self.cluster.apply(change);
        }
    }

    fn take_not_served(&self) -> bool {
        // All others are older than every API server that is still in use.
        let is_possible = self.kind == Kind::Workload(WorkloadKind::CronJob);
        if is_possible {
            self.cluster.apply(Change::NotServed(self.kind));
        }
        is_possible
    }

    fn take_trouble(&self, has_trouble: bool) {
        self.cluster.apply(Change::Trouble(self.kind, has_trouble));
    }
}

fn change(event: Event<Watched>, kind: Kind) -> Option<Change> {
    match event {
        Event::Init => Some(Change::Begin(kind)),
        Event::InitDone => Some(Change::End(kind)),
        Event::InitApply(object) | Event::Apply(object) => {
            object.into_object(kind).map(Change::Seen)
        }
        Event::Delete(object) => object.into_object(kind).map(Change::Gone),
    }
}
