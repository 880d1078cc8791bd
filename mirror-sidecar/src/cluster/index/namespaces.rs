//! The namespaces: which exist, and which need the pull Secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::image::Image;
use super::limits::Amounts;
use super::secret_names::{SecretNameCounts, SecretNames};
use crate::cluster::workload::{Key, NamespaceObject};
use crate::cluster::workload_kind::WorkloadKind;

/// Namespaces that are remembered. A cluster has some thousand; one that is unknown gets no pull Secret.
const MAX_NAMESPACES: usize = 50_000;

/// The namespaces that exist or in which something was told. All their workloads share the name.
#[derive(Debug, Default)]
pub(super) struct Namespaces(BTreeMap<Arc<str>, Namespace>);

/// What was told about a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceState {
    /// Nothing. It may exist all the same: what was made a moment ago is told a little later.
    Unknown,
    /// It exists.
    Active,
    /// It is being deleted.
    Terminating,
}

#[derive(Debug, Default)]
struct Namespace {
    /// `None` if only workloads in it were told so far, or still are.
    seen: Option<Seen>,
    /// How many workloads list the pull Secret.
    wanting_secret: SecretNameCounts,
    /// The images that workloads use, with the number of these.
    images: BTreeMap<Image, usize>,
    amounts: Amounts,
    /// Images that its workloads name and that are not remembered.
    images_left_out: usize,
    /// Of which kinds there are workloads that are not remembered, with one of them.
    workloads_left_out: BTreeMap<WorkloadKind, LeftOut>,
}

#[derive(Debug)]
struct LeftOut {
    name: Box<str>,
    uid: Box<str>,
    /// The list in which such a workload was told last.
    epoch: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    created: Option<Timestamp>,
    is_terminating: bool,
    epoch: u32,
}

impl Namespaces {
    /// `true` if a query can tell the difference.
    pub(super) fn see(&mut self, object: NamespaceObject, epoch: u32) -> bool {
        let new = Seen {
            created: object.created,
            is_terminating: object.is_terminating,
            epoch,
        };
        if self.0.len() >= MAX_NAMESPACES && !self.0.contains_key(&object.name) {
            return false;
        }
        let namespace = self.0.entry(object.name).or_default();
        let old = namespace.seen.replace(new);
        old.is_none_or(|old| Seen { epoch, ..old } != new)
    }

    pub(super) fn lose(&mut self, name: &str) -> bool {
        let namespace = self.0.get_mut(name);
        let was_seen = namespace.is_some_and(|namespace| {
            namespace.workloads_left_out.clear();
            namespace.seen.take().is_some()
        });
        self.tidy(name);
        was_seen
    }

    /// Adds a workload to its namespace, which need not be known; returns the shared name. The limit of workloads bounds the
    /// number of namespaces that come in here.
    pub(super) fn enter(&mut self, name: &Arc<str>, secrets: SecretNames) -> Arc<str> {
        let shared = self
            .0
            .get_key_value(name)
            .map_or(name, |(name, _)| name)
            .clone();
        let namespace = self.0.entry(Arc::clone(&shared)).or_default();
        namespace.amounts = namespace.amounts.plus(Amounts::WORKLOAD);
        namespace.wanting_secret.add(secrets);
        shared
    }

    /// What is remembered of a namespace.
    pub(super) fn amounts(&self, name: &str) -> Amounts {
        let namespace = self.0.get(name);
        namespace.map_or_else(Amounts::default, |namespace| namespace.amounts)
    }

    /// The same with one more use of `image`.
    pub(super) fn amounts_with(&self, name: &str, image: &Image) -> Amounts {
        let is_first = |namespace: &Namespace| !namespace.images.contains_key(image);
        let is_first = self.0.get(name).is_none_or(is_first);
        self.amounts(name).plus(Amounts::image(image, is_first))
    }

    /// A workload uses an image.
    pub(super) fn take_image(&mut self, name: &str, image: &Image) {
        let Some(namespace) = self.0.get_mut(name) else {
            return;
        };
        let users = namespace.images.entry(Arc::clone(image)).or_default();
        namespace.amounts = namespace.amounts.plus(Amounts::image(image, *users == 0));
        *users += 1;
    }

