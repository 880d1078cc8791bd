//! The limits of the index, for each namespace and for the cluster.
//!
//! Anybody who may create workloads chooses how many there are and which images they name: originals or invented copies, by
//! tag or by digest. So workloads, images, uses of images and bytes of references are all limited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::ImageRef;

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
}

/// The size of one of these indexes.
#[derive(Debug)]
pub(super) struct AmountsOfIndex {
    shared: SharedAmounts,
    position: usize,
}

/// What the other indexes have of a namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamespaceElsewhere {
    is_of_default: bool,
    in_default: Amounts,
    in_others: Amounts,
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

    pub(super) fn of_others(&self) -> Amounts {
        let all = self.shared.lock();
        let others = all.totals.iter().enumerate();
        let others = others.filter(|(position, _)| *position != self.position);
        others.fold(Amounts::default(), |sum, (_, amounts)| sum.plus(*amounts))
    }

    /// Sets what this index has of a namespace.
    pub(super) fn set_namespace(&self, namespace: &Arc<str>, amounts: Amounts) {
        let mut all = self.shared.lock();
        if all.totals.len() < 2 {
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

    pub(super) fn elsewhere(&self, namespace: &str) -> NamespaceElsewhere {
        let mut elsewhere = NamespaceElsewhere {
            is_of_default: self.position == 0,
            in_default: Amounts::default(),
            in_others: Amounts::default(),
        };
        let all = self.shared.lock();
        for (position, amounts) in all.namespaces.get(namespace).into_iter().flatten() {
            if *position == self.position {
                continue;
            }
            let sum = if *position == 0 {
                &mut elsewhere.in_default
            } else {
                &mut elsewhere.in_others
            };
            *sum = sum.plus(*amounts);
        }
        elsewhere
    }
}

impl NamespaceElsewhere {
    /// Returns what all indexes have, of which one has `own`. A workload with images of another backup is in the default index,
    /// too, and counts once.
    pub(super) fn with(self, own: Amounts) -> Amounts {
        let (in_default, in_others) = if self.is_of_default {
            (own, self.in_others)
        } else {
            (self.in_default, self.in_others.plus(own))
        };
        Amounts {
            workloads: in_default.workloads.max(in_others.workloads),
            ..in_default.plus(in_others)
        }
    }
}
