//! Pushes manifests: children before parents, the root after all, its last tag last of all.

use super::error::CopyError;
use super::plan::{Node, Plan};
use super::pool::Pool;
use super::progress::Event;
use super::report::one_more;
use super::{Job, Root};
use crate::error::RegistryError;
use crate::manifest;
use crate::reference::TagOrDigest;
use crate::registry::Manifest;
use oci_spec::image::Digest;
use std::collections::HashMap;

impl Job<'_> {
    /// Pushes everything below the root by digest, in layers: whatever names only what is there.
    pub(super) async fn push_below_root(&self, plan: &Plan) -> Result<(), CopyError> {
        let mut waiting: HashMap<&Digest, &Node> = plan.below.iter().collect();
        while !waiting.is_empty() {
            let is_ready = |node: &Node| node.children.iter().all(|c| !waiting.contains_key(c));
            let ready: Vec<(&Digest, &Node)> = waiting
                .iter()
                .filter(|(_, node)| is_ready(node))
                .map(|(digest, node)| (*digest, *node))
                .collect();
            let Some((first, _)) = waiting.iter().next() else {
                break;
            };
            if ready.is_empty() {
                // Digests make this impossible; a loop without an end must be impossible, too.
                let object = self.source.object(&format!("@{first}"));
                return Err(CopyError::Limit {
                    object,
                    limit: "its indexes name each other",
                });
            }
            for (digest, _) in &ready {
                waiting.remove(*digest);
            }
            let mut pool = Pool::new(super::plan::MANIFESTS_AT_ONCE);
            for (digest, node) in ready {
                pool.add(Box::pin(self.push_child(plan, digest, node)))
                    .await?;
            }
            pool.finish().await?;
        }
        Ok(())
    }

    async fn push_child(&self, plan: &Plan, digest: &Digest, node: &Node) -> Result<(), CopyError> {
        self.push(plan, node, &TagOrDigest::Digest(digest.clone()))
            .await?;
        one_more(&self.tally.manifests);
        self.progress.event(Event::ManifestPushed { digest });
        Ok(())
    }

    /// Pushes the root as each of these references, one after the other.
    pub(super) async fn push_root(
        &self,
        plan: &Plan,
        references: &[TagOrDigest],
    ) -> Result<(), CopyError> {
        let root = plan.root();
        for (index, reference) in references.iter().enumerate() {
            self.push(plan, root, reference).await?;
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
            one_more(&self.tally.manifests);
            self.progress.event(Event::ManifestPushed { digest });
        }
        if let TagOrDigest::Tag(tag) = reference {
            self.progress.event(Event::Tagged { tag, digest });
        }
    }

    /// Pushes a manifest. If the target then misses blobs that it said it had (replication and
    /// garbage collection lag behind), they are sent without asking, once.
    async fn push(
        &self,
        plan: &Plan,
        node: &Node,
        reference: &TagOrDigest,
    ) -> Result<(), CopyError> {
        let put = || {
            self.target
                .put_manifest(reference, &node.media_type, &node.manifest)
        };
        match put().await {
            Err(error) if misses_blobs(&error) && !node.blobs.is_empty() => {
                tracing::warn!(%error, "the target misses blobs that it had; sending them again");
                self.send_again(plan, node).await?;
                put().await.map(drop).map_err(CopyError::Target)
            }
            other => other.map(drop).map_err(CopyError::Target),
        }
    }

    async fn send_again(&self, plan: &Plan, node: &Node) -> Result<(), CopyError> {
        let mut pool = Pool::new(super::blobs::BLOBS_AT_ONCE);
        for digest in &node.blobs {
            if let Some(size) = plan.blobs.get(digest) {
                pool.add(Box::pin(self.send_blob(digest, *size, None)))
                    .await?;
            }
        }
        pool.finish().await
    }
}

/// distribution-spec, "Error Codes"; some registries say the same with a less specific code.
fn misses_blobs(error: &RegistryError) -> bool {
    matches!(error.code(), Some("MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN"))
}
