//! What is in use: originals, and copies that stand for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mirror_contract::{Backup, ImageRef};

use crate::cluster::index::Image;

/// The images in use by the name of the original, or their own if the original is not known.
pub(super) type ImagesInUse = BTreeMap<Image, Use>;

/// How an image is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// By its own name, or by those of its copies.
    Original {
        /// The names of copies that are used.
        copies: Vec<Image>,
    },
    /// It is in the backup, and nobody can tell of what it is a copy, if it is one.
    Foreign,
}

/// What is in use, if workloads name these `originals`, and these images that are `in_backup`; of some of these, originals are
/// `noted`.
///
/// After the policy rewrote a workload it names copies only. What they were made of must be known all the same, or a copy
/// that is lost would never be made again.
pub(super) fn images_in_use(
    originals: Vec<Image>,
    in_backup: Vec<Image>,
    noted: Vec<(Image, Image)>,
    backup: &Backup,
) -> ImagesInUse {
    let mut images_in_use: ImagesInUse = originals
        .into_iter()
        .map(|image| (image, Use::Original { copies: Vec::new() }))
        .collect();
    let mut add = |original: Image, copy: Image| {
        let entry = images_in_use.entry(original);
        let entry = entry.or_insert_with(|| Use::Original { copies: Vec::new() });
        if let Use::Original { copies } = entry {
            copies.push(copy);
        }
    };
    let mut foreign = Vec::new();
    let are_noted: BTreeSet<_> = noted.iter().map(|(copy, _)| Arc::clone(copy)).collect();
    for copy in in_backup {
        match original_of(&copy, backup) {
            Some(original) => add(Arc::new(original), copy),
            None if are_noted.contains(&copy) => {}
            None => foreign.push(copy),
        }
    }
    for (copy, original) in noted {
        add(original, copy);
    }
    images_in_use.extend(foreign.into_iter().map(|image| (image, Use::Foreign)));
    images_in_use
}

/// The image that `copy` was made of, if its copy would really have that name.
fn original_of(copy: &ImageRef<'static>, backup: &Backup) -> Option<ImageRef<'static>> {
    Some(backup.original(copy)?.without_redundant_tag())
}
