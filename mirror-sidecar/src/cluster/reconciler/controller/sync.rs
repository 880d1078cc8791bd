//! Takes over from the index what is in use.

use std::collections::BTreeSet;
use std::sync::Arc;

use mirror_contract::Backup;
use tokio::time::Instant;

use super::Controller;
use super::entry::{Entry, is_ours, namespaces};
use crate::cluster::index::{Image, ImageUse};
use crate::cluster::reconciler::image_state::{Clock, ImageState, Owner};
use crate::cluster::reconciler::images_in_use::{Use, images_in_use};
use crate::cluster::reconciler::rate_limits::{BURST, LOOK_EVERY};
use crate::cluster::reconciler::recheck_schedule::Phase;

impl Controller {
    /// Takes over what is in use now, and whose it is.
    pub(super) fn read_model(&mut self, now: Instant) {
        self.read_at = None;
        self.with.report_left_out();
        self.with.lookup.budgets().share(self.with.replicas.live());
        let (originals, in_backup, noted) = self.with.cluster.read(|index| {
            let image = |images_in_use: ImageUse<'_>| Arc::clone(images_in_use.image);
            let originals: Vec<_> = index.images().map(image).collect();
            let in_backup: Vec<_> = index.images_in_backup().map(image).collect();
            let noted = index.noted_copies();
            let noted = noted.map(|(copy, original)| (Arc::clone(copy), Arc::clone(original)));
            (originals, in_backup, noted.collect())
        });
        let images_in_use = images_in_use(originals, in_backup, noted, self.with.lookup.backup());
        self.items.retain(|image, _| {
            let stays = images_in_use.contains_key(image);
            if !stays {
                self.work_queue.forget(image);
            }
            stays
        });
        self.with
            .copy_status
            .keep(|image| images_in_use.contains_key(image));
        let hosts: BTreeSet<_> = images_in_use.keys().map(|image| image.host()).collect();
        self.hosts.keep(|host| hosts.contains(host));
        let backup = self.with.lookup.backup().clone();
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
            if let Some(entry) = self.items.get_mut(&image) {
                entry.item.give_to(owner, clock);
                entry
                    .item
                    .set_named_as_copy(are_present(backup, &image, &copies));
                if entry.item.is_copying() {
                    // A namespace may have begun to use it.
                    let namespaces = namespaces(&self.with, &image, &copies);
                    self.with.lookup.join_in_use(&image, namespaces);
                }
                self.work_queue.note(&image, &entry.item);
                if entry.has_something_to_tell(now) || entry.copies != copies {
                    self.changed.insert(image);
                }
                entry.copies = copies;
            } else {
                // Those that come one by one need not wait for a crowd that came at once.
                let first = now + LOOK_EVERY * u32::saturating_sub(new, BURST);
                new = new.saturating_add(1);
                let mut item = self.new_item(&image, owner, first, clock);
                item.set_named_as_copy(are_present(backup, &image, &copies));
                self.work_queue.note(&image, &item);
                self.changed.insert(Arc::clone(&image));
                self.items.insert(image, Entry { item, copies });
            }
        }
    }

    fn new_item(
        &self,
        image: &Image,
        owner: Owner,
        first: Instant,
        clock: Clock<'_>,
    ) -> ImageState {
        let mut item = ImageState::new(Phase::of(image), owner, first, clock);
        if image.digest().is_some() {
            item = item.pinned();
        }
        match self.with.lookup.backup().target(image) {
            Err(error) if owner != Owner::Foreign => item.hopeless(&error.to_string()),
            _ => item,
        }
    }

    fn owner_of(&self, image: &Image) -> Owner {
        if is_ours(&self.with.replicas, image) {
            Owner::Ours
        } else {
            Owner::Others
        }
    }
}

/// Whether one of the `copies` of `image` is where its copy is now.
fn are_present(backup: &Backup, image: &Image, copies: &[Image]) -> bool {
    let mut copies = copies.iter();
    copies.any(|copy| backup.relation(copy, image).is_some() || backup.original(copy).is_some())
}
