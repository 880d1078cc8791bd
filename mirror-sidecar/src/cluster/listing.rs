//! Lists the policies and objects of a cluster once, for commands that show them and end.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use kube::Resource as _;
use kube::runtime::watcher::Event;

use super::api_server::ApiServer;
use super::json_filter::Keep;
use super::policies::follow::{Followed, KIND};
use super::watch::stream::{self, Subject};
use super::workload::{Key, Object, Watched};
use super::workload_kind::{Kind, WorkloadKind};

/// Puts the policies of the cluster into force that [`Followed`] selects.
///
/// # Errors
/// They cannot be listed.
pub async fn policies(server: &ApiServer, followed: &Followed) -> anyhow::Result<()> {
    let listed = stream::list_once(server.clone(), followed.clone()).await;
    listed.map(drop).with_context(|| failed(KIND))
}

/// Passes all objects of `kinds` to `take`, each once, in the order of the kinds.
///
/// # Errors
/// A kind cannot be listed.
pub async fn objects(
    server: &ApiServer,
    kinds: &[Kind],
    take: impl FnMut(Object) + Send + 'static,
) -> anyhow::Result<()> {
    let taken = Arc::new(Mutex::new(Taken {
        take: Box::new(take),
        workloads: HashSet::new(),
    }));
    for kind in kinds {
        let of_kind = OfKind {
            kind: *kind,
            taken: Arc::clone(&taken),
        };
        let listed = stream::list_once(server.clone(), of_kind).await;
        listed.with_context(|| failed(kind.name()))?;
    }
    Ok(())
}

fn failed(kind: &str) -> String {
    format!("cannot read objects of kind {kind}; check KUBECONFIG, and that you may list them")
}

struct Taken {
    take: Box<dyn FnMut(Object) + Send>,
    /// A page may be requested again with fewer objects.
    workloads: HashSet<Key>,
}

struct OfKind {
    kind: Kind,
    taken: Arc<Mutex<Taken>>,
}

impl Subject for OfKind {
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
        let (Event::InitApply(object) | Event::Apply(object)) = event else {
            return;
        };
        let Some(object) = object.into_object(self.kind) else {
            return;
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = match &object {
            Object::Workload(workload) => taken.workloads.insert(workload.key.clone()),
            Object::Namespace(_) => true,
        };
        if is_new {
            (taken.take)(object);
        }
    }

    fn set_not_served(&self) -> bool {
        // Kubernetes 1.20 and later serve all others.
        self.kind == Kind::Workload(WorkloadKind::CronJob)
    }
}
