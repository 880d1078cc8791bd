//! The workload that this process belongs to, for Events about the service itself: the Deployment of its Pod.
//!
//! The watches report Pods and `ReplicaSet`s with their owners, so this needs neither requests nor permissions.

use std::collections::HashMap;

use super::events::About;
use super::workload::{Key, Owner, Workload};
use super::workload_kind::WorkloadKind;

/// Objects of the own namespace whose owners are kept. The namespace is the operator's.
const MAX_OWNED: usize = 1024;

/// Most owners from a Pod up to its workload, for example a `ReplicaSet` and a Deployment.
const MAX_OWNERS: usize = 3;

#[derive(Debug)]
pub(super) struct OwnWorkload {
    pod: Key,
    uid: Option<Box<str>>,
    /// The controllers of objects in the namespace.
    owners: HashMap<(WorkloadKind, Box<str>), Owner>,
}

impl OwnWorkload {
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

    pub(super) fn observe(&mut self, workload: &Workload) {
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

    pub(super) fn delete(&mut self, workload: &Workload) {
        let key = &workload.key;
        if key.namespace == self.pod.namespace && *key != self.pod {
            self.owners.remove(&(key.kind, key.name.clone()));
        }
    }

    /// Returns the object of Events about this service: the Deployment or another topmost owner of the Pod, or the Pod itself.
    /// `None` until the watch has reported the Pod.
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
    fn events_about_the_service_go_to_its_deployment_in_any_order_of_reports() {
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
                own.observe(workload);
            }
            let about = own.about().unwrap();
            let named = (&*about.kind, &*about.name, &*about.uid, &*about.namespace);
            let wanted = ("Deployment", "sidecar", "uid-sidecar", &*namespace);
            assert_eq!(named, wanted);
        }
        // Without an owner it is the Pod.
        let mut own = OwnWorkload::of_pod(&namespace, "alone");
        own.observe(&object(WorkloadKind::Pod, "alone", None));
        assert_eq!(own.about().unwrap().kind, "Pod");
    }
}
