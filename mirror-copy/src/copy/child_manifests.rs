//! Finds the manifests that an index names: at the target, else at the source.

use super::error::CopyError;
use super::job::Job;
use super::limits::Part;
use super::report::one_more;
use crate::error::RegistryError;
use crate::manifest::Descriptor;
use crate::reference::TagOrDigest;
use crate::registries::Lease;
use crate::registry::Manifest;
use oci_spec::image::Digest;

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
    /// The manifest, and memory for what is read from it.
    Manifest(Manifest, Lease),
    /// Build caches put blobs into an index.
    Blob,
    /// The source does not have it, and that is allowed.
    LeftOut,
}

impl Job<'_> {
    /// Looks for a child at the target if the target is known to have something, then reads it from the
    /// source. In this order, because reading manifests is what public registries limit.
    pub(super) async fn find(&self, child: &Child, part: Part) -> Result<Found, CopyError> {
        let descriptor = &child.descriptor;
        if self.may_have_parts() && self.is_at_target(&descriptor.digest).await? {
            return Ok(Found::Present);
        }
        // Google's lists of referrers give wrong sizes, so the digest alone decides there.
        let (reserved, read) = match part {
            Part::Image => {
                self.reserve(part, &descriptor.digest, descriptor.size)?;
                (descriptor.size, self.source.manifest_of(descriptor).await)
            }
            Part::Referrers => {
                let by_digest = TagOrDigest::Digest(descriptor.digest.clone());
                (0, self.source.manifest(&by_digest).await)
            }
        };
        match read {
            Ok(manifest) => {
                let lease = self.hold(part, &manifest, reserved).await?;
                Ok(Found::Manifest(manifest, lease))
            }
            Err(error) if error.status() == Some(404) && !descriptor.is_manifest() => {
                Ok(Found::Blob)
            }
            Err(error) if error.status() == Some(404) && self.options.allow_sparse => {
                let (child, parent) = (&descriptor.digest, &child.parent);
                if one_more(&self.tally.children_left_out) == 0 {
                    tracing::warn!(%child, %parent, "left out a manifest that the source does not have; further ones are logged at debug");
                } else {
                    tracing::debug!(%child, %parent, "left out a manifest that the source does not have");
                }
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
            // Other content under this digest is not it, and a page is none; pushing it tells.
            Err(
                RegistryError::Digest { .. }
                | RegistryError::Manifest { .. }
                | RegistryError::Protocol { .. },
            ) => Ok(false),
            Err(error) => Err(CopyError::Target(error)),
        }
    }
}
