//! Workloads that another admission could rewrite.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use mirror_contract::ImageRef;

use super::Index;
use super::entry::{Entry, OpaqueCopy};
use super::image_users::Image;
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

/// The namespaces of an image that count. More would only cost memory.
const MAX_NAMESPACES: usize = 16;

/// The first [`MAX_NAMESPACES`] that use an image.
pub type ImageNamespaces = BTreeSet<Arc<str>>;

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

/// The images of a workload in one index that the policy could replace.
#[derive(Debug, Default)]
struct Replaceable {
    /// By copies.
    images: Vec<Image>,
    /// By images in the targets of rewrites.
    rewritten: Vec<Image>,
    /// These images.
    targets: Vec<ImageRef<'static>>,
    /// Some image has no replacement, and gets none soon.
    stays_upstream: bool,
}

/// An index, and the states of the copies of its images.
struct View<'a, S> {
    index: &'a Index,
    state: S,
    /// Each image is looked up once.
    states: HashMap<&'a Image, CopyState>,
}

/// Returns the workloads that another admission could rewrite, in their order: active top-level workloads of a mutable kind
/// that are not opted out, that have at least one image with a copy, or a former pull Secret, and no image whose copy is
/// missing or withheld.
///
/// `indexes` are those of all backups, that of the default one first, each with the states of the copies there. A workload
/// with images for several backups waits for all of them, since each admission may restart it.
pub fn candidates_in<'a, S>(
    indexes: impl IntoIterator<Item = (&'a Index, S)>,
) -> impl Iterator<Item = Candidate>
where
    S: Fn(&ImageRef<'static>) -> CopyState,
{
    let views = indexes.into_iter().map(|(index, state)| View {
        index,
        state,
        states: HashMap::new(),
    });
    let mut views: Vec<_> = views.collect();
    let indexes: Vec<&'a Index> = views.iter().map(|view| view.index).collect();
    let keys = (0..indexes.len()).flat_map(move |position| {
        let before: Vec<&'a Index> = indexes.iter().take(position).copied().collect();
        let index: Option<&'a Index> = indexes.get(position).copied();
        let keys = index.into_iter().flat_map(|index| &index.candidates);
        keys.filter(move |key| !before.iter().any(|index| index.candidates.contains(*key)))
    });
    keys.filter_map(move |key| candidate(&mut views, key))
}

fn candidate<'a, S>(views: &mut [View<'a, S>], key: &'a Arc<Key>) -> Option<Candidate>
where
    S: Fn(&ImageRef<'static>) -> CopyState,
{
    let mut found = Replaceable::default();
    let mut first: Option<&Entry> = None;
    let mut missing_secret = None;
    let default = views.first()?.index;
    for view in views {
        let index = view.index;
        if !index.candidates.contains(key) {
            continue;
        }
        if index.namespaces.is_terminating(&key.namespace) {
            return None;
        }
        let entry = index.workloads.get(key)?;
        if first.is_some_and(|first| first.uid() != entry.uid()) {
            // One of the indexes does not know its successor yet.
            return None;
        }
        first = first.or(Some(entry));
        found.add(view.by_rewrites(key, entry)?);
        found.add(view.by_copies(entry)?);
        let secret = index.rules.pull_secret.as_deref();
        missing_secret = missing_secret.or(secret.filter(|_| entry.has_outdated_secret()));
    }
    let entry = first?;
    // A template without pull Secrets gets none from the policy while one of its images stays upstream, because that one may
    // need those of the `ServiceAccount`. Its Pods are rewritten instead.
    if found.stays_upstream && !entry.lists_secrets() && default.adds_secret(&key.namespace, &found)
    {
        found = Replaceable::default();
    }
    let Replaceable {
        images,
        rewritten,
        targets,
        ..
    } = found;
    let images = rewritten.into_iter().chain(images).collect::<Box<[_]>>();
    (!images.is_empty() || missing_secret.is_some()).then(|| Candidate {
        key: Arc::clone(key),
        uid: entry.uid().into(),
        created: entry.created(),
        images,
        targets: targets.into_boxed_slice(),
        missing_secret: missing_secret.map(Box::from),
    })
}

impl Index {
    /// As the function [`candidates_in`], for a single index.
    pub fn candidates(
        &self,
        state: impl Fn(&ImageRef<'static>) -> CopyState,
    ) -> impl Iterator<Item = Candidate> {
        candidates_in([(self, state)])
    }

    /// Returns whether the policy would add the pull Secret to a template without pull Secrets that gets these replacements.
    /// This is the index of the default backup.
    fn adds_secret(&self, namespace: &str, found: &Replaceable) -> bool {
        let has_copies = !found.images.is_empty();
        if self.rules.pull_secret.is_none() || (!has_copies && found.targets.is_empty()) {
            return false;
        }
        if self.pull_locations.is_empty() {
            // It is not managed, and for the images of all backups.
            return has_copies;
        }
        // One Secret has the logins of all backups and targets that the rules allow in the namespace.
        let has_copies_with_login =
            || has_copies && !self.login_access(namespace).needed().is_empty();
        let mut targets = found.targets.iter();
        targets.any(|image| !self.pull_locations.of_target_image(image).is_empty())
            || has_copies_with_login()
    }

    /// Returns whether a workload uses a former name of a copy or of the pull Secret.
    #[must_use]
    pub fn has_former_names(&self, key: &Key) -> bool {
        let entry = self.workloads.get(key);
        entry.is_some_and(|entry| {
            entry.has_outdated_secret() || entry.opaque().iter().any(OpaqueCopy::is_outdated)
        })
    }

    /// Returns the images that rewrites would put in place of originals, for the workloads that `is_wanted` selects by their
    /// uids, with the first namespaces of these workloads. They are in the index of the default backup.
    #[must_use]
    pub fn rewritten(&self, is_wanted: impl Fn(&str) -> bool) -> BTreeMap<Image, ImageNamespaces> {
        let policies = self.policies().current();
        let mut images: BTreeMap<Image, ImageNamespaces> = BTreeMap::new();
        for key in &self.candidates {
            let entry = self.workloads.get(key);
            let Some(entry) = entry.filter(|entry| is_wanted(entry.uid())) else {
                continue;
            };
            for image in entry.rewritten() {
                let Some(image) = policies.rewritten(entry.rewriting(), &key.namespace, image)
                else {
                    continue;
                };
                let namespaces = images.entry(Arc::new(image)).or_default();
                if namespaces.len() < MAX_NAMESPACES {
                    namespaces.insert(Arc::clone(&key.namespace));
                }
            }
        }
        images
    }
}

impl Replaceable {
    fn add(&mut self, more: Self) {
        self.images.extend(more.images);
        self.rewritten.extend(more.rewritten);
        self.targets.extend(more.targets);
        self.stays_upstream |= more.stays_upstream;
    }
}

impl<'a, S> View<'a, S>
where
    S: Fn(&ImageRef<'static>) -> CopyState,
{
    /// Returns the images that the policy could replace by those in the targets of rewrites now; `None` if it is too early.
    fn by_rewrites(&self, key: &Key, entry: &Entry) -> Option<Replaceable> {
        let mut found = Replaceable::default();
        if entry.rewritten().is_empty() {
            return Some(found);
        }
        let policies = self.index.policies().current();
        for image in entry.rewritten() {
            let target = policies.rewritten(entry.rewriting(), &key.namespace, image);
            match target.as_ref().map_or(CopyState::Never, &self.state) {
                CopyState::Mirrored => {
                    found.rewritten.push(Arc::clone(image));
                    found.targets.extend(target);
                }
                CopyState::Never => found.stays_upstream = true,
                CopyState::Missing | CopyState::Withheld => return None,
            }
        }
        Some(found)
    }

    /// Returns the images that the policy could replace by copies now; `None` if it is too early.
    fn by_copies(&mut self, entry: &'a Entry) -> Option<Replaceable> {
        let mut found = Replaceable::default();
        for image in entry.originals() {
            match self.state_of(image) {
                CopyState::Mirrored => found.images.push(Arc::clone(image)),
                CopyState::Never => found.stays_upstream = true,
                // An admission rewrites every image that has a copy, a withheld one too.
                CopyState::Missing | CopyState::Withheld => return None,
            }
        }
        // A copy under a former name, or in another backup, is replaced by the current one.
        for opaque in entry.opaque().iter().filter(|copy| copy.is_outdated()) {
            match self.state_of(&opaque.original) {
                CopyState::Mirrored => found.images.push(Arc::clone(&opaque.copy)),
                CopyState::Never => {}
                CopyState::Missing | CopyState::Withheld => return None,
            }
        }
        Some(found)
    }

    fn state_of(&mut self, image: &'a Image) -> CopyState {
        let state = &self.state;
        *self.states.entry(image).or_insert_with(|| state(image))
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
