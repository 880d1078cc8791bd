//! What namespaces may have: the budget of new images, and what is not looked after because it is too much.

use std::iter::once;

use tokio::time::Instant;

use super::Reconciler;
use crate::cluster::events::{About, Notice};
use crate::cluster::index::{Image, Index, User};

/// Users of an image that are looked at to find a namespace with a budget. It takes less than a millisecond.
const MAX_USERS: usize = 10_000;

/// Users of an image among whom namespaces are told that they have no budget left.
const MAX_TOLD: usize = 64;

impl Reconciler {
    /// Takes a new image, which is used by its own name and those of its copies, from the budget of one of its namespaces.
    ///
    /// # Errors
    /// When none of them has one left: the time from which one has. They are told.
    pub(super) fn take_budget(
        &self,
        image: &Image,
        copies: &[Image],
        is_update: bool,
        now: Instant,
    ) -> Result<(), Instant> {
        let (taken, users) = self.cluster.read(|index| {
            let names = || once(image).chain(copies);
            let namespaces = names().flat_map(|name| index.namespaces_of(name));
            let taken =
                self.lookup
                    .budgets()
                    .take(image, is_update, namespaces.take(MAX_USERS), now);
            let users = names().flat_map(|name| index.users(name, MAX_TOLD));
            let about = |User { key, uid, .. }: User<'_>| About::workload(key, uid);
            let users: Vec<_> = match taken {
                Ok(()) => Vec::new(),
                Err(_) => users.take(MAX_TOLD).map(about).collect(),
            };
            (taken, users)
        });
        for user in users {
            let namespace = user.namespace.clone();
            if self.events.tell(user, Notice::NoBudget) {
                tracing::warn!(
                    namespace,
                    "the daily budget of new images is used up; raise --max-new-images-per-namespace or \
                     --max-new-bytes-per-namespace if the images are wanted"
                );
            }
        }
        taken
    }

    /// Tells which namespaces have more than is looked after.
    pub(super) fn report_left_out(&self) {
        let left_out = self.cluster.read(Index::left_out);
        let images = left_out.iter().map(|left_out| left_out.images).sum();
        self.metrics.left_out(images, left_out.len());
        for left_out in left_out {
            let namespace = &left_out.key.namespace;
            if !self.replicas.owns(&format!("namespace/{namespace}")) {
                continue;
            }
            let about = About::workload(&left_out.key, &left_out.uid);
            let notice = Notice::TooMuch {
                images: left_out.images,
                has_workloads: left_out.has_workloads,
            };
            if self.events.tell(about, notice) {
                tracing::warn!(
                    %namespace,
                    images = left_out.images,
                    workloads = left_out.has_workloads,
                    "a namespace has more images or workloads than are looked after; find out what creates them"
                );
            }
        }
    }
}
