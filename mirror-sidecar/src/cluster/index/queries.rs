//! The queries about images, namespaces and workloads. Those about readmission are in `candidates`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use mirror_contract::{ImageRef, owners};

use super::Index;
use super::entry::{Containers, Entry};
use super::image_users::{Image, ImageUse};
use super::namespaces::NamespaceState;
use super::sync_state::SyncState;
use crate::cluster::login_access::{LoginAccess, LoginSet};
use crate::cluster::policies::{AllowedLogins, CopyClaim};
use crate::cluster::workload::Key;
use crate::cluster::workload_kind::{Kind, WorkloadKind};

/// A user of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'a> {
    pub key: &'a Key,
    pub uid: &'a str,
    /// Owned by a controller, so that people look at that one first.
    pub is_owned: bool,
}

/// The workloads and images of a namespace that exceed the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// One of the workloads of which some images, or all, are left out.
    pub key: Key,
    pub uid: Box<str>,
    /// Images that are left out of workloads in the index.
    pub images: usize,
    /// Some workloads are left out as a whole.
    pub has_workloads: bool,
}

/// The original images that containers injected into the Pods of a workload run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectedImages {
    /// The topmost known owner of the Pods.
    pub key: Key,
    pub uid: Box<str>,
    pub images: BTreeSet<Image>,
}

impl Index {
    #[must_use]
    pub fn sync_state(&self, kind: Kind) -> SyncState {
        self.sync_states.state(kind)
    }

