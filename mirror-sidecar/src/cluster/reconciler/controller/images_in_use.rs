//! The images in use, derived from the index: originals, and the originals of copies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mirror_contract::{Backup, ImageRef};
use tokio::time::Instant;

use super::Controller;
use crate::cluster::index::{Image, ImageUse};
use crate::cluster::policies::CopyClaim;
use crate::cluster::reconciler::image_state::{ImageState, Maintenance, Owner};
use crate::cluster::reconciler::rate_limits::{BURST, CHECK_SPACING};
use crate::cluster::reconciler::recheck_schedule::{Clock, Phase};
use crate::cluster::shared_index::SharedIndex;

/// Images in use by the name of the original, or by their own name if the original is unknown.
pub(in crate::cluster) type ImagesInUse = BTreeMap<Image, Use>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Use {
    /// By its own name, by names of its copies, or both.
    Original {
        /// The names of its copies that are in use.
        copies: Vec<Image>,
        /// The strongest one.
        claim: CopyClaim,
    },
    /// An image in the backup that is no copy, or whose original is unknown.
    Foreign,
}

/// The images in the backup that workloads name with one claim.
#[derive(Debug)]
pub(in crate::cluster::reconciler) struct NamedCopies {
    pub claim: CopyClaim,
    pub in_backup: Vec<Image>,
    /// The pairs of copy and original that annotations record.
    pub annotated: Vec<(Image, Image)>,
}

/// Returns the images in use of one backup.
pub(in crate::cluster) fn images_in_index(
    cluster: &SharedIndex,
    backup: &Backup,
    is_default: bool,
) -> ImagesInUse {
    let (originals, named) = cluster.read(|index| {
        let image = |image: ImageUse<'_>| Arc::clone(image.image);
        // Anybody can name an image in any backup. In a backup that the rules of the namespace do not use, nothing is checked or
        // written for it.
        let claims = CopyClaim::ALL.into_iter();
        let claims = claims.filter(|claim| is_default || *claim != CopyClaim::Barred);
        let named = claims.map(|claim| {
            let annotated = index.opaque_copies(claim);
            let annotated = annotated.map(|(copy, image)| (Arc::clone(copy), Arc::clone(image)));
            NamedCopies {
                claim,
                in_backup: index.images_in_backup(claim).map(image).collect(),
                annotated: annotated.collect(),
            }
        });
        (index.images().map(image).collect(), named.collect())
    });
    images_in_use(originals, named, backup)
}

/// Derives the images in use from the images that workloads name: `originals`, and those in the backup.
///
/// A rewritten workload names copies only. Their originals must be known, or a lost copy could not be made again.
pub(in crate::cluster::reconciler) fn images_in_use(
    originals: Vec<Image>,
    named: Vec<NamedCopies>,
    backup: &Backup,
) -> ImagesInUse {
    let unused = |claim| Use::Original {
        copies: Vec::new(),
        claim,
    };
    let originals = originals.into_iter();
    let mut images_in_use: ImagesInUse = originals
        .map(|image| (image, unused(CopyClaim::Wanted)))
        .collect();
    let mut add = |original: Image, copy: Image, new: CopyClaim| {
        let entry = images_in_use.entry(original).or_insert_with(|| unused(new));
        if let Use::Original { copies, claim } = entry {
            if new == CopyClaim::Barred && *claim != new {
                // What others name must not change what is reported to those whose rules use the backup.
                return;
            }
            *claim = new.min(*claim);
            if !copies.contains(&copy) {
                copies.push(copy);
            }
        }
    };
    let mut foreign = Vec::new();
    let annotated = named.iter().flat_map(|named| &named.annotated);
    let annotated: BTreeSet<_> = annotated.map(|(copy, _)| Arc::clone(copy)).collect();
    for named in named {
        let claim = named.claim;
        for copy in named.in_backup {
            match original_of(&copy, backup) {
                Some(original) => add(Arc::new(original), copy, claim),
                None if annotated.contains(&copy) => {}
                // Nobody must learn whether it is there.
                None if claim == CopyClaim::Barred => {}
                None => foreign.push(copy),
            }
        }
        for (copy, original) in named.annotated {
            add(original, copy, claim);
        }
    }
    images_in_use.extend(foreign.into_iter().map(|image| (image, Use::Foreign)));
    images_in_use
}

