//! The images that workloads use and that are not copied, for the status. Nothing follows from them.
//!
//! They have limits of their own, so that they displace no image that is copied.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use mirror_contract::ImageRef;

use super::entry::replaces_copy;
use super::image_users::Image;
use super::rules::Rules;
use crate::cluster::policies::Demand;
use crate::cluster::workload::{Key, Life, Owner, Workload};
use crate::cluster::workload_kind::WorkloadKind;

/// Uses of such images that are kept, one for each workload and image, of the cluster and of a namespace. Each takes some 300
/// bytes.
const MAX_USES: usize = 10_000;
const MAX_USES_OF_NAMESPACE: usize = 500;

/// Such images of one workload that are kept.
const MAX_OF_WORKLOAD: usize = 32;

/// Why an image of a workload is not copied. The strongest cause comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// Its namespace is excluded.
    Namespace,
    /// The workload or its Pod template has opted out, or it is a static Pod.
    OptOut,
    /// Another installation has rewritten the workload.
    OtherInstallation,
    /// No policy is for this object.
    Object,
    /// It is in the target of a rewrite already.
    InTarget,
    /// The rules keep it.
    Rule,
}

#[derive(Debug, Default)]
pub(super) struct ExcludedImages {
    by_image: BTreeMap<Image, BTreeMap<Arc<Key>, Exclusion>>,
    by_workload: HashMap<Arc<Key>, Listed>,
    uses_by_namespace: HashMap<Arc<str>, usize>,
    uses: usize,
    /// Uses that were not kept since the start.
    left_out: u64,
}

#[derive(Debug)]
struct Listed {
    uid: Box<str>,
    images: Box<[Image]>,
    /// Number of the list that contained the workload last.
    epoch: u32,
}

impl ExcludedImages {
    /// Replaces what is known of a workload.
    pub(super) fn apply(
        &mut self,
        workload: &Workload,
        rules: &Rules,
        demand: &Demand<'_>,
        is_of_other_installation: bool,
        epoch: u32,
    ) {
        let excluded = excluded(workload, rules, demand, is_of_other_installation);
        if let Some(listed) = self.by_workload.get_mut(&workload.key) {
            let images = listed.images.iter().map(|image| &**image);
            if images.eq(excluded.iter().map(|(image, _)| image)) && listed.uid == workload.uid {
                listed.epoch = epoch;
                self.set_causes(&workload.key, &excluded);
                return;
            }
            self.remove(&workload.key);
        }
        if excluded.is_empty() {
            return;
        }
        let namespace = &workload.key.namespace;
        let of_namespace = self.uses_by_namespace.get(namespace).copied();
        let room = MAX_USES_OF_NAMESPACE
            .saturating_sub(of_namespace.unwrap_or_default())
            .min(MAX_USES.saturating_sub(self.uses))
            .min(MAX_OF_WORKLOAD);
        let left_out = excluded.len().saturating_sub(room);
        self.left_out = self.left_out.saturating_add(left_out as u64);
        let key = Arc::new(workload.key.clone());
        let mut images = Vec::new();
        for (image, cause) in excluded.into_iter().take(room) {
            let known = self.by_image.get_key_value(&image);
            let image =
                known.map_or_else(|| Arc::new(image.clone()), |(known, _)| Arc::clone(known));
            let users = self.by_image.entry(Arc::clone(&image)).or_default();
            users.insert(Arc::clone(&key), cause);
            images.push(image);
        }
        if images.is_empty() {
            return;
        }
        self.uses += images.len();
        *self
            .uses_by_namespace
            .entry(Arc::clone(namespace))
            .or_default() += images.len();
        let listed = Listed {
            uid: workload.uid.clone(),
            images: images.into(),
            epoch,
        };
        self.by_workload.insert(key, listed);
    }

    fn set_causes(&mut self, key: &Key, excluded: &[(ImageRef<'static>, Exclusion)]) {
        for (image, cause) in excluded {
            let users = self.by_image.get_mut(image);
            if let Some(known) = users.and_then(|users| users.get_mut(key)) {
                *known = *cause;
            }
        }
    }

    /// Removes a workload, unless its name belongs to a successor by now.
    pub(super) fn delete(&mut self, workload: &Workload) {
        let listed = self.by_workload.get(&workload.key);
        if listed.is_some_and(|listed| workload.uid.is_empty() || listed.uid == workload.uid) {
            self.remove(&workload.key);
        }
    }

    /// Removes the workloads that the last list of a kind did not contain.
    pub(super) fn remove_unlisted(&mut self, kind: WorkloadKind, epoch: u32) {
        let listed = self.by_workload.iter();
        let unlisted: Vec<_> = listed
            .filter(|(key, listed)| key.kind == kind && listed.epoch != epoch)
            .map(|(key, _)| Arc::clone(key))
            .collect();
        for key in unlisted {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(listed) = self.by_workload.remove(key) else {
            return;
        };
        for image in &listed.images {
            if let Some(users) = self.by_image.get_mut(image) {
                users.remove(key);
                if users.is_empty() {
                    self.by_image.remove(image);
                }
            }
        }
        let uses = listed.images.len();
        self.uses = self.uses.saturating_sub(uses);
        if let Some(of_namespace) = self.uses_by_namespace.get_mut(&key.namespace) {
            *of_namespace = of_namespace.saturating_sub(uses);
            if *of_namespace == 0 {
                self.uses_by_namespace.remove(&key.namespace);
            }
        }
    }

    /// Returns the images from `start` in their order, each with its users in their order.
    pub(super) fn from<'a>(
        &'a self,
        start: Bound<&ImageRef<'static>>,
    ) -> impl Iterator<Item = (&'a Image, &'a BTreeMap<Arc<Key>, Exclusion>)> + use<'a> {
        self.by_image
            .range::<ImageRef<'static>, _>((start, Bound::Unbounded))
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// Returns the images of a workload that are not copied for it, each once, in their order. Objects of controllers that are
/// watched have the images of these.
fn excluded(
    workload: &Workload,
    rules: &Rules,
    demand: &Demand<'_>,
    is_of_other_installation: bool,
) -> Vec<(ImageRef<'static>, Exclusion)> {
    let controller = workload.controller.as_ref();
    if workload.life == Life::Done || controller.and_then(Owner::workload_kind).is_some() {
        return Vec::new();
    }
    let of_object = if rules.excluded_namespaces.contains(&workload.key.namespace) {
        Some(Exclusion::Namespace)
    } else if workload.is_exempt {
        Some(Exclusion::OptOut)
    } else if demand.is_nothing() {
        Some(Exclusion::Object)
    } else if is_of_other_installation {
        Some(Exclusion::OtherInstallation)
    } else {
        None
    };
    let mut found = BTreeSet::new();
    for text in &workload.images {
        let Ok(image) = ImageRef::parse(text) else {
            continue;
        };
        let is_copy = rules.is_in_backup(&image) || rules.other_backups.contain(&image);
        if is_copy || replaces_copy(workload, rules, text) {
            continue;
        }
        if of_object.is_some() || demand.keeps(&image) {
            found.insert(image.without_redundant_tag().into_owned());
        }
    }
    let policies = rules.policies().current();
    let cause = |image: &ImageRef<'_>| {
        of_object.unwrap_or_else(|| {
            if policies.has_target_with(image) {
                Exclusion::InTarget
            } else {
                Exclusion::Rule
            }
        })
    };
    let found = found.into_iter();
    found
        .map(|image| {
            let cause = cause(&image);
            (image, cause)
        })
        .collect()
}