    /// Returns whether every kind that the API server serves was listed completely and is watched since. If not, objects may
    /// exist that the index does not contain.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let is_synced = |kind| {
            self.sync_states.state(kind) != SyncState::Pending && !self.sync_states.is_failing(kind)
        };
        Kind::ALL.into_iter().all(is_synced)
    }

    /// Returns the images in use outside the backup, in their order. These are the images to copy.
    pub fn images(&self) -> impl Iterator<Item = ImageUse<'_>> {
        self.originals.iter()
    }

    /// Returns the images in use in the backup with this claim, in their order: copies, and other images that somebody keeps
    /// there.
    pub fn images_in_backup(&self, claim: CopyClaim) -> impl Iterator<Item = ImageUse<'_>> {
        self.copies.of(claim).users.iter()
    }

    /// Returns the hosts of these images, by the number of objects that use them.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        for used in self.images() {
            *users.entry(used.image.host()).or_default() += used.users;
        }
        let mut hosts: Vec<_> = users.into_iter().collect();
        hosts.sort_by_key(|&(_, users)| std::cmp::Reverse(users));
        hosts.into_iter().map(|(host, _)| host.to_owned()).collect()
    }

    /// Returns the copies in use with this claim whose names do not contain the originals, each with its originals: copies with
    /// a former or a shortened name.
    pub fn opaque_copies(&self, claim: CopyClaim) -> impl Iterator<Item = (&Image, &Image)> {
        let copies = self.copies.of(claim).opaque.iter();
        copies.flat_map(|(copy, originals)| originals.keys().map(move |original| (copy, original)))
    }

    /// Returns at most `limit` users of an image in the backup or outside, ordered by [`WorkloadKind`]. Users of an image in the
    /// backup whose rules do not use this backup do not count.
    pub fn users<'a>(
        &'a self,
        image: &ImageRef<'a>,
        limit: usize,
    ) -> impl Iterator<Item = User<'a>> {
        self.keys_of(image).take(limit).filter_map(|key| {
            let entry = self.workloads.get(key)?;
            Some(User {
                key,
                uid: entry.uid(),
                is_owned: entry.is_owned(),
            })
        })
    }

    /// Returns the namespaces of these users. One with many users is returned several times, usually in a row.
    pub fn namespaces_of<'a>(&'a self, image: &ImageRef<'a>) -> impl Iterator<Item = &'a Arc<str>> {
        self.keys_of(image).map(|key| &key.namespace)
    }

    fn keys_of<'a>(&'a self, image: &ImageRef<'a>) -> impl Iterator<Item = &'a Arc<Key>> {
        self.originals.users(image).chain(self.copies.users(image))
    }

    /// Returns the namespaces that exceed their [`Limits`](super::Limits), or that the limits of the cluster cut.
    #[must_use]
    pub fn left_out(&self) -> Vec<LeftOut> {
        let mut examples: HashMap<&str, &Arc<Key>> = HashMap::new();
        for key in &self.truncated {
            examples.entry(&*key.namespace).or_insert(key);
        }
        let left_out = self.namespaces.left_out();
        let left_out = left_out.filter_map(|(namespace, images, workload)| {
            let has_workloads = workload.is_some();
            let (key, uid) = if let Some(workload) = workload {
                workload
            } else {
                let key = *examples.get(&**namespace)?;
                (Key::clone(key), self.workloads.get(key)?.uid())
            };
            Some(LeftOut {
                key,
                uid: uid.into(),
                images,
                has_workloads,
            })
        });
        left_out.collect()
    }

    /// Returns the namespaces with a workload that lists a name of the pull Secret, by its index in
    /// [`Rules::secret_names`](super::Rules). Terminating namespaces are left out: nothing can be created in them.
    pub fn namespaces_naming(&self, name: usize) -> impl Iterator<Item = &str> {
        let are_known = self.sync_states.state(Kind::Namespace) == SyncState::Complete;
        self.namespaces.naming_secret(name, are_known)
    }

    /// Returns one workload of each namespace in which another installation has rewritten some: its key, its uid, and one of
    /// its copies.
    #[must_use]
    pub fn of_other_installations(&self) -> Vec<(Key, Box<str>, Box<str>)> {
        let mut namespaces = HashSet::new();
        let workloads = self.of_other_installations.iter();
        let examples = workloads.filter_map(|key| {
            let entry = self.workloads.get(key)?;
            let copy = entry.other_installation()?;
            let is_first = namespaces.insert(&*key.namespace);
            is_first.then(|| (Key::clone(key), entry.uid().into(), copy.into()))
        });
        examples.collect()
    }

    /// Returns the workloads of a namespace whose owner is excluded, as a list of [`owners`], up to its length. The policy
    /// leaves their Pods alone, and sees only the direct owner of a Pod.
    #[must_use]
    pub fn skipped_owners(&self, namespace: &str) -> String {
        let mut list = String::new();
        for key in self.skipped.get(namespace).into_iter().flatten() {
            if !owners::add(&mut list, key.kind.name(), &key.name) {
                break;
            }
        }
        list
    }

    #[must_use]
    pub fn namespace_created(&self, name: &str) -> Option<Timestamp> {
        self.namespaces.created(name)
    }

    #[must_use]
    pub fn namespace_state(&self, name: &str) -> NamespaceState {
        self.namespaces.state(name)
    }

    /// Returns a workload; `None` if it does not exist or is not kept.
    #[must_use]
    pub fn workload(&self, key: &Key) -> Option<&Entry> {
        self.workloads.get(key)
    }

    /// Returns when the oldest Pod was created that the policy has rewritten.
    ///
    /// Only Pods count, because other objects may be much older than their rewritten images, and only annotated ones, so that
    /// other images in the backup do not count.
    #[must_use]
    pub fn policy_seen(&self) -> Option<Timestamp> {
        self.policy_seen
    }

    /// Returns how many workloads got copies since the start: the policy works.
    #[must_use]
    pub fn rewrites(&self) -> u64 {
        self.rewrites
    }

    /// Returns the workloads whose rewritten Pods have containers with original images that are not in the Pod template:
    /// another webhook injected them after the policy.
    #[must_use]
    pub fn injected(&self) -> Vec<InjectedImages> {
        self.injected_into(self)
    }

    /// As [`Self::injected`], with the templates in the index of the default backup.
    #[must_use]
    pub fn injected_into(&self, templates: &Self) -> Vec<InjectedImages> {
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
            let template = templates.workloads.get(&owner).and_then(Entry::containers);
            let Some(Containers::Template(names)) = template else {
                continue;
            };
            let injected = originals.iter().filter(|(name, _)| !names.contains(name));
            for (_, image) in injected {
                let Some((key, uid)) = templates.topmost(&owner) else {
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

    /// Returns the Deployment of a `ReplicaSet` and the `CronJob` of a Job, whose names begin with those of their owners.
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

impl Index {
    /// Returns whether there are backups or targets with logins besides the default backup.
    #[must_use]
    pub fn has_several_destinations(&self) -> bool {
        self.rules.other_backups.iter().next().is_some() || self.pull_locations.has_several_owners()
    }

    /// Returns what is known about the logins for a namespace. While not all workloads are known, they may use any.
    #[must_use]
    pub fn login_access(&self, namespace: &str) -> LoginAccess {
        let policies = self.policies().current();
        let selection = self.namespaces.selection(namespace);
        let allowed = AllowedLogins::of(
            &policies,
            namespace,
            selection,
            &self.pull_locations,
            self.has_several_destinations(),
        );
        let used = if self.is_complete() {
            self.namespaces.used_logins(namespace)
        } else {
            LoginSet::ALL
        };
        LoginAccess {
            allowed: allowed.certain,
            possible: allowed.possible,
            used,
            has_destinations: allowed.has_destinations,
        }
    }
}
