//! Containers that another webhook injected into Pods after the policy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::containers::Containers;
use super::entry::Entry;
use super::image::Image;
use super::{Index, Key};
use crate::cluster::workload_kind::WorkloadKind;

/// The original images that containers injected into the Pods of a workload run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectedImages {
    /// The workload that made the Pods, the topmost one that is known.
    pub key: Key,
    /// Its identity.
    pub uid: Box<str>,
    /// The images, in their order.
    pub images: BTreeSet<Image>,
}

impl Index {
    /// The workloads whose rewritten Pods have containers that are not in their template, with original images.
    #[must_use]
    pub fn injected(&self) -> Vec<InjectedImages> {
        let mut found: BTreeMap<Key, InjectedImages> = BTreeMap::new();
        for pod in &self.maybe_injected {
            let containers = self.workloads.get(pod).and_then(Entry::containers);
            let Some(Containers::Pod {
                owner,
                owner_name,
                originals,
            }) = containers
            else {
                continue;
            };
            let owner = Key {
                kind: *owner,
                namespace: Arc::clone(&pod.namespace),
                name: owner_name.clone(),
            };
            let template = self.workloads.get(&owner).and_then(Entry::containers);
            let Some(Containers::Template(names)) = template else {
                continue;
            };
            let injected = originals.iter().filter(|(name, _)| !names.contains(name));
            for (_, image) in injected {
                let Some((key, uid)) = self.topmost(&owner) else {
                    continue;
                };
                let workload = found.entry(key.clone()).or_insert_with(|| InjectedImages {
                    key,
                    uid: uid.into(),
                    images: BTreeSet::new(),
                });
                workload.images.insert(Arc::clone(image));
            }
        }
        found.into_values().collect()
    }

    /// The Deployment of a `ReplicaSet` and the `CronJob` of a Job, whose names begin with theirs.
    fn topmost(&self, key: &Key) -> Option<(Key, &str)> {
        let entry = self.workloads.get(key)?;
        let kind = match key.kind {
            WorkloadKind::ReplicaSet => Some(WorkloadKind::Deployment),
            WorkloadKind::Job => Some(WorkloadKind::CronJob),
            _ => None,
        };
        if let Some(kind) = kind.filter(|_| entry.is_owned())
            && let Some((name, _)) = key.name.rsplit_once('-')
        {
            let owner = Key {
                kind,
                namespace: Arc::clone(&key.namespace),
                name: name.into(),
            };
            if let Some(entry) = self.workloads.get(&owner) {
                return Some((owner, entry.uid()));
            }
        }
        Some((key.clone(), entry.uid()))
    }
}
