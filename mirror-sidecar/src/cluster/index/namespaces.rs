//! The namespaces that exist, with the images and pull Secrets that their workloads list.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::image_users::Image;
use super::limits::Amounts;
use super::rules::{SecretNameCounts, SecretNames};
use crate::cluster::login_access::LoginSet;
use crate::cluster::policies::Selection;
use crate::cluster::workload::{Key, NamespaceObject};
use crate::cluster::workload_kind::WorkloadKind;

/// Namespaces that are kept. Clusters have up to some thousands; a namespace that is not kept gets no pull Secret.
const MAX_NAMESPACES: usize = 50_000;

/// The namespaces that exist or in which workloads exist. All their workloads share the name.
#[derive(Debug, Default)]
pub(super) struct Namespaces(BTreeMap<Arc<str>, Namespace>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceState {
    /// Not in the index. It may exist: the watch reports a new namespace a little later.
    Unknown,
    Active,
    Terminating,
}

#[derive(Debug, Default)]
struct Namespace {
    /// `None` if only workloads of it are known.
    object: Option<NamespaceRecord>,
    /// Workloads that list the pull Secret.
    secret_names: SecretNameCounts,
    used_logins: LoginCounts,
    /// Images of its workloads, with the number of these.
    images: BTreeMap<Image, usize>,
    amounts: Amounts,
    /// Images of its workloads that are left out.
    images_left_out: usize,
    /// One workload of each kind of which some are left out.
    workloads_left_out: BTreeMap<WorkloadKind, LeftOut>,
}

/// The logins in whose locations workloads use images, by their index, each with the number of workloads. A namespace uses few.
#[derive(Debug, Default)]
struct LoginCounts(Vec<(usize, u32)>);

#[derive(Debug)]
struct LeftOut {
    name: Box<str>,
    uid: Box<str>,
    /// Number of the list that contained such a workload last.
    epoch: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct NamespaceRecord {
    created: Option<Timestamp>,
    is_terminating: bool,
    /// The policies that select it.
    selection: Selection,
    epoch: u32,
}

impl Namespaces {
    /// Returns `true` if a query returns something else than before.
    pub(super) fn apply(
        &mut self,
        object: NamespaceObject,
        selection: Selection,
        epoch: u32,
    ) -> bool {
        let new = NamespaceRecord {
            created: object.created,
            is_terminating: object.is_terminating,
            selection,
            epoch,
        };
        if self.0.len() >= MAX_NAMESPACES && !self.0.contains_key(&object.name) {
            return false;
        }
        let namespace = self.0.entry(object.name).or_default();
        let old = namespace.object.replace(new);
        old.is_none_or(|old| NamespaceRecord { epoch, ..old } != new)
    }

    pub(super) fn delete(&mut self, name: &str) -> bool {
        let namespace = self.0.get_mut(name);
        let was_known = namespace.is_some_and(|namespace| {
            namespace.workloads_left_out.clear();
            namespace.object.take().is_some()
        });
        self.remove_if_unused(name);
        was_known
    }

    /// Adds a workload to its namespace, which may be unknown, and returns the shared name. The limit of workloads bounds the
    /// number of namespaces that are added here.
    pub(super) fn add_workload(
        &mut self,
        name: &Arc<str>,
        secrets: SecretNames,
        logins: LoginSet,
    ) -> Arc<str> {
        let shared = self
            .0
            .get_key_value(name)
            .map_or(name, |(name, _)| name)
            .clone();
        let namespace = self.0.entry(Arc::clone(&shared)).or_default();
        namespace.amounts = namespace.amounts.plus(Amounts::WORKLOAD);
        namespace.secret_names.add(secrets);
        namespace.used_logins.add(logins);
        shared
    }

    pub(super) fn amounts(&self, name: &str) -> Amounts {
        let namespace = self.0.get(name);
        namespace.map_or_else(Amounts::default, |namespace| namespace.amounts)
    }

    /// Returns the amounts with another use of `image`.
    pub(super) fn amounts_with(&self, name: &str, image: &Image) -> Amounts {
        let is_first = |namespace: &Namespace| !namespace.images.contains_key(image);
        let is_first = self.0.get(name).is_none_or(is_first);
        self.amounts(name).plus(Amounts::image(image, is_first))
    }

    pub(super) fn add_image(&mut self, name: &str, image: &Image) {
        let Some(namespace) = self.0.get_mut(name) else {
            return;
        };
        let users = namespace.images.entry(Arc::clone(image)).or_default();
        namespace.amounts = namespace.amounts.plus(Amounts::image(image, *users == 0));
        *users += 1;
    }

    pub(super) fn uses_image(&self, name: &str, image: &Image) -> bool {
        let namespace = self.0.get(name);
        namespace.is_some_and(|namespace| namespace.images.contains_key(image))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    pub(super) fn images(&self, name: &str) -> impl Iterator<Item = &Image> {
        let namespace = self.0.get(name);
        namespace
            .into_iter()
            .flat_map(|namespace| namespace.images.keys())
    }

    pub(super) fn add_left_out_images(&mut self, name: &str, images: usize) {
        if let Some(namespace) = self.0.get_mut(name) {
            namespace.images_left_out = namespace.images_left_out.saturating_add(images);
        }
    }

    pub(super) fn remove_left_out_images(&mut self, name: &str, images: usize) {
        if let Some(namespace) = self.0.get_mut(name) {
            namespace.images_left_out = namespace.images_left_out.saturating_sub(images);
        }
    }

    /// Records that a workload is left out; returns `true` if it is the first of its kind.
    ///
    /// Its deletion is not recorded: the record lasts until the kind is listed again or the namespace is deleted.
    pub(super) fn leave_out(&mut self, key: &Key, uid: &str, epoch: u32) -> bool {
        if self.0.len() >= MAX_NAMESPACES && !self.0.contains_key(&key.namespace) {
            return false;
        }
        let namespace = self.0.entry(Arc::clone(&key.namespace)).or_default();
        let mut is_first = false;
        let left_out = namespace
            .workloads_left_out
            .entry(key.kind)
            .or_insert_with(|| {
                is_first = true;
                LeftOut {
                    name: key.name.clone(),
                    uid: uid.into(),
                    epoch,
                }
            });
        left_out.epoch = epoch;
        is_first
    }

    /// Removes the records of workloads that were left out of earlier lists of a kind only.
    pub(super) fn remove_unlisted_left_out(&mut self, kind: WorkloadKind, epoch: u32) -> bool {
        let mut is_changed = false;
        self.0.retain(|_, namespace| {
            let left_out = &mut namespace.workloads_left_out;
            if left_out
                .get(&kind)
                .is_some_and(|left_out| left_out.epoch != epoch)
            {
                left_out.remove(&kind);
                is_changed = true;
            }
            namespace.is_used()
        });
        is_changed
    }

    /// Returns the namespaces of which something is left out: the number of images, and a workload that is left out as a
    /// whole, if there is one, with its uid.
    pub(super) fn left_out(&self) -> impl Iterator<Item = (&Arc<str>, usize, Option<(Key, &str)>)> {
        self.0.iter().filter_map(|(name, namespace)| {
            let workload = namespace.workloads_left_out.first_key_value();
            let workload = workload.map(|(kind, left_out)| {
                let key = Key {
                    kind: *kind,
                    namespace: Arc::clone(name),
                    name: left_out.name.clone(),
                };
                (key, &*left_out.uid)
            });
            let images = namespace.images_left_out;
            (images > 0 || workload.is_some()).then_some((name, images, workload))
        })
    }

    pub(super) fn remove_image(&mut self, name: &str, image: &Image) {
        let Some(namespace) = self.0.get_mut(name) else {
            return;
        };
        if let Some(users) = namespace.images.get_mut(image) {
            *users = users.saturating_sub(1);
            let is_last = *users == 0;
            if is_last {
                namespace.images.remove(image);
            }
            namespace.amounts = namespace.amounts.minus(Amounts::image(image, is_last));
        }
    }

    pub(super) fn remove_workload(&mut self, name: &str, secrets: SecretNames, logins: LoginSet) {
        if let Some(namespace) = self.0.get_mut(name) {
            namespace.amounts = namespace.amounts.minus(Amounts::WORKLOAD);
            namespace.secret_names.remove(secrets);
            namespace.used_logins.remove(logins);
        }
        self.remove_if_unused(name);
    }

    pub(super) fn is_terminating(&self, name: &str) -> bool {
        self.state(name) == NamespaceState::Terminating
    }

    pub(super) fn created(&self, name: &str) -> Option<Timestamp> {
        self.0.get(name)?.object?.created
    }

    /// Returns the logins in whose locations workloads of a namespace use images. A workload that is left out may use any.
    pub(super) fn used_logins(&self, name: &str) -> LoginSet {
        let Some(namespace) = self.0.get(name) else {
            return LoginSet::NONE;
        };
        if namespace.workloads_left_out.is_empty() {
            namespace.used_logins.logins()
        } else {
            LoginSet::ALL
        }
    }

    /// Returns the policies that select a namespace; `None` if the namespace is unknown.
    pub(super) fn selection(&self, name: &str) -> Option<Selection> {
        Some(self.0.get(name)?.object?.selection)
    }

    pub(super) fn state(&self, name: &str) -> NamespaceState {
        match self.0.get(name).and_then(|namespace| namespace.object) {
            None => NamespaceState::Unknown,
            Some(object) if object.is_terminating => NamespaceState::Terminating,
            Some(_) => NamespaceState::Active,
        }
    }

    /// Returns the namespaces that list the name of the pull Secret with this index and can hold it. Unless `are_known` (all
    /// namespaces were listed), an unknown namespace counts as existing.
    pub(super) fn naming_secret(&self, name: usize, are_known: bool) -> impl Iterator<Item = &str> {
        let namespaces = self.0.iter();
        namespaces
            .filter(move |(_, namespace)| {
                let exists = match namespace.object {
                    Some(object) => !object.is_terminating,
                    None => !are_known,
                };
                // Workloads that are left out may list it.
                let is_listed = namespace.secret_names.is_listed(name)
                    || !namespace.workloads_left_out.is_empty();
                is_listed && exists
            })
            .map(|(name, _)| &**name)
    }

    /// Removes the namespaces that this list did not contain; returns `true` if there were any.
    pub(super) fn remove_unlisted(&mut self, epoch: u32) -> bool {
        let mut is_changed = false;
        self.0.retain(|_, namespace| {
            if namespace.object.is_some_and(|object| object.epoch != epoch) {
                namespace.object = None;
                is_changed = true;
            }
            namespace.is_used()
        });
        is_changed
    }

    fn remove_if_unused(&mut self, name: &str) {
        let namespace = self.0.get(name);
        if namespace.is_some_and(|namespace| !namespace.is_used()) {
            self.0.remove(name);
        }
    }
}

impl Namespace {
    fn is_used(&self) -> bool {
        self.object.is_some() || self.amounts.workloads > 0 || !self.workloads_left_out.is_empty()
    }
}

impl LoginCounts {
    fn add(&mut self, logins: LoginSet) {
        for login in logins.iter() {
            match self.0.iter_mut().find(|(index, _)| *index == login) {
                Some((_, count)) => *count = count.saturating_add(1),
                None => self.0.push((login, 1)),
            }
        }
    }

    fn remove(&mut self, logins: LoginSet) {
        for (login, count) in &mut self.0 {
            if logins.contains(*login) {
                *count = count.saturating_sub(1);
            }
        }
        self.0.retain(|(_, count)| *count > 0);
    }

    fn logins(&self) -> LoginSet {
        self.0.iter().map(|(index, _)| *index).collect()
    }
}
