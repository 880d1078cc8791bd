//! What is kept of a workload.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use mirror_contract::{Backup, ImageRef};

use super::containers::Containers;
use super::image::Image;
use super::rules::Rules;
use super::secret_names::SecretNames;
use crate::cluster::workload::{Life, Workload};

/// What is kept of a workload.
#[derive(Clone, Debug)]
pub struct Entry {
    facts: Facts,
    originals: Box<[Image]>,
    in_backup: Box<[Image]>,
    noted: Box<[Noted]>,
    containers: Option<Box<Containers>>,
    left_out: LeftOut,
    /// Which list it was told in last.
    epoch: u32,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    uid: Box<str>,
    created: Option<Timestamp>,
    /// A hash of all images, also of those that are not kept.
    images: u64,
    lists_secrets: bool,
    secret_names: SecretNames,
    /// It uses copies and lists a former pull Secret instead of the present one.
    has_outdated_secret: bool,
    /// A copy that it uses in the backup of another installation.
    other_installation: Option<Box<str>>,
    is_candidate: bool,
    is_owned: bool,
    /// Its controller is one of those whose workloads are left alone.
    is_skipped: bool,
}

/// A copy whose name does not tell its original now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Noted {
    pub copy: Image,
    /// Its original, as the policy's annotation or a former name says.
    pub original: Image,
    /// It is where copies are now: the name is only too long to be read back.
    pub is_present: bool,
}

/// Images that are not kept.
#[derive(Clone, Copy, Debug, Default)]
struct LeftOut {
    /// Because the object names too many.
    beyond_object: u32,
    /// Because there are too many in the namespace, or in the cluster.
    beyond_namespace: u32,
}

/// Where an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Upstream,
    Backup,
}

