//! The images in use: originals, and the originals of copies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mirror_contract::{Backup, ImageRef};

use crate::cluster::index::Image;

/// Images in use by the name of the original, or by their own name if the original is unknown.
pub(super) type ImagesInUse = BTreeMap<Image, Use>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// By its own name, by names of its copies, or both.
    Original {
        /// The names of its copies that are in use.
        copies: Vec<Image>,
    },
    /// An image in the backup that is no copy, or whose original is unknown.
    Foreign,
}

/// Derives the images in use from the images that workloads name: `originals`, those `in_backup`, and the pairs of copy and
/// original that annotations record (`noted`).
///
/// A rewritten workload names copies only. Their originals must be known, or a lost copy could not be made again.
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

/// The original of `copy`, if the name of its copy is `copy`.
fn original_of(copy: &ImageRef<'static>, backup: &Backup) -> Option<ImageRef<'static>> {
    Some(backup.original(copy)?.without_redundant_tag())
}
