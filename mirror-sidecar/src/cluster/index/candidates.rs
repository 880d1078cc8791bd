//! Workloads that another admission could rewrite.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use mirror_contract::ImageRef;

use super::Index;
use super::entry::Entry;
use super::image_users::Image;
use crate::cluster::policies::PolicySet;
use crate::cluster::workload::{Key, Workload};

/// The state of the copy of an image, or of the image in the target of a rewrite, for workloads that use the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    Mirrored,
    /// Mirrored, but running workloads must not be moved to it.
    Withheld,
    /// Not copied yet; worth waiting for.
    Missing,
    /// Could not be copied, and a retry soon would not help.
    Never,
}

/// A workload that another admission could rewrite. Only the policy knows whether it will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub key: Arc<Key>,
    /// A precondition of the patch, so that it never applies to a successor of the same name.
    pub uid: Box<str>,
    pub created: Option<Timestamp>,
    /// The images that copies, or the targets of rewrites, could replace, in their order.
    pub images: Box<[Image]>,
    /// The images in the targets of rewrites that would replace some of them.
    pub targets: Box<[ImageRef<'static>]>,
    /// The pull Secret that it should list instead of a former one. Without one there is at least one image.
    pub missing_secret: Option<Box<str>>,
}

/// The images of a workload that the policy could replace.
#[derive(Debug, Default)]
struct Replaceable {
    images: Vec<Image>,
    /// The images in the targets of rewrites that would replace some of them.
    targets: Vec<ImageRef<'static>>,
    stays_upstream: bool,
}

impl Index {
    /// Returns the workloads that another admission could rewrite, in their order: active top-level workloads of a mutable
    /// kind that are not opted out, that have at least one image with a copy, or a former pull Secret, and no image whose
    /// copy is missing or withheld.
    ///
    /// Calls `state` once for each original that is copied, and with the images that rewrites would put in place of others.
    pub fn candidates(
        &self,
        state: impl Fn(&ImageRef<'static>) -> CopyState,
    ) -> impl Iterator<Item = Candidate> {
        let mut states: HashMap<&Image, CopyState> = HashMap::new();
        let policies = self.policies().current();
        let candidates = self.candidates.iter();
        let candidates = candidates.filter(|key| !self.namespaces.is_terminating(&key.namespace));
        candidates.filter_map(move |key| {
            let entry = self.workloads.get(key)?;
            let rewritten = Replaceable::by_rewrites(key, entry, &policies, &state)?;
            let state_of = |image| *states.entry(image).or_insert_with(|| state(image));
            let Replaceable {
                images, targets, ..
            } = self.replaceable(entry, rewritten, state_of)?;
            let secret = self.rules.pull_secret.as_deref();
            let missing_secret = secret.filter(|_| entry.has_outdated_secret());
            (!images.is_empty() || missing_secret.is_some()).then(|| Candidate {
                key: Arc::clone(key),
                uid: entry.uid().into(),
                created: entry.created(),
                images: images.into_boxed_slice(),
                targets: targets.into_boxed_slice(),
                missing_secret: missing_secret.map(Box::from),
            })
        })
    }

    /// Returns whether a workload uses a former name of a copy or of the pull Secret.
    #[must_use]
    pub fn has_former_names(&self, key: &Key) -> bool {
        let entry = self.workloads.get(key);
        entry.is_some_and(|entry| {
            entry.has_outdated_secret() || entry.opaque().iter().any(|copy| !copy.is_current)
        })
    }

    /// Returns `found` and the images that the policy could replace by copies now; `None` if it is too early.
    ///
    /// A template without pull Secrets gets none from the policy while one of its images stays upstream, because that one may
    /// need those of the `ServiceAccount`. Its Pods are rewritten instead.
    fn replaceable<'a>(
        &self,
        entry: &'a Entry,
        mut found: Replaceable,
        mut state_of: impl FnMut(&'a Image) -> CopyState,
    ) -> Option<Replaceable> {
        let mut images = Vec::new();
        for image in entry.originals() {
            match state_of(image) {
                CopyState::Mirrored => images.push(Arc::clone(image)),
                CopyState::Never => found.stays_upstream = true,
                // An admission rewrites every image that has a copy, a withheld one too.
                CopyState::Missing | CopyState::Withheld => return None,
            }
        }
        // A copy under a former name is replaced by the current one.
        for opaque in entry.opaque().iter().filter(|copy| !copy.is_current) {
            match state_of(&opaque.original) {
                CopyState::Mirrored => images.push(Arc::clone(&opaque.copy)),
                CopyState::Never => {}
                CopyState::Missing | CopyState::Withheld => return None,
            }
        }
        let is_left_to_pods =
            found.stays_upstream && !entry.lists_secrets() && self.rules.pull_secret.is_some();
        if is_left_to_pods && !images.is_empty() {
            return Some(Replaceable::default());
        }
        found.images.append(&mut images);
        Some(found)
    }

    /// Returns the images that rewrites would put in place of originals, for the workloads that `is_wanted` selects by their
    /// uids.
    #[must_use]
    pub fn rewritten(&self, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<ImageRef<'static>> {
        let policies = self.policies().current();
        let candidates = self.candidates.iter();
        let entries = candidates.filter_map(|key| Some((key, self.workloads.get(key)?)));
        let entries = entries.filter(|(_, entry)| !entry.rewritten().is_empty());
        entries
            .filter(|(_, entry)| is_wanted(entry.uid()))
            .flat_map(|(key, entry)| {
                let images = entry.rewritten().iter();
                images.filter_map(|image| policies.rewritten(&key.namespace, image))
            })
            .collect()
    }
}

impl Replaceable {
    /// Returns the images that the policy could replace by those in the targets of rewrites now; `None` if it is too early.
    fn by_rewrites(
        key: &Key,
        entry: &Entry,
        policies: &PolicySet,
        state: impl Fn(&ImageRef<'static>) -> CopyState,
    ) -> Option<Self> {
        let mut found = Self::default();
        for image in entry.rewritten() {
            let target = policies.rewritten(&key.namespace, image);
            match target.as_ref().map_or(CopyState::Never, &state) {
                CopyState::Mirrored => {
                    found.images.push(Arc::clone(image));
                    found.targets.extend(target);
                }
                CopyState::Never => found.stays_upstream = true,
                CopyState::Missing | CopyState::Withheld => return None,
            }
        }
        Some(found)
    }
}

impl Candidate {
    /// Returns whether an admission that returned `workload` has rewritten something.
    #[must_use]
    pub fn is_helped(&self, workload: &Workload) -> bool {
        let has_secret = |name: &str| workload.pull_secrets.iter().any(|listed| listed == name);
        self.remaining(workload).len() < self.images.len()
            || self.missing_secret.as_deref().is_some_and(has_secret)
    }

    /// Returns the images that `workload`, as an admission returned it, still uses.
    #[must_use]
    pub fn remaining(&self, workload: &Workload) -> Vec<Image> {
        let named = workload.images.iter();
        let named: Vec<_> = named
            .filter_map(|text| Some(ImageRef::parse(text).ok()?.without_redundant_tag()))
            .collect();
        let images = self.images.iter();
        images
            .filter(|image| named.iter().any(|named| *named == ***image))
            .cloned()
            .collect()
    }
}
