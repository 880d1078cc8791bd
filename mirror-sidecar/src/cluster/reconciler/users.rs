//! Users of the images in use: reports to them, and the limits of their namespaces.

use std::iter::once;
use std::sync::Arc;

use tokio::time::Instant;

use super::Reconciler;
use super::image_state::{Condition, ImageState, Owner};
use crate::cluster::events::{About, Notice};
use crate::cluster::index::{Image, Index, User};
use crate::copy_queue::Task;

/// Users of an image that are searched for a namespace with a budget. It takes less than a millisecond.
const MAX_USERS: usize = 10_000;

/// Users of an image that get an Event when there is no budget left.
const MAX_WITHOUT_BUDGET: usize = 64;

/// Users of an image that are searched for namespaces whose turns in the queue it gets, and the most of these.
const MAX_QUEUE_USERS: usize = 4096;
const MAX_QUEUE_NAMESPACES: usize = 16;

/// Users of an image that are considered for reports. Top-level kinds come first.
const MAX_CONSIDERED: usize = 64;

/// Users of an image that get an Event.
const MAX_REPORTED: usize = 10;

impl Reconciler {
    /// Returns whether this replica maintains the image's copy.
    pub(super) fn owns(&self, image: &Image) -> bool {
        self.replicas.owns(&format!("image/{image}"))
    }

    /// The namespaces that use an image or one of its copies; some of them if there are many.
    pub(super) fn namespaces(&self, image: &Image, copies: &[Image]) -> Vec<Arc<str>> {
        self.cluster.read(|index| {
            let mut found: Vec<Arc<str>> = Vec::new();
            for name in once(image).chain(copies) {
                for user in index.users(name, MAX_QUEUE_USERS) {
                    let namespace = &user.key.namespace;
                    if found.len() < MAX_QUEUE_NAMESPACES && !found.contains(namespace) {
                        found.push(Arc::clone(namespace));
                    }
                }
            }
            found
        })
    }

    /// Charges a task to the budget of one of the namespaces that use the image or its `copies`.
    ///
    /// # Errors
    /// The time at which one of them has a budget again, if none has. Their workloads get an Event.
    pub(super) fn take_budget(
        &self,
        image: &Image,
        copies: &[Image],
        task: Task,
        now: Instant,
    ) -> Result<(), Instant> {
        let is_update = match task {
            // Restoring a lost copy costs no budget.
            Task::Restore => return Ok(()),
            Task::Copy => false,
            Task::Update => true,
        };
        let (taken, users) = self.cluster.read(|index| {
            let names = || once(image).chain(copies);
            let namespaces = names().flat_map(|name| index.namespaces_of(name));
            let namespaces = namespaces.take(MAX_USERS);
            let budgets = self.lookup.budgets();
            let taken = budgets.take(image, is_update, namespaces, now);
            let users = names().flat_map(|name| index.users(name, MAX_WITHOUT_BUDGET));
            let about = |User { key, uid, .. }: User<'_>| About::workload(key, uid);
            let users: Vec<_> = match taken {
                Ok(()) => Vec::new(),
                Err(_) => users.take(MAX_WITHOUT_BUDGET).map(about).collect(),
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

    /// Reports namespaces with images or workloads beyond the limits of the index.
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

    /// Reports the condition of an image to its users. [`Events`](crate::cluster::Events) drops repetitions.
    pub(super) fn report(&self, image: &Image, state: &ImageState, now: Instant) {
        let Some(notice) = self.notice(image, state, now) else {
            return;
        };
        let names = once(image).chain(state.copies());
        let users = self.cluster.read(|index| top_level(index, names));
        let mut is_news = false;
        for user in users {
            is_news |= self.events.report(user, notice.clone());
        }
        if is_news {
            let backup = self.lookup.health().backup();
            log(&notice, backup, state.has_failed_copy());
        }
    }

    fn notice(&self, image: &Image, state: &ImageState, now: Instant) -> Option<Notice> {
        // Every replica knows the same about a foreign image; one of them reports it.
        let is_reported_here = match state.owner() {
            Owner::Ours => true,
            Owner::Others => false,
            Owner::Foreign => self.owns(image),
        };
        if !is_reported_here {
            return None;
        }
        let image = || image.to_string();
        Some(match state.condition(now) {
            Some(Condition::NotMirrored(reason)) => Notice::NotMirrored {
                image: image(),
                reason,
            },
            Some(Condition::Lost) => Notice::ImageLost { image: image() },
            Some(Condition::LastCopy) => Notice::LastCopy { image: image() },
            None if state.is_newly_mirrored(now) => Notice::Mirrored { image: image() },
            None => return None,
        })
    }
}

/// The users of an image by any of its names: objects that people manage or, if there are none, those of controllers.
pub(super) fn top_level<'a>(index: &Index, names: impl Iterator<Item = &'a Image>) -> Vec<About> {
    let mut managed_by_people = Vec::new();
    let mut owned = Vec::new();
    for name in names {
        for User { key, uid, is_owned } in index.users(name, MAX_CONSIDERED) {
            let list = if is_owned {
                &mut owned
            } else {
                &mut managed_by_people
            };
            let about = About::workload(key, uid);
            if list.len() < MAX_REPORTED && !list.contains(&about) {
                list.push(about);
            }
        }
    }
    if managed_by_people.is_empty() {
        owned
    } else {
        managed_by_people
    }
}

/// With `has_failed_copy`, the queue has logged the reason already.
fn log(notice: &Notice, backup: Option<&str>, has_failed_copy: bool) {
    match notice {
        Notice::NotMirrored { image, reason } if has_failed_copy => {
            tracing::debug!(image, backup, reason, "image in use is not mirrored");
        }
        Notice::NotMirrored { image, reason } => {
            tracing::warn!(image, backup, reason, "image in use is not mirrored");
        }
        Notice::LastCopy { image } => tracing::warn!(
            image,
            backup,
            "the original of an image in use is gone; the copy is the last one"
        ),
        Notice::ImageLost { image } => tracing::warn!(
            image,
            backup,
            "neither the original nor the copy of an image in use is there; Pods that have to pull it cannot start; \
             restore the copy or change the image"
        ),
        // The copy itself was logged.
        _ => {}
    }
}
