//! Finds the manifests that an index names: at the target, else at the source.

use super::Job;
use super::error::CopyError;
use super::node::Blob;
use crate::manifest::Descriptor;
use crate::registry::Manifest;
use oci_spec::image::Digest;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes of manifests of one copy, and of all that refers to it. Hundreds of ordinary manifests fit
/// into one MiB.
const MAX_MANIFEST_BYTES: u64 = 32 * 1024 * 1024;

/// A manifest that an index names.
pub(super) struct Child {
    pub(super) descriptor: Descriptor,
    /// The index.
    pub(super) parent: Digest,
    /// How many manifests are above it.
    pub(super) depth: usize,
}

/// What became of the search.
pub(super) enum Found {
    /// The target has it, and with it everything below.
    Present,
    Manifest(Manifest),
    /// Build caches put blobs into an index.
    Blob,
    /// The source does not have it, and that is allowed.
    LeftOut,
}

impl Job<'_> {
    /// Looks for a child at the target if the target is known to have something, then reads it from the
    /// source. In this order, because reading manifests is what public registries limit.
    pub(super) async fn find(&self, child: &Child) -> Result<Found, CopyError> {
        let descriptor = &child.descriptor;
        if self.may_have_parts() && self.is_at_target(&descriptor.digest).await? {
            return Ok(Found::Present);
        }
        self.reserve(&descriptor.digest, descriptor.size)?;
        match self.source.manifest_of(descriptor).await {
            Ok(manifest) => Ok(Found::Manifest(manifest)),
            Err(error) if error.status() == Some(404) && !descriptor.is_manifest() => {
                Ok(Found::Blob)
            }
            Err(error) if error.status() == Some(404) && self.options.allow_sparse => {
                tracing::warn!(child = %descriptor.digest, parent = %child.parent, "not at the source, left out");
                Ok(Found::LeftOut)
            }
            Err(error) if error.status() == Some(404) => Err(CopyError::SourceIncomplete {
                parent: child.parent.clone(),
                missing: descriptor.digest.clone(),
            }),
            Err(error) => Err(CopyError::Source(error)),
        }
    }

    async fn is_at_target(&self, digest: &Digest) -> Result<bool, CopyError> {
        match self.target.has_manifest(digest).await {
            Ok(has) => Ok(has),
            // "Not there" and "not to be told" are the same in many registries.
            Err(error) if matches!(error.status(), Some(400..=403)) => Ok(false),
            Err(error) => Err(CopyError::Target(error)),
        }
    }

    /// Takes a manifest's bytes from what one copy may hold, before they are read.
    pub(super) fn reserve(&self, digest: &Digest, size: u64) -> Result<(), CopyError> {
        let share = size.min(MAX_MANIFEST_BYTES);
        let before = self.manifest_bytes.fetch_add(share, Ordering::Relaxed);
        if before + share > MAX_MANIFEST_BYTES {
            return Err(self.beyond(digest, "its manifests exceed 32 MiB"));
        }
        Ok(())
    }

    /// Adds a blob that `parent` names to `sum`, unless that is too much then.
    pub(super) fn weigh(
        &self,
        sum: &AtomicU64,
        blob: &Blob,
        parent: &Digest,
    ) -> Result<(), CopyError> {
        let Some(limit) = self.options.max_bytes else {
            return Ok(());
        };
        // Sizes are what a manifest says, so the sum can be anything.
        let add = |sum: u64| {
            let sum = sum.saturating_add(blob.size);
            (sum <= limit).then_some(sum)
        };
        match sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(before) => Err(CopyError::TooLarge {
                object: self.source.object(&format!("@{parent}")),
                bytes: before.saturating_add(blob.size),
                limit,
            }),
        }
    }

    pub(super) fn beyond(&self, digest: &Digest, limit: &'static str) -> CopyError {
        CopyError::Limit {
            object: self.source.object(&format!("@{digest}")),
            limit,
        }
    }
}
