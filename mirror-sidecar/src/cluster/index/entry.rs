//! The part of a workload that the index keeps.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use mirror_contract::workload::replaced_original;
use mirror_contract::{Backup, ImageRef};

use super::image_users::Image;
use super::rules::{Rules, SecretNames};
use crate::cluster::login_access::LoginSet;
use crate::cluster::policies::{CopyClaim, Demand, RewritingPolicies};
use crate::cluster::workload::{Life, Workload};
use crate::cluster::workload_kind::WorkloadKind;

/// Images of one object that are kept. No real workload has more, and the author of an object must not choose how much memory
/// it takes.
const MAX_IMAGES: usize = 256;

/// Containers of one object that are kept.
const MAX_CONTAINERS: usize = 256;

#[derive(Clone, Debug)]
pub struct Entry {
    facts: Facts,
    originals: Box<[Image]>,
    in_backup: Box<[UsedCopy]>,
    rewritten: Box<[Image]>,
    opaque: Box<[OpaqueCopy]>,
    containers: Option<Box<Containers>>,
    left_out: LeftOut,
    /// These decide about `rewritten`.
    rewriting: RewritingPolicies,
    /// Number of the list that contained it last.
    epoch: u32,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    uid: Box<str>,
    created: Option<Timestamp>,
    /// A hash of all images, including those that are left out.
    images: u64,
    lists_secrets: bool,
    secret_names: SecretNames,
    /// The logins in whose locations it uses images.
    used_logins: LoginSet,
    /// Uses copies, and lists a former pull Secret instead of the current one.
    has_outdated_secret: bool,
    /// A copy that it uses in the backup of another installation.
    other_installation: Option<Box<str>>,
    is_candidate: bool,
    is_owned: bool,
    is_skipped: bool,
}

/// An image in the backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsedCopy {
    pub image: Image,
    pub claim: CopyClaim,
}

/// A copy whose name does not contain its original.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpaqueCopy {
    pub copy: Image,
    pub claim: CopyClaim,
    /// From the policy's annotation, or from a former name.
    pub original: Image,
    /// It is the current copy of the original, and its name is only shortened, or it moves to another backup.
    pub is_current: bool,
}

impl OpaqueCopy {
    /// Returns whether the current copy replaces it once there is one. Without a rule that sends the original there, nothing may
    /// depend on what the backup contains.
    pub(super) fn is_outdated(&self) -> bool {
        !self.is_current && self.claim == CopyClaim::Wanted
    }
}

/// The containers of a Pod template, or of a Pod, to find those that were injected. Names are kept as hashes: they are compared
/// and never shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Containers {
    /// The names in the template of a workload that creates Pods.
    Template(Box<[u32]>),
    /// The containers of a rewritten Pod that use original images.
    Pod {
        owner: WorkloadKind,
        owner_name: Box<str>,
        originals: Box<[(u32, Image)]>,
    },
}

/// Images that are not kept.
#[derive(Clone, Copy, Debug, Default)]
struct LeftOut {
    /// The object has too many.
    beyond_object: u32,
    /// The namespace or the cluster has too many.
    beyond_namespace: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Upstream,
    Backup(CopyClaim),
    /// Upstream, and in the target of a rewrite.
    Target,
}

/// The images of a workload, by what is kept about them.
#[derive(Debug, Default)]
struct Images {
    originals: Vec<Image>,
    rewritten: Vec<Image>,
    in_backup: Vec<UsedCopy>,
    opaque: Vec<OpaqueCopy>,
    /// Some images are copies in other backups.
    has_copies_elsewhere: bool,
    /// Some images belong into other backups.
    has_originals_elsewhere: bool,
}

