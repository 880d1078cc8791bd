//! The users of each image.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mirror_contract::ImageRef;

use super::entry::Image;
use crate::cluster::workload::Key;

/// The users of each image. An image without users is not in it.
#[derive(Debug, Default)]
pub(super) struct Uses(BTreeMap<Image, Users>);

#[derive(Debug)]
struct Users {
    /// The key of this entry once more: a look-up with a borrowing reference does not give the key as what it is.
    image: Image,
    keys: BTreeSet<Arc<Key>>,
}

/// An image in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageUse<'a> {
    /// The image, without the tag if it is pinned to a digest.
    pub image: &'a Image,
    /// How many objects use it: workloads, what controllers made of them, and Pods.
    pub users: usize,
    /// One of them, of the most interesting kind.
    pub example: &'a Key,
}

impl Uses {
    /// The image as its users share it.
    pub(super) fn shared(&self, image: &ImageRef<'_>) -> Option<Image> {
        self.get(image).map(|users| Arc::clone(&users.image))
    }

    pub(super) fn add(&mut self, image: &Image, user: &Arc<Key>) {
        let users = self.0.entry(Arc::clone(image)).or_insert_with(|| Users {
            image: Arc::clone(image),
            keys: BTreeSet::new(),
        });
        users.keys.insert(Arc::clone(user));
    }

    pub(super) fn remove(&mut self, image: &Image, user: &Arc<Key>) {
        if let Some(users) = self.0.get_mut(image) {
            users.keys.remove(user);
            if users.keys.is_empty() {
                self.0.remove(image);
            }
        }
    }

    /// The users of `image`, in their order.
    pub(super) fn users<'a>(&'a self, image: &ImageRef<'a>) -> impl Iterator<Item = &'a Arc<Key>> {
        self.get(image).into_iter().flat_map(|users| &users.keys)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = ImageUse<'_>> {
        self.0.values().filter_map(|users| {
            Some(ImageUse {
                image: &users.image,
                users: users.keys.len(),
                example: users.keys.first()?,
            })
        })
    }

    fn get<'a>(&'a self, image: &ImageRef<'a>) -> Option<&'a Users> {
        let map: &BTreeMap<Arc<ImageRef<'a>>, Users> = &self.0;
        map.get(image)
    }
}
