//! An image in use, and the reports to its users.

use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::events::Notice;
use crate::cluster::index::Image;
use crate::cluster::reconciler::Reconciler;
use crate::cluster::reconciler::conditions::{Condition, top_level};
use crate::cluster::reconciler::image_state::{ImageState, Owner};
use crate::cluster::replicas::Replicas;

/// One image in use.
pub(super) struct Entry {
    pub(super) state: ImageState,
    /// Other names by which it is used.
    pub(super) copies: Vec<Image>,
}

/// Whether this replica maintains the image's copy.
pub(super) fn is_ours(replicas: &Replicas, image: &Image) -> bool {
    replicas.owns(&format!("image/{image}"))
}

/// Users of an image that are searched for namespaces.
const MAX_USERS: usize = 4096;

/// Namespaces of an image that are passed to the queue.
const MAX_NAMESPACES: usize = 16;

/// The namespaces that use an image or one of its copies, at most [`MAX_NAMESPACES`].
pub(super) fn namespaces(ctx: &Reconciler, image: &Image, copies: &[Image]) -> Vec<Arc<str>> {
    ctx.cluster.read(|index| {
        let mut found: Vec<Arc<str>> = Vec::new();
        for name in std::iter::once(image).chain(copies) {
            for user in index.users(name, MAX_USERS) {
                let namespace = &user.key.namespace;
                if found.len() < MAX_NAMESPACES && !found.contains(namespace) {
                    found.push(Arc::clone(namespace));
                }
            }
        }
        found
    })
}

impl Entry {
    /// Whether there is something to report, which may have been reported already.
    pub(super) fn has_report(&self, now: Instant) -> bool {
        self.state.is_newly_mirrored(now) || self.state.condition(now).is_some()
    }

    /// Reports to the users of the image. [`Events`](crate::cluster::Events) drops what was reported already.
    pub(super) fn report(&self, ctx: &Reconciler, image: &Image, now: Instant) {
        let Some(notice) = self.notice(&ctx.replicas, image, now) else {
            return;
        };
        let names = std::iter::once(image).chain(&self.copies);
        let users = ctx.cluster.read(|index| top_level(index, names));
        let mut is_news = false;
        for user in users {
            is_news |= ctx.events.report(user, notice.clone());
        }
        if is_news {
            log(&notice, self.state.has_failed_copy());
        }
    }

    fn notice(&self, replicas: &Replicas, image: &Image, now: Instant) -> Option<Notice> {
        // Every replica knows the same about a foreign image; one of them reports it.
        let is_reported_here = match self.state.owner() {
            Owner::Ours => true,
            Owner::Others => false,
            Owner::Foreign => is_ours(replicas, image),
        };
        if !is_reported_here {
            return None;
        }
        let name = || image.to_string();
        match self.state.condition(now) {
            Some(Condition::NotMirrored(reason)) => Some(Notice::NotMirrored {
                image: name(),
                reason,
            }),
            Some(Condition::Lost) => Some(Notice::ImageLost { image: name() }),
            Some(Condition::LastCopy) => Some(Notice::LastCopy { image: name() }),
            None => self
                .state
                .is_newly_mirrored(now)
                .then(|| Notice::Mirrored { image: name() }),
        }
    }
}

/// With `has_failed_copy`, the queue has logged the reason already.
fn log(notice: &Notice, has_failed_copy: bool) {
    match notice {
        Notice::NotMirrored { image, reason } if has_failed_copy => {
            tracing::debug!(image, reason, "image in use is not mirrored");
        }
        Notice::NotMirrored { image, reason } => {
            tracing::warn!(image, reason, "image in use is not mirrored");
        }
        Notice::LastCopy { image } => tracing::warn!(
            image,
            "the original of an image in use is gone; the copy is the last one"
        ),
        Notice::ImageLost { image } => tracing::warn!(
            image,
            "neither the original nor the copy of an image in use is there; Pods that have to pull it cannot start; \
             restore the copy or change the image"
        ),
        // The copy itself was logged.
        _ => {}
    }
}
