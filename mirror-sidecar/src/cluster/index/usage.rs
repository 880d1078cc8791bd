//! The queries of the status: who uses an image, and which images are not copied.

use std::collections::BTreeMap;
use std::iter::once;
use std::ops::Bound;
use std::sync::Arc;

use mirror_contract::ImageRef;

use super::Index;
use super::excluded_images::Exclusion;
use super::image_users::Image;
use super::queries::User;
use crate::cluster::workload::Key;

/// Users of one image that are considered for a list of some of them. Top-level kinds come first.
const MAX_CONSIDERED: usize = 512;

/// The users of an image: objects that people manage or, if there are none, those of controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub total: usize,
    /// The first of them, in their order.
    pub first: Vec<Key>,
}

impl Index {
    /// Returns the users of an image, by its own name and by the names of its `copies`, with the first `limit` of them. With a
    /// namespace, only these are listed; all are counted.
    #[must_use]
    pub fn usage(
        &self,
        image: &Image,
        copies: &[Image],
        namespace: Option<&str>,
        limit: usize,
    ) -> Usage {
        let (mut top_level, mut all) = (0_usize, 0_usize);
        let (mut first, mut owned) = (Vec::new(), Vec::new());
        for name in once(image).chain(copies) {
            for users in [&self.originals, &self.rewritten]
                .into_iter()
                .chain(self.copies.readable())
            {
                top_level += users.top_level(name);
                all += users.count(name);
                for key in users.users(name).take(MAX_CONSIDERED) {
                    let is_owned = self.workloads.get(key).is_some_and(super::Entry::is_owned);
                    let list = if is_owned { &mut owned } else { &mut first };
                    let is_here = namespace.is_none_or(|namespace| *key.namespace == *namespace);
                    if is_here && list.len() < limit && !list.contains(key) {
                        list.push(Arc::clone(key));
                    }
                    if first.len() >= limit {
                        break;
                    }
                }
            }
        }
        let total = if top_level > 0 { top_level } else { all };
        let list = if first.is_empty() { owned } else { first };
        Usage {
            total,
            first: list.iter().map(|key| Key::clone(key)).collect(),
        }
    }

    /// Returns whether a workload of the namespace uses this image.
    #[must_use]
    pub fn is_used_in(&self, namespace: &str, image: &Image) -> bool {
        self.namespaces.uses_image(namespace, image)
    }

    /// Returns the namespaces that exist or in which workloads exist, in their order.
    #[must_use]
    pub fn namespace_names(&self) -> Vec<Arc<str>> {
        self.namespaces.names().cloned().collect()
    }

    /// Returns the images that workloads of a namespace use.
    pub fn images_in(&self, namespace: &str) -> impl Iterator<Item = &Image> {
        self.namespaces.images(namespace)
    }

    /// Returns the originals from `start` that rewrites replace, in their order, each with its first user and the image in the
    /// target that the rules choose for that now.
    pub fn rewritten_from<'a>(
        &'a self,
        start: Bound<&ImageRef<'static>>,
    ) -> impl Iterator<Item = (&'a Image, User<'a>, Option<ImageRef<'static>>)> + use<'a> {
        let policies = self.policies().current();
        self.rewritten.from(start).filter_map(move |(image, key)| {
            let entry = self.workloads.get(key)?;
            let target = policies.rewritten(entry.rewriting(), &key.namespace, image);
            let user = User {
                key,
                uid: entry.uid(),
                is_owned: entry.is_owned(),
            };
            Some((image, user, target))
        })
    }

    /// Returns the images from `start` that are not copied for some workloads, in their order, each with these.
    pub fn excluded_from<'a>(
        &'a self,
        start: Bound<&ImageRef<'static>>,
    ) -> impl Iterator<Item = (&'a Image, &'a BTreeMap<Arc<Key>, Exclusion>)> + use<'a> {
        self.excluded_images.from(start)
    }

    /// Returns how many uses of such images were left out since the start, because there are too many.
    #[must_use]
    pub fn excluded_left_out(&self) -> u64 {
        self.excluded_images.left_out()
    }
}
