//! Pushes manifests, the root as all that it is to be called, its tag last of all.

use super::error::CopyError;
use super::fallback;
use super::node::Node;
use super::progress::Event;
use super::report::one_more;
use super::{Job, Root};
use crate::error::RegistryError;
use crate::manifest;
use crate::reference::TagOrDigest;
use crate::registry::{Manifest, Pushed};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

impl Job<'_> {
    /// Tells that a manifest is at the target by its digest.
    pub(super) fn pushed(&self, digest: &Digest) {
        one_more(&self.tally.manifests);
        self.progress.event(Event::ManifestPushed { digest });
    }

    /// Pushes the root as each of these references, one after the other. What is about another manifest is
    /// listed there first: a root that has its tag is complete in every respect.
    pub(super) async fn push_root(
        &self,
        root: &Node,
        references: &[TagOrDigest],
    ) -> Result<(), CopyError> {
        if root.subject.is_some() {
            let by_digest = TagOrDigest::Digest(root.manifest.digest.clone());
            self.push_listed(root, &by_digest).await?;
        }
        for (index, reference) in references.iter().enumerate() {
            self.push(root, reference).await?;
            self.pushed_root(&root.manifest.digest, reference, index == 0);
        }
        Ok(())
    }

    /// Gives more tags to an image that the target already has.
    pub(super) async fn finish(
        &self,
        found: &Manifest,
        references: &[TagOrDigest],
    ) -> Result<Root, CopyError> {
        let contents = manifest::read(&found.bytes, &found.media_type).map_err(|source| {
            let object = self.target.object(&format!("@{}", found.digest));
            CopyError::Manifest { object, source }
        })?;
        for (index, reference) in references.iter().enumerate() {
            let pushed = self
                .target
                .put_manifest(reference, &contents.media_type, found)
                .await;
            pushed.map_err(CopyError::Target)?;
            self.pushed_root(&found.digest, reference, index == 0);
        }
        Ok(Root {
            digest: found.digest.clone(),
            media_type: contents.media_type,
        })
    }

    fn pushed_root(&self, digest: &Digest, reference: &TagOrDigest, first: bool) {
        if first {
            self.pushed(digest);
        }
        if let TagOrDigest::Tag(tag) = reference {
            self.progress.event(Event::Tagged { tag, digest });
        }
    }

    /// Pushes a manifest, and lists it where it says what it is about and the target does not list it.
    pub(super) async fn push_listed(
        &self,
        node: &Node,
        reference: &TagOrDigest,
    ) -> Result<(), CopyError> {
        let pushed = self.push(node, reference).await?;
        if let Some(subject) = &node.subject
            && !pushed.subject_known
            && let Some(referrer) = fallback::describe(&node.manifest, &node.media_type)
        {
            let listed = fallback::list(&self.target, subject, &[referrer]).await;
            listed.map_err(CopyError::Target)?;
        }
        Ok(())
    }

    /// Pushes a manifest. If the target then misses blobs that it said it had (replication and
    /// garbage collection lag behind), they are sent without asking, once.
    pub(super) async fn push(
        &self,
        node: &Node,
        reference: &TagOrDigest,
    ) -> Result<Pushed, CopyError> {
        let put = || {
            self.target
                .put_manifest(reference, &node.media_type, &node.manifest)
        };
        match put().await {
            Err(error) if misses_parts(&error) && !node.blobs.is_empty() => {
                if one_more(&self.tally.blobs_sent_again) == 0 {
                    tracing::warn!(%error, "the target misses blobs that it had; sending them again, further ones are logged at debug");
                } else {
                    tracing::debug!(%error, "the target misses blobs that it had; sending them again");
                }
                // Each waits for a place of its own, so they may all start.
                let mut sending = FuturesUnordered::new();
                let mut once = HashSet::new();
                for blob in node.blobs.iter().filter(|blob| once.insert(&blob.digest)) {
                    self.forget(blob);
                    sending.push(self.send_again(blob));
                }
                while let Some(sent) = sending.next().await {
                    sent?;
                }
                put().await.map_err(CopyError::Target)
            }
            Err(error) if misses_parts(&error) && !node.children.is_empty() => {
                self.parts_are_missing.store(true, Ordering::Relaxed);
                Err(CopyError::Target(error))
            }
            other => other.map_err(CopyError::Target),
        }
    }
}

/// distribution-spec, "Error Codes"; some registries say the same with a less specific code, and
/// distribution calls a manifest that is missing a blob.
fn misses_parts(error: &RegistryError) -> bool {
    let codes = ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"];
    error.code().is_some_and(|code| codes.contains(&code))
}