impl Images {
    fn of(
        workload: &Workload,
        rules: &Rules,
        demand: &Demand<'_>,
        may_be_rewritten: bool,
        shared: impl Fn(&ImageRef<'_>) -> Option<Image>,
        shared_original: impl Fn(&Image, &ImageRef<'_>) -> Option<Image>,
    ) -> Self {
        let is_exempt = workload.is_exempt || demand.is_nothing();
        let is_of_default = rules.is_of_default();
        let mut images = Self::default();
        for text in &workload.images {
            let Ok(image) = ImageRef::parse(text) else {
                continue;
            };
            let is_elsewhere = rules.other_backups.contain(&image);
            images.has_copies_elsewhere |= is_elsewhere;
            let moves = (!is_exempt).then_some(demand);
            if let Some((original, is_current)) =
                opaque_original(workload, rules, moves, text, &image)
            {
                let claim = demand.claim(Some(&original), rules.backup_name());
                let image = image.without_redundant_tag();
                let copy = shared(&image).unwrap_or_else(|| Arc::new(image.into_owned()));
                let original = shared_original(&copy, &original)
                    .or_else(|| shared(&original))
                    .unwrap_or_else(|| Arc::new(original));
                images.in_backup.push(UsedCopy {
                    image: Arc::clone(&copy),
                    claim,
                });
                images.opaque.push(OpaqueCopy {
                    copy,
                    claim,
                    original,
                    is_current,
                });
                continue;
            }
            if is_elsewhere {
                continue;
            }
            if rules.is_in_backup(&image) {
                let original = rules.original(&image);
                let claim = demand.claim(original.as_ref(), rules.backup_name());
                let image = image.without_redundant_tag();
                let image = shared(&image).unwrap_or_else(|| Arc::new(image.into_owned()));
                images.in_backup.push(UsedCopy { image, claim });
                continue;
            }
            let list = if is_exempt || replaces_copy(workload, rules, text) {
                // It needs the copies of earlier rewrites, but no new ones. The template of a Pod that uses an original in
                // place of a copy still names the copy.
                continue;
            } else if demand.wants(&image, rules.backup_name()) {
                &mut images.originals
            } else if is_of_default && may_be_rewritten && demand.rewrites(&image) {
                &mut images.rewritten
            } else {
                images.has_originals_elsewhere |=
                    is_of_default && demand.wants_only_elsewhere(&image, rules.backup_name());
                continue;
            };
            let image = image.without_redundant_tag();
            list.push(shared(&image).unwrap_or_else(|| Arc::new(image.into_owned())));
        }
        images
    }
}

impl Entry {
    /// Returns the entry of `workload`, which the list `epoch` contained; `None` if nothing of it is kept. Originals that
    /// `demand` does not want in this backup are not kept. `shared` returns the image that other users share, and
    /// `shared_original` the original of an opaque copy that they share.
    pub(super) fn new(
        workload: &Workload,
        rules: &Rules,
        demand: &Demand<'_>,
        used_logins: LoginSet,
        epoch: u32,
        shared: impl Fn(&ImageRef<'_>) -> Option<Image>,
        shared_original: impl Fn(&Image, &ImageRef<'_>) -> Option<Image>,
    ) -> Option<Self> {
        let is_exempt = workload.is_exempt || demand.is_nothing();
        let may_be_rewritten = !is_exempt && is_mutable(workload);
        let excluded = &rules.excluded_namespaces;
        if workload.life == Life::Done || excluded.contains(&workload.key.namespace) {
            return None;
        }
        let is_of_default = rules.is_of_default();
        let Images {
            originals,
            rewritten,
            in_backup,
            mut opaque,
            has_copies_elsewhere,
            has_originals_elsewhere,
        } = Images::of(
            workload,
            rules,
            demand,
            may_be_rewritten,
            shared,
            shared_original,
        );
        let (mut originals, mut in_backup) = (each_once(originals), each_once(in_backup));
        // The same copy can have several originals.
        in_backup.dedup_by(|next, first| next.image == first.image);
        let mut rewritten = each_once(rewritten);
        let other_installation = other_installation(workload, rules);
        if other_installation.is_some() {
            // The other installation copies them.
            originals.clear();
            rewritten.clear();
        }
        let secret_names = if is_of_default {
            SecretNames::of(&workload.pull_secrets, rules)
        } else {
            SecretNames::default()
        };
        let is_skipped = is_of_default && rules.skips(workload);
        let is_used_elsewhere = is_of_default && (has_copies_elsewhere || has_originals_elsewhere);
        let has_copies = has_copies_elsewhere || !in_backup.is_empty();
        if originals.is_empty()
            && rewritten.is_empty()
            && in_backup.is_empty()
            && secret_names.is_empty()
            && (other_installation.is_none() || !is_of_default)
            && !is_used_elsewhere
            && used_logins.is_empty()
            // Its Pods are left alone, even if nothing is copied for it.
            && !is_skipped
        {
            return None;
        }
        let has_outdated_secret =
            rules.pull_secret.is_some() && secret_names.is_outdated() && has_copies;
        let is_candidate = may_be_rewritten
            && other_installation.is_none()
            && (!originals.is_empty()
                || !rewritten.is_empty()
                || has_outdated_secret
                || is_outdated(&opaque));
        opaque.sort_unstable();
        // A pinned copy has one name for all tags that the author can invent.
        opaque.dedup_by(|next, first| next.copy == first.copy);
        let containers = Containers::of(workload, &originals, has_copies)
            .filter(|containers| is_of_default || containers.has_images());
        let images = hash(&(&originals, &in_backup, &rewritten, &opaque, &containers));
        let mut room = MAX_IMAGES;
        let beyond_object = truncate(&mut in_backup, &mut room)
            + truncate(&mut originals, &mut room)
            + truncate(&mut rewritten, &mut room);
        opaque.retain(|opaque| in_backup.iter().any(|used| used.image == opaque.copy));
        let facts = Facts {
            uid: workload.uid.clone(),
            created: workload.created,
            images,
            lists_secrets: !workload.pull_secrets.is_empty(),
            secret_names,
            used_logins,
            has_outdated_secret,
            other_installation: other_installation.filter(|_| is_of_default),
            is_candidate,
            is_owned: workload.is_owned,
            is_skipped,
        };
        Some(Self {
            facts,
            originals: originals.into_boxed_slice(),
            in_backup: in_backup.into_boxed_slice(),
            rewritten: rewritten.into_boxed_slice(),
            opaque: opaque.into_boxed_slice(),
            containers: containers.map(Box::new),
            left_out: LeftOut {
                beyond_object,
                beyond_namespace: 0,
            },
            rewriting: demand.rewriting(),
            epoch,
        })
    }

    /// Returns the uid, empty if it is unknown.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.facts.uid
    }

    #[must_use]
    pub fn created(&self) -> Option<Timestamp> {
        self.facts.created
    }

    /// Returns the images outside the backup, each once, in their order.
    #[must_use]
    pub fn originals(&self) -> &[Image] {
        &self.originals
    }

    /// Returns the images in the backup, each once, in their order.
    #[must_use]
    pub fn in_backup(&self) -> &[UsedCopy] {
        &self.in_backup
    }

    /// Returns the originals that rewrites replace, each once, in their order. They are kept for workloads that another
    /// admission could rewrite.
    pub(super) fn rewritten(&self) -> &[Image] {
        &self.rewritten
    }

    pub(super) fn rewriting(&self) -> RewritingPolicies {
        self.rewriting
    }

    /// Sets the policies that rewrite the workload; returns whether its images may have other targets than before.
    pub(super) fn set_rewriting(&mut self, rewriting: RewritingPolicies) -> bool {
        let is_new = self.rewriting != rewriting;
        self.rewriting = rewriting;
        is_new && !self.rewritten.is_empty()
    }

    pub(super) fn opaque(&self) -> &[OpaqueCopy] {
        &self.opaque
    }

    /// Keeps the images for which `keep` returns `true`. It is called for those in the backup first, which are running.
    pub(super) fn retain_images(&mut self, mut keep: impl FnMut(&Image, Location) -> bool) {
        let before = self.in_backup.len();
        let in_backup = std::mem::take(&mut self.in_backup).into_iter();
        self.in_backup = in_backup
            .filter(|used| keep(&used.image, Location::Backup(used.claim)))
            .collect();
        let removed = before.saturating_sub(self.in_backup.len());
        let mut left_out = u32::try_from(removed).unwrap_or(u32::MAX);
        for (images, location) in [
            (&mut self.originals, Location::Upstream),
            (&mut self.rewritten, Location::Target),
        ] {
            let all = std::mem::take(images).into_vec();
            let count = all.len();
            let kept: Vec<_> = all
                .into_iter()
                .filter(|image| keep(image, location))
                .collect();
            let removed = u32::try_from(count.saturating_sub(kept.len())).unwrap_or(u32::MAX);
            left_out = left_out.saturating_add(removed);
            *images = kept.into_boxed_slice();
        }
        self.left_out.beyond_namespace = left_out;
        let originals = &self.originals;
        if let Some(containers) = &mut self.containers {
            containers.retain_images(|image| originals.contains(image));
        }
        let in_backup = &self.in_backup;
        let opaque = std::mem::take(&mut self.opaque).into_iter();
        self.opaque = opaque
            .filter(|opaque| in_backup.iter().any(|used| used.image == opaque.copy))
            .collect();
    }

    pub(super) fn containers(&self) -> Option<&Containers> {
        self.containers.as_deref()
    }

    pub(super) fn retain_opaque(&mut self, keep: impl FnMut(&OpaqueCopy) -> bool) {
        let mut opaque = std::mem::take(&mut self.opaque).into_vec();
        opaque.retain(keep);
        self.opaque = opaque.into_boxed_slice();
    }

    /// Returns how many images are not kept.
    pub(super) fn left_out(&self) -> usize {
        let LeftOut {
            beyond_object,
            beyond_namespace,
        } = self.left_out;
        beyond_object.saturating_add(beyond_namespace) as usize
    }

    /// Returns whether more images could be kept if the namespace and the cluster had room.
    pub(super) fn lacks_room(&self) -> bool {
        self.left_out.beyond_namespace > 0
    }

    /// Returns a copy that it uses in the backup of another installation.
    pub(super) fn other_installation(&self) -> Option<&str> {
        self.facts.other_installation.as_deref()
    }

    pub(super) fn secret_names(&self) -> SecretNames {
        self.facts.secret_names
    }

    pub(super) fn used_logins(&self) -> LoginSet {
        self.facts.used_logins
    }

    /// Returns whether it should list the current pull Secret instead of a former one.
    pub(super) fn has_outdated_secret(&self) -> bool {
        self.facts.has_outdated_secret
    }

    pub(super) fn lists_secrets(&self) -> bool {
        self.facts.lists_secrets
    }

    /// Returns whether its kind and its state let another admission rewrite it.
    pub(super) fn is_candidate(&self) -> bool {
        let is_outdated = self.facts.has_outdated_secret || is_outdated(&self.opaque);
        let is_replaceable = !self.originals.is_empty() || !self.rewritten.is_empty();
        self.facts.is_candidate && (is_outdated || is_replaceable)
    }

    pub(super) fn is_owned(&self) -> bool {
        self.facts.is_owned
    }

    /// Returns whether its Pods are left alone because of its controller.
    pub(super) fn is_skipped(&self) -> bool {
        self.facts.is_skipped
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// Compares all but the list that contained it and the images that are left out.
    pub(super) fn has_same_content(&self, other: &Self) -> bool {
        self.facts == other.facts
    }
}

impl Containers {
    /// Returns `None` if the containers do not matter. Those of a Pod matter if the policy has rewritten other images of it
    /// (`has_copies`) and its controller is watched.
    fn of(workload: &Workload, originals: &[Image], has_copies: bool) -> Option<Self> {
        let containers = workload.containers.iter().take(MAX_CONTAINERS);
        match workload.key.kind {
            WorkloadKind::Pod => {
                let controller = workload.controller.as_ref()?;
                let owner = WorkloadKind::named(&controller.kind)?;
                if !workload.is_annotated || !has_copies {
                    return None;
                }
                let originals = containers.filter_map(|(name, image)| {
                    let image = ImageRef::parse(image).ok()?.without_redundant_tag();
                    let image = originals.iter().find(|original| ***original == image)?;
                    Some((short_hash(name), Image::clone(image)))
                });
                let originals: Box<[_]> = originals.collect();
                (!originals.is_empty()).then(|| Self::Pod {
                    owner,
                    owner_name: controller.name.clone(),
                    originals,
                })
            }
            // These create no Pods themselves.
            WorkloadKind::Deployment | WorkloadKind::CronJob => None,
            _ => Some(Self::Template(
                containers.map(|(name, _)| short_hash(name)).collect(),
            )),
        }
    }

    pub(super) fn has_images(&self) -> bool {
        matches!(self, Self::Pod { originals, .. } if !originals.is_empty())
    }

    fn retain_images(&mut self, keep: impl Fn(&Image) -> bool) {
        if let Self::Pod { originals, .. } = self {
            let kept = std::mem::take(originals).into_iter();
            *originals = kept.filter(|(_, image)| keep(image)).collect();
        }
    }
}

/// Returns whether another admission could rewrite the object.
fn is_mutable(workload: &Workload) -> bool {
    workload.key.kind.is_mutable() && workload.life == Life::Active && !workload.is_owned
}

/// Returns a copy in the backup of another installation.
fn other_installation(workload: &Workload, rules: &Rules) -> Option<Box<str>> {
    let mut annotated = workload.originals.iter();
    let found = annotated.find(|(copy, original)| rules.is_of_other_installation(copy, original));
    found.map(|(copy, _)| Box::from(copy.as_str()))
}

/// Keeps the first images of a list for which there is `room`; returns how many it removed.
fn truncate<T>(images: &mut Vec<T>, room: &mut usize) -> u32 {
    let removed = images.len().saturating_sub(*room);
    images.truncate(*room);
    *room -= images.len();
    u32::try_from(removed).unwrap_or(u32::MAX)
}

fn each_once<T: Ord>(mut images: Vec<T>) -> Vec<T> {
    images.sort_unstable();
    images.dedup();
    images
}

/// Returns whether a Pod uses this original instead of a copy, because the backup was unavailable when it was created. The
/// template of the Pod still names the copy.
pub(super) fn replaces_copy(workload: &Workload, rules: &Rules, text: &str) -> bool {
    let is_copy = |copy: &str| {
        let original = replaced_original(text, copy).and_then(|text| ImageRef::parse(text).ok());
        let (Some(original), Ok(copy)) = (original, ImageRef::parse(copy)) else {
            return false;
        };
        let is_in_a_backup = rules.is_in_backup(&copy) || rules.other_backups.contain(&copy);
        is_in_a_backup && Backup::any_relation(&copy, &original).is_some()
    };
    let mut annotated = workload.originals.iter();
    workload.key.kind == WorkloadKind::Pod
        && annotated.any(|(image, copy)| image == text && is_copy(copy))
}

/// Returns whether there are copies under former names.
fn is_outdated(opaque: &[OpaqueCopy]) -> bool {
    opaque.iter().any(OpaqueCopy::is_outdated)
}

/// Returns the original of the copy `image`, written as `text`, and whether the copy is the current one. `None` if the name
/// contains the original, if the original is unknown, or if the copy is in another backup and does not move to this one.
///
/// `moves` decides about the backup of the original; `None` if the workload is left alone.
///
/// The author of the workload can forge the annotation. It only names an original, which is copied like any other that a
/// workload uses.
fn opaque_original(
    workload: &Workload,
    rules: &Rules,
    moves: Option<&Demand<'_>>,
    text: &str,
    image: &ImageRef<'_>,
) -> Option<(ImageRef<'static>, bool)> {
    let (own, others) = (rules.backup_name(), &rules.other_backups);
    let holder = others.holder(image);
    let is_here = || rules.is_in_backup(image) && rules.backup.original(image).is_none();
    if holder.is_none() && !is_here() {
        return None;
    }
    let annotated = workload.originals.iter();
    let annotated = annotated.filter(|(copy, _)| copy == text);
    let mut annotated = annotated
        .filter_map(|(_, original)| ImageRef::parse(original).ok())
        .filter(|original| Backup::any_relation(image, original).is_some());
    let original = match annotated.next() {
        Some(original) => original.into_owned(),
        None if holder.is_some() => others.original(image)?,
        None => rules.former_backups.original(image)?,
    };
    if rules.is_in_backup(&original) || others.contain(&original) {
        return None;
    }
    let is_current = match holder {
        Some(holder) if moves?.moves(&original, holder, own) => false,
        // It is where it belongs.
        Some(_) => return None,
        None => {
            // The index of the other backup moves it, with its new name.
            let moves_away =
                || moves.is_some_and(|moves| moves.wants_only_elsewhere(&original, own));
            rules.backup.relation(image, &original).is_some() || moves_away()
        }
    };
    Some((original.without_redundant_tag(), is_current))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
fn short_hash(name: &str) -> u32 {
    hash(&name) as u32
}
