//! The namespaces: which exist, and which need the pull Secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::entry::Image;
use crate::cluster::workload::NamespaceObject;

/// Originals of one namespace that are kept: few have more than a hundred, and its users must not choose how much work and
/// memory all of them take. What is one too many is not looked after until its workload changes.
const MAX_IMAGES: usize = 2000;

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
    workloads: usize,
    /// How many workloads name the pull Secret.
    wanting_secret: usize,
    /// The originals that workloads use, with the number of these.
    images: BTreeMap<Image, usize>,
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
        let namespace = self.0.entry(object.name).or_default();
        let old = namespace.seen.replace(new);
        old.is_none_or(|old| Seen { epoch, ..old } != new)
    }

    pub(super) fn lose(&mut self, name: &str) -> bool {
        let namespace = self.0.get_mut(name);
        let was_seen = namespace.is_some_and(|namespace| namespace.seen.take().is_some());
        self.tidy(name);
        was_seen
    }

    /// A workload is told in a namespace; gives the name as all share it.
    pub(super) fn enter(&mut self, name: &Arc<str>, wants_secret: bool) -> Arc<str> {
        let shared = self
            .0
            .get_key_value(name)
            .map_or(name, |(name, _)| name)
            .clone();
        let namespace = self.0.entry(Arc::clone(&shared)).or_default();
        namespace.workloads += 1;
        namespace.wanting_secret += usize::from(wants_secret);
        shared
    }

    /// A workload uses an original; `false` if that is one too many.
    pub(super) fn take_image(&mut self, name: &str, image: &Image) -> bool {
        let Some(namespace) = self.0.get_mut(name) else {
            return false;
        };
        if namespace.images.len() >= MAX_IMAGES && !namespace.images.contains_key(image) {
            return false;
        }
        *namespace.images.entry(Arc::clone(image)).or_default() += 1;
        true
    }

    /// A workload that took it does not use it any more.
    pub(super) fn leave_image(&mut self, name: &str, image: &Image) {
        let Some(namespace) = self.0.get_mut(name) else {
            return;
        };
        if let Some(users) = namespace.images.get_mut(image) {
            *users -= 1;
            if *users == 0 {
                namespace.images.remove(image);
            }
        }
    }

    /// A workload that entered is gone.
    pub(super) fn leave(&mut self, name: &str, wanted_secret: bool) {
        if let Some(namespace) = self.0.get_mut(name) {
            namespace.workloads = namespace.workloads.saturating_sub(1);
            let wanting = namespace.wanting_secret;
            namespace.wanting_secret = wanting.saturating_sub(usize::from(wanted_secret));
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

    /// Where the pull Secret is needed and can be. Unless all namespaces are known, one that was not told counts as there.
    pub(super) fn wanting_secret(&self, are_known: bool) -> impl Iterator<Item = &str> {
        let namespaces = self.0.iter();
        namespaces
            .filter(move |(_, namespace)| {
                let exists = match namespace.seen {
                    Some(seen) => !seen.is_terminating,
                    None => !are_known,
                };
                namespace.wanting_secret > 0 && exists
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
        self.seen.is_some() || self.workloads > 0
    }
}
