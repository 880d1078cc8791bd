//! The users of each image.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use mirror_contract::ImageRef;

use super::limits::Amounts;
use crate::cluster::workload::Key;

/// An image in its normal form, without the tag if it is pinned to a digest. All its users share it.
pub type Image = Arc<ImageRef<'static>>;

/// The users of each image that has any.
#[derive(Debug, Default)]
pub(super) struct ImageUsers {
    by_image: BTreeMap<Image, Users>,
    amounts: Amounts,
}

#[derive(Debug)]
struct Users {
    /// The key of this entry again: a lookup with a borrowed reference does not return the key as an `Arc`.
    image: Image,
    keys: BTreeSet<Arc<Key>>,
    /// Those that no controller owns.
    top_level: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageUse<'a> {
    pub image: &'a Image,
    /// Objects that use it: workloads, the objects that controllers created for them, and Pods.
    pub users: usize,
    /// The first of them in the order of [`WorkloadKind`](crate::cluster::workload_kind::WorkloadKind).
    pub example: &'a Key,
}

impl ImageUsers {
    pub(super) fn shared(&self, image: &ImageRef<'_>) -> Option<Image> {
        self.get(image).map(|users| Arc::clone(&users.image))
    }

    pub(super) fn amounts(&self) -> Amounts {
        self.amounts
    }

    /// Returns what another use of `image` adds to the amounts.
    pub(super) fn addition(&self, image: &Image) -> Amounts {
        Amounts::image(image, !self.by_image.contains_key(image))
    }

    pub(super) fn add(&mut self, image: &Image, user: &Arc<Key>, is_top_level: bool) {
        let addition = self.addition(image);
        let users = self.by_image.entry(Arc::clone(image));
        let users = users.or_insert_with(|| Users {
            image: Arc::clone(image),
            keys: BTreeSet::new(),
            top_level: 0,
        });
        if users.keys.insert(Arc::clone(user)) {
            users.top_level += usize::from(is_top_level);
            self.amounts = self.amounts.plus(addition);
        }
    }

    pub(super) fn remove(&mut self, image: &Image, user: &Arc<Key>, is_top_level: bool) {
        let Some(users) = self.by_image.get_mut(image) else {
            return;
        };
        let is_removed = users.keys.remove(user);
        if is_removed && is_top_level {
            users.top_level = users.top_level.saturating_sub(1);
        }
        let is_last = users.keys.is_empty();
        if is_last {
            self.by_image.remove(image);
        }
        if is_removed {
            self.amounts = self.amounts.minus(Amounts::image(image, is_last));
        }
    }

    pub(super) fn users<'a>(&'a self, image: &ImageRef<'a>) -> impl Iterator<Item = &'a Arc<Key>> {
        self.get(image).into_iter().flat_map(|users| &users.keys)
    }

    pub(super) fn count(&self, image: &ImageRef<'_>) -> usize {
        self.get(image).map_or(0, |users| users.keys.len())
    }

    /// Returns how many users no controller owns.
    pub(super) fn top_level(&self, image: &ImageRef<'_>) -> usize {
        self.get(image).map_or(0, |users| users.top_level)
    }

    /// Returns the images from `start` in their order, each with its first user.
    pub(super) fn from<'a>(
        &'a self,
        start: Bound<&ImageRef<'static>>,
    ) -> impl Iterator<Item = (&'a Image, &'a Key)> + use<'a> {
        self.by_image
            .range::<ImageRef<'static>, _>((start, Bound::Unbounded))
            .filter_map(|(image, users)| Some((image, &**users.keys.first()?)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = ImageUse<'_>> {
        self.by_image.values().filter_map(|users| {
            Some(ImageUse {
                image: &users.image,
                users: users.keys.len(),
                example: users.keys.first()?,
            })
        })
    }

    fn get<'a>(&'a self, image: &ImageRef<'a>) -> Option<&'a Users> {
        let map: &BTreeMap<Arc<ImageRef<'a>>, Users> = &self.by_image;
        map.get(image)
    }
}
