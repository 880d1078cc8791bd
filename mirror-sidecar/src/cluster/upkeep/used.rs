//! What is in use: originals, and copies that stand for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mirror_contract::{Backup, ImageRef};

use crate::cluster::model::Image;

/// The images in use by the name of the original, or their own if the original is not known.
pub(super) type Used = BTreeMap<Image, Use>;

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

/// What is in use, if workloads name these `originals`, and these images that are `in_backup`.
///
/// After the policy rewrote a workload it names copies only. What they were made of must be known all the same, or a copy
/// that is lost would never be made again.
pub(super) fn used(originals: Vec<Image>, in_backup: Vec<Image>, backup: &Backup) -> Used {
    let mut used: Used = originals
        .into_iter()
        .map(|image| (image, Use::Original { copies: Vec::new() }))
        .collect();
    for copy in in_backup {
        match original_of(&copy, backup) {
            None => _ = used.insert(copy, Use::Foreign),
            Some(original) => {
                let entry = used.entry(Arc::new(original));
                let entry = entry.or_insert_with(|| Use::Original { copies: Vec::new() });
                if let Use::Original { copies } = entry {
                    copies.push(copy);
                }
            }
        }
    }
    used
}

/// The image that `copy` was made of, if its copy would really have that name.
fn original_of(copy: &ImageRef<'static>, backup: &Backup) -> Option<ImageRef<'static>> {
    let original = backup.source(copy)?.without_redundant_tag().into_owned();
    let is_copy = !backup.contains(&original)
        && backup
            .target(&original)
            .is_ok_and(|target| target.path() == copy.path());
    is_copy.then_some(original)
}
