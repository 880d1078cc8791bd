//! Limits of namespaces: the budget of new images, and images beyond the limits of the index.

use std::iter::once;

use tokio::time::Instant;

use super::Reconciler;
use crate::cluster::events::{About, Notice};
use crate::cluster::index::{Image, Index, User};

/// Users of an image that are searched for a namespace with a budget. It takes less than a millisecond.
const MAX_USERS: usize = 10_000;

/// Users of an image that get an Event when there is no budget left.
const MAX_REPORTED: usize = 64;

impl Reconciler {
    /// Charges a new image to the budget of one of the namespaces that use it or its `copies`.
    ///
    /// # Errors
    /// The time at which one of them has a budget again, if none has. Their workloads get an Event.
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
            let users = names().flat_map(|name| index.users(name, MAX_REPORTED));
            let about = |User { key, uid, .. }: User<'_>| About::workload(key, uid);
            let users: Vec<_> = match taken {
                Ok(()) => Vec::new(),
                Err(_) => users.take(MAX_REPORTED).map(about).collect(),
            };
            (taken, users)
        });
        for user in users {
            let namespace = user.namespace.clone();
            if self.events.report(user, Notice::NoBudget) {
                tracing::warn!(
                    namespace,
                    "the daily budget of new images is used up; raise --max-new-images-per-namespace or \
                     --max-new-bytes-per-namespace if the images are wanted"
                );
            }
        }
        taken
    }

    /// Reports namespaces with images or workloads beyond the limits.
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
            if self.events.report(about, notice) {
                tracing::warn!(
                    %namespace,
                    images = left_out.images,
                    workloads = left_out.has_workloads,
                    "namespace has more images or workloads than the limits allow; find out what creates them"
                );
            }
        }
    }
}
