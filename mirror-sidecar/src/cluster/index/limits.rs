//! The limits of the index, for each namespace and for the cluster.
//!
//! Anybody who may create workloads chooses how many there are and which images they name: originals or invented copies, by
//! tag or by digest. So workloads, images, uses of images and bytes of references are all limited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::ImageRef;

use crate::cluster::workload::Key;

/// A namespace may use up to one part in this many of its limit even while the cluster exceeds three quarters of its own: a few
/// namespaces at their limits must not displace the others.
const RESERVED: usize = 10;

/// The size of the index for a namespace, or for the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Objects that name images or the pull Secret.
    pub workloads: usize,
    /// Images of all workloads, counted once for each workload.
    pub uses: usize,
    pub images: usize,
    /// Bytes of the references of these images.
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub namespace: Amounts,
    /// Of all namespaces together.
    pub cluster: Amounts,
}

/// The sizes of the indexes of all backups, which share the limits. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SharedAmounts(Arc<Mutex<AmountsOfIndexes>>);

#[derive(Debug, Default)]
struct AmountsOfIndexes {
    /// By the position of the index.
    totals: Vec<Amounts>,
    /// Of each namespace, with the position of the index. Empty while there is only one index.
    namespaces: HashMap<Arc<str>, Vec<(usize, Amounts)>>,
    /// The indexes that have each workload. Empty while there is only one index.
    workloads: HashMap<Arc<Key>, IndexesOfWorkload>,
    /// The sums of their [`IndexesOfWorkload::count`], of each namespace and of all.
    workloads_of: HashMap<Arc<str>, usize>,
    all_workloads: usize,
}

/// The indexes that have a workload.
#[derive(Clone, Copy, Debug, Default)]
struct IndexesOfWorkload {
    is_in_default: bool,
    in_others: usize,
}

/// The size of one of these indexes.
#[derive(Debug)]
pub(super) struct AmountsOfIndex {
    shared: SharedAmounts,
    position: usize,
}

/// What all indexes have of a namespace, without the images of this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamespaceElsewhere {
    in_others: Amounts,
    /// The workloads of all indexes; `None` if there is only this one.
    workloads: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(Self::DEFAULT_WORKLOADS)
    }
}

impl Limits {
    /// Default number of workloads in the cluster. With up to 1 KiB each they fit into the memory limit of the chart, beside
    /// everything else that a tenant or a registry can fill.
    pub const DEFAULT_WORKLOADS: u32 = 50_000;

    /// Returns the limits for a cluster with this many workloads. By default these are 5,000 workloads and 2,000 images for a
    /// namespace, and 10,000 images in all: several times what most clusters have.
    #[must_use]
    pub fn of(workloads: u32) -> Self {
        let workloads = workloads as usize;
        let images = workloads / 5;
        Self {
            namespace: Amounts {
                workloads: workloads / 10,
                uses: workloads / 2,
                images: images / 5,
                bytes: images / 5 * 256,
            },
            cluster: Amounts {
                workloads,
                uses: workloads.saturating_mul(6),
                images,
                bytes: images.saturating_mul(200),
            },
        }
    }

    /// Returns whether a namespace and the cluster may have these amounts.
    pub(super) fn allow(&self, in_namespace: Amounts, in_all: Amounts) -> bool {
        let fits = |limit: fn(&Amounts) -> usize| {
            let (namespace, all) = (limit(&in_namespace), limit(&in_all));
            let (most, most_of_all) = (limit(&self.namespace), limit(&self.cluster));
            let has_reserve = namespace <= most / RESERVED;
            namespace <= most && all <= most_of_all && (has_reserve || all <= most_of_all / 4 * 3)
        };
        fits(|amounts| amounts.workloads)
            && fits(|amounts| amounts.uses)
            && fits(|amounts| amounts.images)
            && fits(|amounts| amounts.bytes)
    }
}

