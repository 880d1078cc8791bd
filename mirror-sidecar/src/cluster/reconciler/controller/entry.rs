//! An image in use with its users, who are told what became of it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::events::Notice;
use crate::cluster::index::Image;
use crate::cluster::reconciler::Reconciler;
use crate::cluster::reconciler::conditions::{Condition, top_level};
use crate::cluster::reconciler::image_state::{ImageState, Owner};
use crate::cluster::replicas::Replicas;

/// One image in use, and what goes with it.
pub(super) struct Entry {
    pub(super) item: ImageState,
    /// Other names by which it is used.
    pub(super) copies: Vec<Image>,
}

/// Whether this replica looks after the image.
pub(super) fn is_ours(replicas: &Replicas, image: &Image) -> bool {
    replicas.owns(&format!("image/{image}"))
}

/// Users of an image that are searched for namespaces.
const MAX_USERS: usize = 4096;

/// Namespaces of an image that the queue is told.
const MAX_NAMESPACES: usize = 16;

/// The namespaces that use an image or one of its copies, as many as the queue counts.
pub(super) fn namespaces(with: &Reconciler, image: &Image, copies: &[Image]) -> Vec<Arc<str>> {
    with.cluster.read(|index| {
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
    /// Whether the users of the image must know something, of which they may have been told already.
    pub(super) fn has_something_to_tell(&self, now: Instant) -> bool {
        self.item.has_news(now) || self.item.alarm(now).is_some()
    }

    /// Tells the users of the image what they must know. Who was told is known to [`Events`](crate::cluster::Events).
    pub(super) fn tell(&self, with: &Reconciler, image: &Image, now: Instant) {
        let Some(notice) = self.notice(&with.replicas, image, now) else {
            return;
        };
        let names = std::iter::once(image).chain(&self.copies);
        let users = with.cluster.read(|index| top_level(index, names));
        let mut is_news = false;
        for user in users {
            is_news |= with.events.tell(user, notice.clone());
        }
        if is_news {
            log(&notice, self.item.has_failed_copy());
        }
    }

    fn notice(&self, replicas: &Replicas, image: &Image, now: Instant) -> Option<Notice> {
        // An image of nobody has no owner that would know more; one replica tells.
        let is_told_here = match self.item.owner() {
            Owner::Ours => true,
            Owner::Others => false,
            Owner::Foreign => is_ours(replicas, image),
        };
        if !is_told_here {
            return None;
        }
        let name = || image.to_string();
        match self.item.alarm(now) {
            Some(Condition::NotMirrored(reason)) => Some(Notice::NotMirrored {
                image: name(),
                reason,
            }),
            Some(Condition::Lost) => Some(Notice::ImageLost { image: name() }),
            Some(Condition::LastCopy) => Some(Notice::LastCopy { image: name() }),
            None => self
                .item
                .has_news(now)
                .then(|| Notice::Mirrored { image: name() }),
        }
    }
}

/// `has_failed_copy`: the queue has logged why there is no copy.
fn log(notice: &Notice, has_failed_copy: bool) {
    match notice {
        Notice::NotMirrored { image, reason } if has_failed_copy => {
            tracing::debug!(image, reason, "an image in use is not mirrored");
        }
        Notice::NotMirrored { image, reason } => {
            tracing::warn!(image, reason, "an image in use is not mirrored");
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
