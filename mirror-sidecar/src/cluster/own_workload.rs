//! The workload that this process belongs to, for Events about the service itself: the Deployment of its Pod.
//!
//! The watches tell about Pods and `ReplicaSet`s anyway, with their owners, so it costs neither a request nor a right.

use std::collections::HashMap;

use super::events::About;
use super::workload::{Key, Owner, Workload};
use super::workload_kind::WorkloadKind;

/// Objects of the own namespace whose owners are remembered. It is the operator's own namespace.
const MAX_OWNED: usize = 1024;

/// Owners on the way from a Pod to its workload: `ReplicaSet` and Deployment, or Job and `CronJob`.
const MAX_OWNERS: usize = 3;

/// The workload that this process belongs to.
#[derive(Debug)]
pub(super) struct OwnWorkload {
    pod: Key,
    uid: Option<Box<str>>,
    /// What objects of the namespace are, with their controllers.
    owners: HashMap<(WorkloadKind, Box<str>), Owner>,
}

impl OwnWorkload {
    /// The workload of this Pod, of which nothing is known yet.
    pub(super) fn of_pod(namespace: &str, name: &str) -> Self {
        Self {
            pod: Key {
                kind: WorkloadKind::Pod,
                namespace: namespace.into(),
                name: name.into(),
            },
            uid: None,
            owners: HashMap::new(),
        }
    }

    /// An object is there.
    pub(super) fn see(&mut self, workload: &Workload) {
        let key = &workload.key;
        if key.namespace != self.pod.namespace {
            return;
        }
        let is_pod = key.kind == WorkloadKind::Pod;
        if is_pod && *key != self.pod {
            return;
        }
        if is_pod {
            self.uid = Some(workload.uid.clone());
        }
        let name = (key.kind, key.name.clone());
        match &workload.controller {
            Some(owner) if self.owners.len() < MAX_OWNED || self.owners.contains_key(&name) => {
                self.owners.insert(name, owner.clone());
            }
            Some(_) => {}
            None => {
                self.owners.remove(&name);
            }
        }
    }

    /// An object is gone.
    pub(super) fn lose(&mut self, workload: &Workload) {
        let key = &workload.key;
        if key.namespace == self.pod.namespace && *key != self.pod {
            self.owners.remove(&(key.kind, key.name.clone()));
        }
    }

    /// What an Event about the service is about: the Deployment, or what else owns the Pod, or the Pod itself. `None` before
    /// the Pod was seen.
    pub(super) fn about(&self) -> Option<About> {
        let mut about = About::workload(&self.pod, self.uid.as_deref()?);
        let mut kind = WorkloadKind::Pod;
        for _ in 0..MAX_OWNERS {
            let Some(owner) = self.owners.get(&(kind, about.name.as_str().into())) else {
                break;
            };
            let Some(next) = owner.workload_kind() else {
                break;
            };
            about = owner.about(&self.pod.namespace);
            kind = next;
        }
        Some(about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::index::tests::workload;

    fn owner(kind: &str, name: &str) -> Owner {
        Owner {
            api_version: "apps/v1".into(),
            kind: kind.into(),
            name: name.into(),
            uid: format!("uid-{name}").into(),
        }
    }

    fn object(kind: WorkloadKind, name: &str, owner: Option<Owner>) -> Workload {
        Workload {
            controller: owner,
            ..workload(kind, name, &[])
        }
    }

    #[test]
    fn events_about_the_service_go_to_its_deployment_in_whatever_order_it_is_seen() {
        let set = object(
            WorkloadKind::ReplicaSet,
            "sidecar-5d4f",
            Some(owner("Deployment", "sidecar")),
        );
        let pod = object(
            WorkloadKind::Pod,
            "sidecar-5d4f-x",
            Some(owner("ReplicaSet", "sidecar-5d4f")),
        );
        let other = object(
            WorkloadKind::Pod,
            "other",
            Some(owner("ReplicaSet", "other")),
        );
        let namespace = pod.key.namespace.to_string();
        for order in [[&set, &pod, &other], [&other, &pod, &set]] {
            let mut own = OwnWorkload::of_pod(&namespace, "sidecar-5d4f-x");
            assert_eq!(own.about(), None);
            for workload in order {
                own.see(workload);
            }
            let about = own.about().unwrap();
            let named = (&*about.kind, &*about.name, &*about.uid, &*about.namespace);
            let wanted = ("Deployment", "sidecar", "uid-sidecar", &*namespace);
            assert_eq!(named, wanted);
        }
        // Without an owner it is the Pod.
        let mut own = OwnWorkload::of_pod(&namespace, "alone");
        own.see(&object(WorkloadKind::Pod, "alone", None));
        assert_eq!(own.about().unwrap().kind, "Pod");
    }
}