impl Amounts {
    pub(super) const WORKLOAD: Self = Self {
        workloads: 1,
        uses: 0,
        images: 0,
        bytes: 0,
    };

    /// One use of an image.
    pub(super) fn image(image: &ImageRef<'_>, is_first: bool) -> Self {
        Self {
            workloads: 0,
            uses: 1,
            images: usize::from(is_first),
            bytes: if is_first { image.to_string().len() } else { 0 },
        }
    }

    pub(super) fn plus(self, more: Self) -> Self {
        Self {
            workloads: self.workloads.saturating_add(more.workloads),
            uses: self.uses.saturating_add(more.uses),
            images: self.images.saturating_add(more.images),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    pub(super) fn minus(self, less: Self) -> Self {
        Self {
            workloads: self.workloads.saturating_sub(less.workloads),
            uses: self.uses.saturating_sub(less.uses),
            images: self.images.saturating_sub(less.images),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

impl SharedAmounts {
    /// Returns a place for the size of another index. The first one is that of the default backup.
    pub(super) fn index(&self) -> AmountsOfIndex {
        let mut all = self.lock();
        all.totals.push(Amounts::default());
        AmountsOfIndex {
            shared: self.clone(),
            position: all.totals.len() - 1,
        }
    }

    fn lock(&self) -> MutexGuard<'_, AmountsOfIndexes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AmountsOfIndex {
    pub(super) fn set(&self, amounts: Amounts) {
        if let Some(own) = self.shared.lock().totals.get_mut(self.position) {
            *own = amounts;
        }
    }

    /// Returns the size of all indexes, of which this one has `own`. With `new`, that workload is in it, too.
    pub(super) fn total_with(&self, own: Amounts, new: Option<&Key>) -> Amounts {
        let all = self.shared.lock();
        let others = all.totals.iter().enumerate();
        let others = others.filter(|(position, _)| *position != self.position);
        let total = others.fold(own, |sum, (_, amounts)| sum.plus(*amounts));
        let workloads = if all.is_shared() {
            all.all_workloads
        } else {
            own.workloads
        };
        Amounts {
            workloads: workloads.saturating_add(all.addition(self.position, new)),
            ..total
        }
    }

    /// Records that this index has a workload; returns the key that the indexes share.
    pub(super) fn add_workload(&self, key: Key) -> Arc<Key> {
        let mut all = self.shared.lock();
        if !all.is_shared() {
            return Arc::new(key);
        }
        let addition = all.addition(self.position, Some(&key));
        all.all_workloads = all.all_workloads.saturating_add(addition);
        let of_namespace = all.workloads_of.entry(Arc::clone(&key.namespace));
        *of_namespace.or_default() += addition;
        let known = all.workloads.get_key_value(&key);
        let key = known.map_or_else(|| Arc::new(key), |(known, _)| Arc::clone(known));
        let indexes = all.workloads.entry(Arc::clone(&key)).or_default();
        *indexes = indexes.with(self.position);
        key
    }

    pub(super) fn remove_workload(&self, key: &Key) {
        let mut all = self.shared.lock();
        let Some(indexes) = all.workloads.get_mut(key) else {
            return;
        };
        let before = indexes.count();
        *indexes = indexes.without(self.position);
        let removed = before.saturating_sub(indexes.count());
        if indexes.count() == 0 {
            all.workloads.remove(key);
        }
        all.all_workloads = all.all_workloads.saturating_sub(removed);
        if let Some(count) = all.workloads_of.get_mut(&key.namespace) {
            *count = count.saturating_sub(removed);
            if *count == 0 {
                all.workloads_of.remove(&key.namespace);
            }
        }
    }

    /// Sets what this index has of a namespace.
    pub(super) fn set_namespace(&self, namespace: &Arc<str>, amounts: Amounts) {
        let mut all = self.shared.lock();
        if !all.is_shared() {
            return;
        }
        let of_namespace = all.namespaces.entry(Arc::clone(namespace)).or_default();
        of_namespace.retain(|(position, _)| *position != self.position);
        if amounts != Amounts::default() {
            of_namespace.push((self.position, amounts));
        }
        if of_namespace.is_empty() {
            all.namespaces.remove(namespace);
        }
    }

    /// Returns what the indexes have of a namespace. With `new`, that workload is in them, too.
    pub(super) fn elsewhere(&self, namespace: &str, new: Option<&Key>) -> NamespaceElsewhere {
        let all = self.shared.lock();
        let of_namespace = all.namespaces.get(namespace).into_iter().flatten();
        let others = of_namespace.filter(|(position, _)| *position != self.position);
        let workloads = all.workloads_of.get(namespace).copied().unwrap_or_default();
        let workloads = workloads.saturating_add(all.addition(self.position, new));
        NamespaceElsewhere {
            in_others: others.fold(Amounts::default(), |sum, (_, amounts)| sum.plus(*amounts)),
            workloads: all.is_shared().then_some(workloads),
        }
    }
}

impl AmountsOfIndexes {
    fn is_shared(&self) -> bool {
        self.totals.len() > 1
    }

    /// Returns what a workload adds to the number of workloads if this index gets it.
    fn addition(&self, position: usize, new: Option<&Key>) -> usize {
        let Some(key) = new else { return 0 };
        let indexes = self.workloads.get(key).copied().unwrap_or_default();
        indexes
            .with(position)
            .count()
            .saturating_sub(indexes.count())
    }
}

impl IndexesOfWorkload {
    /// A workload counts once, and once more for each further index that keeps images of it: that takes memory. The index of
    /// the default backup knows all workloads of the others.
    fn count(self) -> usize {
        self.in_others.max(usize::from(self.is_in_default))
    }

    fn with(self, position: usize) -> Self {
        match position {
            0 => Self {
                is_in_default: true,
                ..self
            },
            _ => Self {
                in_others: self.in_others.saturating_add(1),
                ..self
            },
        }
    }

    fn without(self, position: usize) -> Self {
        match position {
            0 => Self {
                is_in_default: false,
                ..self
            },
            _ => Self {
                in_others: self.in_others.saturating_sub(1),
                ..self
            },
        }
    }
}

impl NamespaceElsewhere {
    /// Returns what all indexes have, of which one has `own`.
    pub(super) fn with(self, own: Amounts) -> Amounts {
        Amounts {
            workloads: self.workloads.unwrap_or(own.workloads),
            ..self.in_others.plus(own)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::workload_kind::WorkloadKind;

    #[test]
    fn a_workload_counts_once_for_each_backup_besides_the_default_one() {
        let shared = SharedAmounts::default();
        let [default, a, b] = [(); 3].map(|()| shared.index());
        let key = |name: &str| Key {
            kind: WorkloadKind::Pod,
            namespace: "shop".into(),
            name: name.into(),
        };
        let count = || {
            let total = default.total_with(Amounts::default(), None).workloads;
            let elsewhere = a.elsewhere("shop", None).with(Amounts::default());
            assert_eq!(total, elsewhere.workloads);
            total
        };
        for (index, name, expected) in [
            (&a, "web", 1),
            (&default, "web", 1),
            (&b, "web", 2),
            (&default, "db", 3),
            (&b, "db", 3),
        ] {
            let new = index.total_with(Amounts::default(), Some(&key(name)));
            index.add_workload(key(name));
            assert_eq!((count(), new.workloads), (expected, expected), "{name}");
        }
        for (index, name, expected) in [
            (&default, "web", 3),
            (&a, "web", 2),
            (&b, "web", 1),
            (&b, "db", 1),
            (&default, "db", 0),
        ] {
            index.remove_workload(&key(name));
            assert_eq!(count(), expected, "{name}");
        }
        let all = shared.lock();
        assert!(all.workloads.is_empty() && all.workloads_of.is_empty());
    }
}
