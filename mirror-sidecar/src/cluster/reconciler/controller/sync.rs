//! Syncs the images in use with the index.

use std::collections::BTreeSet;
use std::sync::Arc;

use mirror_contract::Backup;
use tokio::time::Instant;

use super::Controller;
use super::entry::{Entry, is_ours, namespaces};
use crate::cluster::index::{Image, ImageUse};
use crate::cluster::reconciler::image_state::{Clock, ImageState, Owner};
use crate::cluster::reconciler::images_in_use::{Use, images_in_use};
use crate::cluster::reconciler::rate_limits::{BURST, CHECK_SPACING};
use crate::cluster::reconciler::recheck_schedule::Phase;

impl Controller {
    /// Adds and removes images, and sets their owners.
    pub(super) fn sync_images(&mut self, now: Instant) {
        self.sync_at = None;
        self.ctx.report_left_out();
        self.ctx.lookup.budgets().share(self.ctx.replicas.live());
        let (originals, in_backup, noted) = self.ctx.cluster.read(|index| {
            let image = |images_in_use: ImageUse<'_>| Arc::clone(images_in_use.image);
            let originals: Vec<_> = index.images().map(image).collect();
            let in_backup: Vec<_> = index.images_in_backup().map(image).collect();
            let noted = index.noted_copies();
            let noted = noted.map(|(copy, original)| (Arc::clone(copy), Arc::clone(original)));
            (originals, in_backup, noted.collect())
        });
        let images_in_use = images_in_use(originals, in_backup, noted, self.ctx.lookup.backup());
        self.images.retain(|image, _| {
            let stays = images_in_use.contains_key(image);
            if !stays {
                self.work_queue.forget(image);
            }
            stays
        });
        self.ctx
            .copy_status
            .keep(|image| images_in_use.contains_key(image));
        let hosts: BTreeSet<_> = images_in_use.keys().map(|image| image.host()).collect();
        self.hosts.keep(|host| hosts.contains(host));
        let backup = self.ctx.lookup.backup().clone();
        let backup = &backup;
        let mut new = 0;
        for (image, usage) in images_in_use {
            let (owner, copies) = match usage {
                Use::Foreign => (Owner::Foreign, Vec::new()),
                Use::Original { copies } => (self.owner_of(&image), copies),
            };
            let clock = Clock {
                recheck_schedule: &self.recheck_schedule,
                now,
            };
            if let Some(entry) = self.images.get_mut(&image) {
                entry.state.set_owner(owner, clock);
                entry
                    .state
                    .set_named_as_copy(are_present(backup, &image, &copies));
                if entry.state.is_copying() {
                    // A namespace may have begun to use it.
                    let namespaces = namespaces(&self.ctx, &image, &copies);
                    self.ctx.lookup.join_in_use(&image, namespaces);
                }
                self.work_queue.set(&image, &entry.state);
                if entry.has_report(now) || entry.copies != copies {
                    self.changed.insert(image);
                }
                entry.copies = copies;
            } else {
                // A single new image need not wait; a crowd is spread.
                let first = now + CHECK_SPACING * u32::saturating_sub(new, BURST);
                new = new.saturating_add(1);
                let mut state = self.new_state(&image, owner, first, clock);
                state.set_named_as_copy(are_present(backup, &image, &copies));
                self.work_queue.set(&image, &state);
                self.changed.insert(Arc::clone(&image));
                self.images.insert(image, Entry { state, copies });
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

    fn owner_of(&self, image: &Image) -> Owner {
        if is_ours(&self.ctx.replicas, image) {
            Owner::Ours
        } else {
            Owner::Others
        }
    }
}

/// Whether one of the `copies` of `image` has the name that its copy has now.
fn are_present(backup: &Backup, image: &Image, copies: &[Image]) -> bool {
    let mut copies = copies.iter();
    copies.any(|copy| backup.relation(copy, image).is_some() || backup.original(copy).is_some())
}
