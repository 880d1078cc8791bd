//! The size and the platforms of an image, as a check of all its parts sees them.

use super::check_state::Entry;
use oci_spec::image::Digest;
use std::collections::HashMap;

/// Platforms of an image that are kept. Official images have up to ten.
const MAX_PLATFORMS: usize = 32;

/// Blobs of an image whose sizes are added. Their digests are held meanwhile.
const MAX_BLOBS: usize = 4096;

/// The contents of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageContents {
    /// Size of all configs and layers that registries store, in bytes, each counted once.
    pub bytes: u64,
    /// The platforms that its index names, such as `linux/amd64`; empty without an index.
    pub platforms: Box<[Box<str>]>,
}

/// What a check has seen so far.
#[derive(Debug, Default)]
pub(super) struct ContentsSeen {
    blobs: HashMap<Digest, u64>,
    platforms: Vec<Box<str>>,
    /// Something was not read.
    is_partial: bool,
}

impl ContentsSeen {
    /// Records that the blobs of a manifest were not read, or not all manifests.
    pub(super) fn leave_out(&mut self) {
        self.is_partial = true;
    }

    pub(super) fn add_blob(&mut self, digest: &Digest, size: u64) {
        if self.blobs.len() >= MAX_BLOBS {
            self.is_partial = true;
        }
        if !self.is_partial {
            self.blobs.insert(digest.clone(), size);
        }
    }

    pub(super) fn add_entry(&mut self, entry: &Entry) {
        if let Some(platform) = &entry.platform
            && self.platforms.len() < MAX_PLATFORMS
            && !self.platforms.contains(platform)
        {
            self.platforms.push(platform.clone());
        }
    }

    /// Returns the contents, if everything was seen.
    pub(super) fn finish(self) -> Option<ImageContents> {
        if self.is_partial {
            return None;
        }
        let sizes = self.blobs.values();
        Some(ImageContents {
            bytes: sizes.fold(0, |sum: u64, size| sum.saturating_add(*size)),
            platforms: self.platforms.into(),
        })
    }
}
