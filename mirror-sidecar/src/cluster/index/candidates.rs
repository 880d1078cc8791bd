//! The workloads that another admission might help.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use mirror_contract::ImageRef;

use super::entry::Entry;
use super::image::Image;
use super::{Index, Key, Workload};

/// Whether there is a copy of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// There is.
    Mirrored,
    /// There is, but nothing that runs may be made to take it.
    Withheld,
    /// Not yet; worth waiting for.
    Missing,
    /// There is none, and nobody knows whether there ever will be: it could not be copied, and trying again soon is of
    /// no use.
    Never,
}

/// A workload that another admission might help. Whether it does only the policy knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which one.
    pub key: Arc<Key>,
    /// Its identity; a patch must name it as a precondition, so that it never meets a successor of the same name.
    pub uid: Box<str>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// The images that copies could replace, in their order.
    pub images: Box<[Image]>,
    /// The pull Secret that it is to list instead of a former one; if there is none, there is at least one image.
    pub missing_secret: Option<Box<str>>,
}

impl Index {
    /// The workloads that another admission might help, in their order: top-level ones of a mutable kind, active, not left
    /// alone, with at least one image that its copy could replace, or a former pull Secret, and no image to wait for or to
    /// withhold.
    ///
    /// `state` is asked once for each image.
    pub fn candidates(
        &self,
        state: impl Fn(&ImageRef<'static>) -> CopyState,
    ) -> impl Iterator<Item = Candidate> {
        let mut states: HashMap<&Image, CopyState> = HashMap::new();
        let candidates = self.candidates.iter();
        let candidates = candidates.filter(|key| !self.namespaces.is_terminating(&key.namespace));
        candidates.filter_map(move |key| {
            let entry = self.workloads.get(key)?;
            let state_of = |image| *states.entry(image).or_insert_with(|| state(image));
            let images = self.replaceable(entry, state_of)?;
            let secret = self.rules.pull_secret.as_deref();
            let missing_secret = secret.filter(|_| entry.has_outdated_secret());
            (!images.is_empty() || missing_secret.is_some()).then(|| Candidate {
                key: Arc::clone(key),
                uid: entry.uid().into(),
                created: entry.created(),
                images,
                missing_secret: missing_secret.map(Box::from),
            })
        })
    }

    /// Whether a workload names copies or a pull Secret as they were called before.
    #[must_use]
    pub fn has_former_names(&self, key: &Key) -> bool {
        let entry = self.workloads.get(key);
        entry.is_some_and(|entry| {
            entry.has_outdated_secret() || entry.noted().iter().any(|noted| !noted.is_present)
        })
    }

    /// The images that the policy could replace by their copies now; `None` if it is too early.
    ///
    /// A template that lists no pull Secret gets none from the policy while an image of it stays upstream, which may need
    /// those of the `ServiceAccount`: its Pods are rewritten instead.
    fn replaceable<'a>(
        &self,
        entry: &'a Entry,
        mut state_of: impl FnMut(&'a Image) -> CopyState,
    ) -> Option<Box<[Image]>> {
        let mut images = Vec::new();
        let mut stays_upstream = false;
        for image in entry.originals() {
            match state_of(image) {
                CopyState::Mirrored => images.push(Arc::clone(image)),
                CopyState::Never => stays_upstream = true,
                // An admission cannot be told which of the images to leave.
                CopyState::Missing | CopyState::Withheld => return None,
            }
        }
        // A copy under a former name is replaced by the present one.
        for noted in entry.noted().iter().filter(|noted| !noted.is_present) {
            match state_of(&noted.original) {
                CopyState::Mirrored => images.push(Arc::clone(&noted.copy)),
                CopyState::Never => {}
                CopyState::Missing | CopyState::Withheld => return None,
            }
        }
        let is_left_to_pods =
            stays_upstream && !entry.lists_secrets() && self.rules.pull_secret.is_some();
        if is_left_to_pods {
            images.clear();
        }
        Some(images.into_boxed_slice())
    }
}

impl Candidate {
    /// Whether an admission that gave `workload` has changed what it should.
    #[must_use]
    pub fn is_helped(&self, workload: &Workload) -> bool {
        let has_secret = |name: &str| workload.pull_secrets.iter().any(|listed| listed == name);
        self.remaining(workload).len() < self.images.len()
            || self.missing_secret.as_deref().is_some_and(has_secret)
    }

    /// Those of the images that `workload`, which an admission gave, still names.
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
