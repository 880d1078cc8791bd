//! The watch streams of the API server, which keep the index up to date.
//!
//! Each kind has a task. A task that ends is restarted, and a kind that cannot be watched does not stop the others.

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

/// Kinds that are listed at the same time. A list is work for the API server, and none is urgent.
const LISTS_AT_A_TIME: usize = 1;

/// Watches all kinds until `stop`.
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
    // Dropping the supervision aborts the tasks.
    stop.run_until_cancelled_owned(watches).await;
}

/// The watch of one kind, which fills the index.
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

    fn set_not_served(&self) -> bool {
        // Kubernetes 1.20 and later serve all others.
        let is_possible = self.kind == Kind::Workload(WorkloadKind::CronJob);
        if is_possible {
            self.cluster.apply(Change::NotServed(self.kind));
        }
        is_possible
    }

    fn set_failing(&self, is_failing: bool) {
        self.cluster.apply(Change::Failing(self.kind, is_failing));
    }
}

fn change(event: Event<Watched>, kind: Kind) -> Option<Change> {
    match event {
        Event::Init => Some(Change::Init(kind)),
        Event::InitDone => Some(Change::InitDone(kind)),
        Event::InitApply(object) | Event::Apply(object) => {
            object.into_object(kind).map(Change::Apply)
        }
        Event::Delete(object) => object.into_object(kind).map(Change::Delete),
    }
}