impl Entry {
    /// What matters of `workload`, told in the list `epoch`; `None` if nothing does. `shared` gives the image that other
    /// users share, and `noted` the original of a copy that they share.
    pub(super) fn new(
        workload: &Workload,
        rules: &Rules,
        epoch: u32,
        shared: impl Fn(&ImageRef<'_>) -> Option<Image>,
        noted: impl Fn(&Image, &ImageRef<'_>) -> Option<Image>,
    ) -> Option<Self> {
        let excluded = &rules.excluded_namespaces;
        if workload.life == Life::Done || excluded.contains(&workload.key.namespace) {
            return None;
        }
        let mut originals = Vec::new();
        let mut in_backup = Vec::new();
        let mut noted_copies = Vec::new();
        for text in &workload.images {
            let Ok(image) = ImageRef::parse(text) else {
                continue;
            };
            if let Some((original, is_present)) = noted_original(workload, rules, text, &image) {
                let image = image.without_redundant_tag();
                let copy = shared(&image).unwrap_or_else(|| Arc::new(image.into_owned()));
                let original = noted(&copy, &original)
                    .or_else(|| shared(&original))
                    .unwrap_or_else(|| Arc::new(original));
                in_backup.push(Arc::clone(&copy));
                noted_copies.push(Noted {
                    copy,
                    original,
                    is_present,
                });
                continue;
            }
            let image = image.without_redundant_tag();
            let is_in_backup =
                rules.backup.contains(&image) || rules.former_backups.contains(&image);
            let list = if is_in_backup {
                &mut in_backup
            } else if workload.is_exempt {
                // It may have been rewritten before; then it still needs its copies, but no new ones.
                continue;
            } else {
                &mut originals
            };
            list.push(shared(&image).unwrap_or_else(|| Arc::new(image.into_owned())));
        }
        let (mut originals, mut in_backup) = (each_once(originals), each_once(in_backup));
        let mut annotated = workload.originals.iter();
        let other_installation =
            annotated.find(|(copy, original)| rules.is_of_other_installation(copy, original));
        let other_installation = other_installation.map(|(copy, _)| Box::from(copy.as_str()));
        if other_installation.is_some() {
            // The other one looks after them.
            originals.clear();
        }
        let secret_names = SecretNames::of(&workload.pull_secrets, rules);
        if originals.is_empty()
            && in_backup.is_empty()
            && secret_names.is_empty()
            && other_installation.is_none()
        {
            return None;
        }
        let has_outdated_secret =
            rules.pull_secret.is_some() && secret_names.is_outdated() && !in_backup.is_empty();
        let is_candidate = workload.key.kind.is_mutable()
            && workload.life == Life::Active
            && !workload.is_owned
            && !workload.is_exempt
            && other_installation.is_none()
            && (!originals.is_empty() || has_outdated_secret || is_outdated(&noted_copies));
        noted_copies.sort_unstable();
        // A pinned copy has one name here for all tags that its author can think of.
        noted_copies.dedup_by(|next, first| next.copy == first.copy);
        let containers = Containers::of(workload, &originals, !in_backup.is_empty());
        let images = hash_of(&originals, &in_backup, &noted_copies, containers.as_ref());
        let count = originals.len().saturating_add(in_backup.len());
        in_backup.truncate(MAX_IMAGES);
        originals.truncate(MAX_IMAGES.saturating_sub(in_backup.len()));
        noted_copies.retain(|noted| in_backup.contains(&noted.copy));
        let kept = originals.len().saturating_add(in_backup.len());
        let facts = Facts {
            uid: workload.uid.clone(),
            created: workload.created,
            images,
            lists_secrets: !workload.pull_secrets.is_empty(),
            secret_names,
            has_outdated_secret,
            other_installation,
            is_candidate,
            is_owned: workload.is_owned,
            is_skipped: rules.skips(workload),
        };
        Some(Self {
            facts,
            originals: originals.into_boxed_slice(),
            in_backup: in_backup.into_boxed_slice(),
            noted: noted_copies.into_boxed_slice(),
            containers: containers.map(Box::new),
            left_out: LeftOut {
                beyond_object: u32::try_from(count.saturating_sub(kept)).unwrap_or(u32::MAX),
                beyond_namespace: 0,
            },
            epoch,
        })
    }

    /// Its identity; empty if it is not known.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.facts.uid
    }

    #[must_use]
    pub fn created(&self) -> Option<Timestamp> {
        self.facts.created
    }

    /// The images that it uses and that are not in the backup, each once, in their order.
    #[must_use]
    pub fn originals(&self) -> &[Image] {
        &self.originals
    }

    /// The images that it uses and that are in the backup.
    #[must_use]
    pub fn in_backup(&self) -> &[Image] {
        &self.in_backup
    }

    /// Those of the images in the backup, or in a former one, whose names do not tell their originals now.
    pub(super) fn noted(&self) -> &[Noted] {
        &self.noted
    }

    /// Forgets the images that are not to be kept. `keep` is asked for those in the backup first: they are what runs.
    pub(super) fn keep_images(&mut self, mut keep: impl FnMut(&Image, Place) -> bool) {
        let mut left_out = 0_u32;
        for (images, place) in [
            (&mut self.in_backup, Place::Backup),
            (&mut self.originals, Place::Upstream),
        ] {
            let all = std::mem::take(images).into_vec();
            let count = all.len();
            let kept: Vec<_> = all.into_iter().filter(|image| keep(image, place)).collect();
            let lost = u32::try_from(count.saturating_sub(kept.len())).unwrap_or(u32::MAX);
            left_out = left_out.saturating_add(lost);
            *images = kept.into_boxed_slice();
        }
        self.left_out.beyond_namespace = left_out;
        let originals = &self.originals;
        if let Some(containers) = &mut self.containers {
            containers.retain_images(|image| originals.contains(image));
        }
        let in_backup = &self.in_backup;
        let noted = std::mem::take(&mut self.noted).into_iter();
        self.noted = noted
            .filter(|noted| in_backup.contains(&noted.copy))
            .collect();
    }

    /// Its containers, as far as they matter.
    pub(super) fn containers(&self) -> Option<&Containers> {
        self.containers.as_deref()
    }

    /// Forgets what is noted of the copies for which `keep` says so.
    pub(super) fn keep_noted(&mut self, keep: impl FnMut(&Noted) -> bool) {
        let mut noted = std::mem::take(&mut self.noted).into_vec();
        noted.retain(keep);
        self.noted = noted.into_boxed_slice();
    }

    /// How many of its images are not kept.
    pub(super) fn left_out(&self) -> usize {
        let LeftOut {
            beyond_object,
            beyond_namespace,
        } = self.left_out;
        beyond_object.saturating_add(beyond_namespace) as usize
    }

    /// Whether more of its images would be kept if there was room for them.
    pub(super) fn lacks_room(&self) -> bool {
        self.left_out.beyond_namespace > 0
    }

    /// A copy that it uses in the backup of another installation, which looks after it.
    pub(super) fn other_installation(&self) -> Option<&str> {
        self.facts.other_installation.as_deref()
    }

    /// The names of the pull Secret that it lists.
    pub(super) fn secret_names(&self) -> SecretNames {
        self.facts.secret_names
    }

    /// Whether it is to list the present pull Secret instead of a former one.
    pub(super) fn has_outdated_secret(&self) -> bool {
        self.facts.has_outdated_secret
    }

    /// Whether it lists any pull Secret.
    pub(super) fn lists_secrets(&self) -> bool {
        self.facts.lists_secrets
    }

    /// Whether it is of a kind and in a state in which another admission could rewrite it.
    pub(super) fn is_candidate(&self) -> bool {
        let is_outdated = self.facts.has_outdated_secret || is_outdated(&self.noted);
        self.facts.is_candidate && (is_outdated || !self.originals.is_empty())
    }

    /// Whether a controller owns it.
    pub(super) fn is_owned(&self) -> bool {
        self.facts.is_owned
    }

    /// Whether its Pods are left alone, because of its controller.
    pub(super) fn is_skipped(&self) -> bool {
        self.facts.is_skipped
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Notes in which list it was told last.
    pub(super) fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// Whether nothing but the list differs, in which it was told.
    pub(super) fn means_the_same(&self, other: &Self) -> bool {
        self.facts == other.facts
    }
}

/// Images of one object that are kept: nobody needs more, and its author must not choose how much memory they take.
const MAX_IMAGES: usize = 256;

fn each_once(mut images: Vec<Image>) -> Vec<Image> {
    images.sort_unstable();
    images.dedup();
    images
}

/// Whether there are copies under former names.
fn is_outdated(noted: &[Noted]) -> bool {
    noted.iter().any(|noted| !noted.is_present)
}

/// The original of `image`, written as `text`, and whether that is where copies are now. `None` if its name tells its
/// original, or if nothing does.
///
/// The author of the workload can forge its annotation. That only names an original, which is copied like any other that a
/// workload names.
fn noted_original(
    workload: &Workload,
    rules: &Rules,
    text: &str,
    image: &ImageRef<'_>,
) -> Option<(ImageRef<'static>, bool)> {
    let is_known = rules.backup.contains(image) || rules.former_backups.contains(image);
    if !is_known || rules.backup.original(image).is_some() {
        return None;
    }
    let written = workload.originals.iter();
    let written = written.filter(|(copy, _)| copy == text);
    let annotated = written.filter_map(|(_, original)| ImageRef::parse(original).ok());
    let mut annotated =
        annotated.filter(|original| Backup::any_relation(image, original).is_some());
    let original = match annotated.next() {
        Some(original) => original.into_owned(),
        None => rules.former_backups.original(image)?,
    };
    if rules.backup.contains(&original) {
        return None;
    }
    let is_present = rules.backup.relation(image, &original).is_some();
    Some((original.without_redundant_tag(), is_present))
}

fn hash_of(
    originals: &[Image],
    in_backup: &[Image],
    noted: &[Noted],
    containers: Option<&Containers>,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    (originals, in_backup, noted, containers).hash(&mut hasher);
    hasher.finish()
}