/// The original of `copy`, if the name of its copy is `copy`.
fn original_of(copy: &ImageRef<'static>, backup: &Backup) -> Option<ImageRef<'static>> {
    Some(backup.original(copy)?.without_redundant_tag())
}

/// Returns whether one of the `copies` of `image` has the name that its copy has now.
fn has_current_name(backup: &Backup, image: &Image, copies: &[Image]) -> bool {
    let mut copies = copies.iter();
    copies.any(|copy| backup.relation(copy, image).is_some() || backup.original(copy).is_some())
}

/// Returns what is done for a copy. Everybody may pull from the default backup who ever could, so a copy that got lost there
/// is restored for namespaces that the rules have left behind.
fn maintenance(claim: CopyClaim) -> Maintenance {
    match claim {
        CopyClaim::Wanted => Maintenance::Full,
        CopyClaim::Allowed => Maintenance::NoNewCopies,
        CopyClaim::Barred => Maintenance::Barred,
    }
}

impl Controller {
    /// Adds and removes images, and sets their owners.
    pub(super) fn sync_images(&mut self, now: Instant) {
        self.sync_at = None;
        self.ctx.report_left_out();
        self.ctx.lookup.budgets().share(self.ctx.replicas.live());
        let backup = self.ctx.lookup.backup().clone();
        let is_default = self.ctx.lookup.name().is_default();
        let images_in_use = images_in_index(&self.ctx.cluster, &backup, is_default);
        self.images.retain(|image, _| {
            let stays = images_in_use.contains_key(image);
            if !stays {
                self.work_queue.forget(image);
            }
            stays
        });
        let copy_status = &self.ctx.copy_status;
        copy_status.retain(|image| images_in_use.contains_key(image));
        let hosts: BTreeSet<_> = images_in_use.keys().map(|image| image.host()).collect();
        self.hosts.keep(|host| hosts.contains(host));
        let mut new = 0;
        for (image, usage) in images_in_use {
            let (owner, copies, claim) = match usage {
                Use::Foreign => (Owner::Foreign, Vec::new(), CopyClaim::Allowed),
                Use::Original { copies, claim } => {
                    let is_ours = self.ctx.owns(&image);
                    let owner = if is_ours { Owner::Ours } else { Owner::Others };
                    (owner, copies, claim)
                }
            };
            let maintenance = maintenance(claim);
            let is_named_as_copy = has_current_name(&backup, &image, &copies);
            let clock = self.recheck_schedule.at(now);
            if let Some(state) = self.images.get_mut(&image) {
                state.set_owner(owner, clock);
                let is_maintained_otherwise = state.set_maintenance(maintenance, now);
                if state.is_copying() {
                    // A namespace may have begun to use it.
                    let namespaces = self.ctx.namespaces(&image, &copies);
                    self.ctx.lookup.join_in_use(&image, namespaces);
                }
                let have_changed = state.set_copies(copies, is_named_as_copy);
                self.work_queue.set(&image, state);
                if have_changed || is_maintained_otherwise || state.has_report(now) {
                    self.changed.insert(image);
                }
            } else {
                // A single new image need not wait; a crowd is spread.
                let first = now + CHECK_SPACING * u32::saturating_sub(new, BURST);
                new = new.saturating_add(1);
                let mut state = self.new_state(&image, owner, first, clock);
                state.set_copies(copies, is_named_as_copy);
                state.set_maintenance(maintenance, now);
                self.work_queue.set(&image, &state);
                self.changed.insert(Arc::clone(&image));
                self.images.insert(image, state);
            }
        }
    }

    fn new_state(
        &self,
        image: &Image,
        owner: Owner,
        first: Instant,
        clock: Clock<'_>,
    ) -> ImageState {
        let mut state = ImageState::new(Phase::of(image), owner, first, clock);
        if image.digest().is_some() {
            state = state.named_by_digest();
        }
        match self.ctx.lookup.backup().target(image) {
            Err(error) if owner != Owner::Foreign => state.never_mirrored(&error.to_string()),
            _ => state,
        }
    }
}
