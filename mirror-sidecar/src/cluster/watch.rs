//! The watch streams of the API server, which keep the indexes of all backups up to date.
//!
//! Each kind has a task. A task that ends is restarted, and a kind that cannot be watched does not stop the others.

mod page_size;
pub(super) mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Resource as _;
use kube::runtime::watcher::Event;
use tokio::sync::Semaphore;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use super::index::Change;
use super::json_filter::Keep;
use super::policies::PolicySet;
use super::shared_index::Indexes;
use super::supervision::supervise;
use super::workload::Watched;
use super::workload_kind::{Kind, WorkloadKind};

/// Kinds that are listed at the same time. A list is work for the API server, and none is urgent.
const LISTS_AT_A_TIME: usize = 1;

/// Shortest time from the start of all lists to the next one when the policies change.
const AFTER_POLICIES: Duration = Duration::from_secs(2);

/// The same when the labels of a namespace change. It doubles while they keep changing, because tenants may change them.
const AFTER_LABELS: Duration = Duration::from_mins(1);
const MAX_AFTER_LABELS: Duration = Duration::from_mins(16);

/// Lists that are not complete continue for this long before they begin again, so that changes in rapid succession do not
/// prevent that they ever end.
const UNFINISHED: Duration = Duration::from_mins(5);

/// Longest wait of other kinds for the list of namespaces, if policies select these by labels.
const NAMESPACES_FIRST: Duration = Duration::from_secs(30);

/// Watches all kinds until `stop`. All are listed again when the policies change, since the index does not keep what they
/// decide by.
pub async fn watch(
    server: impl Into<ApiServer>,
    indexes: impl Into<Indexes>,
    stop: CancellationToken,
) {
    let (server, indexes) = (server.into(), indexes.into());
    // Policies and namespaces are the same in all indexes.
    let cluster = indexes.of_default();
    let policies = cluster.read(|index| index.policies().subscribe());
    let mut reasons = Reasons {
        policies,
        labels: cluster.outdated(),
        after_labels: AFTER_LABELS,
    };
    let watches = async {
        loop {
            // A notification from before is covered by the lists that begin now.
            reasons.policies.mark_unchanged();
            reasons.labels.mark_unchanged();
            let lists = Arc::new(Semaphore::new(LISTS_AT_A_TIME));
            let settled = Sender::new(Settled::new());
            let watches = supervise(&Kind::ALL, |kind| {
                let of_kind = OfKind {
                    indexes: indexes.clone(),
                    kind,
                    settled: settled.clone(),
                };
                of_kind.watch(server.clone(), Arc::clone(&lists))
            });
            // Dropping the supervision aborts the tasks.
            tokio::select! {
                () = watches => {}
                () = reasons.wait(Instant::now(), settled.subscribe()) => {
                    tracing::debug!("policies or labels of namespaces changed; listing all kinds again");
                }
            }
            // The aborted watches end when they yield, and must not report anything after that.
            let mut ending = settled.subscribe();
            drop(settled);
            while ending.changed().await.is_ok() {}
            indexes.apply(Change::ListAgain);
        }
    };
    stop.run_until_cancelled_owned(watches).await;
}

/// The kinds whose lists have ended, and whether they succeeded.
type Settled = BTreeMap<Kind, bool>;

/// The reasons to list all kinds again.
struct Reasons {
    policies: Receiver<Arc<PolicySet>>,
    labels: Receiver<()>,
    after_labels: Duration,
}

impl Reasons {
    /// Waits until the lists that began at `started` are due again.
    async fn wait(&mut self, started: Instant, mut settled: Receiver<Settled>) {
        let Self {
            policies,
            labels,
            after_labels,
        } = self;
        let labels = async {
            changed(labels).await;
            sleep_until(started + *after_labels).await;
        };
        let policies = async {
            changed(policies).await;
            sleep_until(started + AFTER_POLICIES).await;
        };
        let is_of_labels = tokio::select! {
            () = labels => true,
            () = policies => false,
        };
        if is_of_labels {
            let is_repeated = started.elapsed() < *after_labels * 2;
            let longer = (*after_labels * 2).min(MAX_AFTER_LABELS);
            *after_labels = if is_repeated { longer } else { AFTER_LABELS };
        }
        let all = settled.wait_for(|settled| settled.len() == Kind::ALL.len());
        let _ = timeout_at(started + UNFINISHED, all).await;
    }
}

async fn changed<T>(receiver: &mut Receiver<T>) {
    if receiver.changed().await.is_err() {
        // Nothing can change any more.
        std::future::pending::<()>().await;
    }
}

/// The watch of one kind, which fills the indexes.
struct OfKind {
    indexes: Indexes,
    kind: Kind,
    settled: Sender<Settled>,
}

impl OfKind {
    async fn watch(self, server: ApiServer, lists: Arc<Semaphore>) {
        let cluster = self.indexes.of_default();
        let policies = cluster.read(|index| index.policies().current());
        if self.kind != Kind::Namespace && policies.reads_namespace_labels() {
            let mut settled = self.settled.subscribe();
            let namespaces =
                settled.wait_for(|settled| settled.get(&Kind::Namespace) == Some(&true));
            // If they cannot be listed, the workloads must not wait forever.
            let _ = timeout(NAMESPACES_FIRST, namespaces).await;
        }
        stream::watch(server, self, lists).await;
    }

    fn settle(&self, is_listed: bool) {
        self.settled
            .send_if_modified(|settled| settled.insert(self.kind, is_listed) != Some(is_listed));
    }
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
        let is_listed = matches!(event, Event::InitDone);
        if let Some(change) = change(event, self.kind) {
            self.indexes.apply(change);
        }
        if is_listed {
            // A watch that was replaced cannot take back that it failed.
            self.indexes.apply(Change::Failing(self.kind, false));
            self.settle(true);
        }
    }

    fn set_not_served(&self) -> bool {
        // Kubernetes 1.20 and later serve all others.
        let is_possible = self.kind == Kind::Workload(WorkloadKind::CronJob);
        if is_possible {
            self.indexes.apply(Change::NotServed(self.kind));
            self.settle(false);
        }
        is_possible
    }

    fn set_failing(&self, is_failing: bool) {
        self.indexes.apply(Change::Failing(self.kind, is_failing));
        if is_failing {
            self.settle(false);
        }
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