    /// So many images of a workload are not remembered.
    pub(super) fn leave_out_images(&mut self, name: &str, images: usize) {
        if let Some(namespace) = self.0.get_mut(name) {
            namespace.images_left_out = namespace.images_left_out.saturating_add(images);
        }
    }

    /// So many images of a workload were not remembered, and it does not use them any more.
    pub(super) fn forget_left_out_images(&mut self, name: &str, images: usize) {
        if let Some(namespace) = self.0.get_mut(name) {
            namespace.images_left_out = namespace.images_left_out.saturating_sub(images);
        }
    }

    /// A workload is not remembered; `true` if it is the first of its kind.
    ///
    /// When it goes that is not seen, so this is known until the kind is listed again, or the namespace goes.
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

    /// A kind was told completely: what was left out of earlier lists only may be gone.
    pub(super) fn forget_left_out(&mut self, kind: WorkloadKind, epoch: u32) -> bool {
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
            namespace.matters()
        });
        is_changed
    }

    /// The namespaces of which something is not remembered: how many images, and a workload that is not remembered at all,
    /// if there is one, with its uid.
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

    /// A workload that took it does not use it any more.
    pub(super) fn leave_image(&mut self, name: &str, image: &Image) {
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

    /// A workload that entered is gone.
    pub(super) fn leave(&mut self, name: &str, secrets: SecretNames) {
        if let Some(namespace) = self.0.get_mut(name) {
            namespace.amounts = namespace.amounts.minus(Amounts::WORKLOAD);
            namespace.wanting_secret.remove(secrets);
        }
        self.tidy(name);
    }

    /// Whether a namespace is being deleted.
    pub(super) fn is_terminating(&self, name: &str) -> bool {
        let seen = self.0.get(name).and_then(|namespace| namespace.seen);
        seen.is_some_and(|seen| seen.is_terminating)
    }

    /// When a namespace was created, if it is known.
    pub(super) fn created(&self, name: &str) -> Option<Timestamp> {
        self.0.get(name)?.seen?.created
    }

    /// What was told about a namespace.
    pub(super) fn state(&self, name: &str) -> NamespaceState {
        match self.0.get(name).and_then(|namespace| namespace.seen) {
            None => NamespaceState::Unknown,
            Some(seen) if seen.is_terminating => NamespaceState::Terminating,
            Some(_) => NamespaceState::Active,
        }
    }

    /// Where the pull Secret with the name at this place is needed and can be. Unless all namespaces are known, one that was not told counts as there.
    pub(super) fn wanting_secret(
        &self,
        place: usize,
        are_known: bool,
    ) -> impl Iterator<Item = &str> {
        let namespaces = self.0.iter();
        namespaces
            .filter(move |(_, namespace)| {
                let exists = match namespace.seen {
                    Some(seen) => !seen.is_terminating,
                    None => !are_known,
                };
                // What is not remembered may name it.
                let is_wanting = namespace.wanting_secret.is_listed(place)
                    || !namespace.workloads_left_out.is_empty();
                is_wanting && exists
            })
            .map(|(name, _)| &**name)
    }

    /// Forgets namespaces that were not told in this list; `true` if there were any.
    pub(super) fn forget_unseen(&mut self, epoch: u32) -> bool {
        let mut is_changed = false;
        self.0.retain(|_, namespace| {
            if namespace.seen.is_some_and(|seen| seen.epoch != epoch) {
                namespace.seen = None;
                is_changed = true;
            }
            namespace.matters()
        });
        is_changed
    }

    fn tidy(&mut self, name: &str) {
        if self
            .0
            .get(name)
            .is_some_and(|namespace| !namespace.matters())
        {
            self.0.remove(name);
        }
    }
}

impl Namespace {
    fn matters(&self) -> bool {
        self.seen.is_some() || self.amounts.workloads > 0 || !self.workloads_left_out.is_empty()
    }
}
