//! Pushes manifests. The root is pushed under all its references, the tag last of all, which is read back.

use super::error::CopyError;
use super::job::Job;
use super::node::{Blob, Node};
use super::progress::Event;
use super::referrers_tag;
use super::report::{Root, one_more};
use super::root::Names;
use crate::error::RegistryError;
use crate::manifest;
use crate::reference::TagOrDigest;
use crate::registry::{Manifest, Pushed, visibility_pauses};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use tokio::time::sleep;

impl Job<'_> {
    /// Reports that a manifest is at the target by its digest.
    pub(super) fn pushed(&self, digest: &Digest) {
        self.sent.add(digest);
        one_more(&self.tally.manifests);
        self.progress.event(Event::ManifestPushed { digest });
    }

    /// Pushes the root under each of these references in order, and reads the last one back. A root with a subject is listed
    /// as its referrer first, so that a root with its tag is complete.
    pub(super) async fn push_root(&self, root: &Node, names: &Names) -> Result<(), CopyError> {
        if root.subject.is_some() {
            let by_digest = TagOrDigest::Digest(root.manifest.digest.clone());
            self.push_listed(root, &by_digest).await?;
        }
        for (index, reference) in names.references.iter().enumerate() {
            let pushed = self.push(root, reference).await;
            pushed.map_err(|error| explained(error, names, index))?;
            self.root_pushed(&root.manifest, &root.media_type, names, index)
                .await?;
        }
        Ok(())
    }

    /// Adds tags to an image that the target already has, and reads the last one back.
    pub(super) async fn finish(&self, found: &Manifest, names: &Names) -> Result<Root, CopyError> {
        let contents = manifest::read(&found.bytes, &found.media_type).map_err(|source| {
            let object = self.target.object(&format!("@{}", found.digest));
            CopyError::Manifest { object, source }
        })?;
        for (index, reference) in names.references.iter().enumerate() {
            let pushed = self
                .target
                .put_manifest(reference, &contents.media_type, found)
                .await;
            pushed.map_err(|error| explained(CopyError::Target(error), names, index))?;
            self.root_pushed(found, &contents.media_type, names, index)
                .await?;
        }
        Ok(Root {
            digest: found.digest.clone(),
            media_type: contents.media_type,
        })
    }

    /// Handles the success of pushing the root under the reference of this index. The last one is read back first.
    async fn root_pushed(
        &self,
        root: &Manifest,
        media_type: &str,
        names: &Names,
        index: usize,
    ) -> Result<(), CopyError> {
        let Some(reference) = names.references.get(index) else {
            return Ok(());
        };
        if index + 1 == names.references.len() {
            let is_older = |digest: &Digest| names.previous.as_ref() == Some(digest);
            let read_back = self
                .target
                .read_back(reference, media_type, root, is_older)
                .await;
            read_back.map_err(CopyError::Target)?;
        }
        let digest = &root.digest;
        if index == 0 {
            self.pushed(digest);
        }
        if let TagOrDigest::Tag(tag) = reference {
            self.progress.event(Event::Tagged { tag, digest });
        }
        Ok(())
    }

    /// Pushes a manifest, and adds it to the list of its subject if the target does not do that itself.
    pub(super) async fn push_listed(
        &self,
        node: &Node,
        reference: &TagOrDigest,
    ) -> Result<(), CopyError> {
        let pushed = self.push(node, reference).await?;
        if let Some(subject) = &node.subject
            && !pushed.subject_known
            && let Some(referrer) = referrers_tag::describe(&node.manifest, &node.media_type)
        {
            let listed = referrers_tag::list(&self.target, subject, &[referrer]).await;
            listed.map_err(CopyError::Target)?;
        }
        Ok(())
    }

    /// Pushes a manifest. If the target then lacks blobs that it claimed to have (replication and garbage collection are
    /// delayed), they are sent without a probe, once. For blobs that this copy has just sent it waits: some registries show
    /// them seconds later.
    pub(super) async fn push(
        &self,
        node: &Node,
        reference: &TagOrDigest,
    ) -> Result<Pushed, CopyError> {
        let refusal = match self.put(node, reference).await {
            Err(error) if self.lacks_parts(node, &error) => error,
            other => return other.map_err(CopyError::Target),
        };
        let found: Vec<_> = node
            .blobs
            .iter()
            .filter(|blob| !self.sent.contains(&blob.digest))
            .collect();
        let all_children_sent = self.sent.has_children_of(node);
        let result = if !found.is_empty() {
            self.send_blobs_again(found, &refusal).await?;
            self.put_until_visible(node, reference).await
        } else if all_children_sent {
            match self.put_later(node, reference, refusal).await {
                Err(error) if self.lacks_parts(node, &error) && !node.blobs.is_empty() => {
                    self.send_blobs_again(node.blobs.iter().collect(), &error)
                        .await?;
                    self.put_until_visible(node, reference).await
                }
                other => other,
            }
        } else {
            Err(refusal)
        };
        if let Err(error) = &result
            && !node.children.is_empty()
            && self.lacks_parts(node, error)
        {
            self.parts_are_missing.store(true, Ordering::Relaxed);
        }
        result.map_err(CopyError::Target)
    }

    pub(super) async fn put(
        &self,
        node: &Node,
        reference: &TagOrDigest,
    ) -> Result<Pushed, RegistryError> {
        let (target, Node { manifest, .. }) = (&self.target, node);
        if node.foreign_layers.is_empty() {
            return target
                .put_manifest(reference, &node.media_type, manifest)
                .await;
        }
        let put = target
            .put_foreign_manifest(reference, &node.media_type, manifest)
            .await;
        put.map_err(|error| error.of_foreign_layers(&node.foreign_layers))
    }

    /// Pushes a manifest, with retries while the target lacks what this copy sent.
    async fn put_until_visible(
        &self,
        node: &Node,
        reference: &TagOrDigest,
    ) -> Result<Pushed, RegistryError> {
        match self.put(node, reference).await {
            Err(error) if self.lacks_parts(node, &error) => {
                self.put_later(node, reference, error).await
            }
            other => other,
        }
    }

    /// Retries after `refusal`.
    async fn put_later(
        &self,
        node: &Node,
        reference: &TagOrDigest,
        mut refusal: RegistryError,
    ) -> Result<Pushed, RegistryError> {
        for pause in visibility_pauses(self.target.registry().retry_policy()) {
            tracing::debug!(error = %refusal, ?pause, "the target does not show yet what it was sent; pushing again");
            sleep(pause).await;
            match self.put(node, reference).await {
                Err(error) if self.lacks_parts(node, &error) => refusal = error,
                other => return other,
            }
        }
        Err(refusal)
    }

    async fn send_blobs_again(
        &self,
        blobs: Vec<&Blob>,
        refusal: &RegistryError,
    ) -> Result<(), CopyError> {
        if one_more(&self.tally.blobs_sent_again) == 0 {
            tracing::warn!(error = %refusal, "the target lacks blobs that it claimed to have; sending them again, further ones are logged at debug");
        } else {
            tracing::debug!(error = %refusal, "the target lacks blobs that it claimed to have; sending them again");
        }
        // Each waits for a permit of its own, so they may all start.
        let mut sending = FuturesUnordered::new();
        let mut once = HashSet::new();
        for blob in blobs.into_iter().filter(|blob| once.insert(&blob.digest)) {
            self.forget(blob);
            sending.push(self.send_again(blob));
        }
        while let Some(sent) = sending.next().await {
            sent?;
        }
        Ok(())
    }

    /// Returns whether the target refused a manifest because it lacks parts of it. Some registries call an index invalid
    /// then, so that counts if they claimed to have one of its manifests.
    fn lacks_parts(&self, node: &Node, error: &RegistryError) -> bool {
        names_missing_parts(error)
            || error.code() == Some("MANIFEST_INVALID") && !self.sent.has_children_of(node)
    }
}

/// A tag that is refused with 405, although the same manifest was accepted under another reference, or the tag exists, is
/// locked (Azure Container Registry).
fn explained(error: CopyError, names: &Names, index: usize) -> CopyError {
    let is_tag = matches!(names.references.get(index), Some(TagOrDigest::Tag(_)));
    match error {
        CopyError::Target(error) if is_tag && (index > 0 || names.previous.is_some()) => {
            CopyError::Target(error.of_locked_tag())
        }
        other => other,
    }
}

/// Returns whether the error code means that parts are missing (distribution-spec, "Error Codes"). Some registries use a
/// less specific code, and distribution calls a missing manifest a blob.
pub(super) fn names_missing_parts(error: &RegistryError) -> bool {
    let codes = ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"];
    error.code().is_some_and(|code| codes.contains(&code))
}

/// Returns whether a registry that has a manifest may refuse it another tag because parts of it are lost. It accepted the
/// same bytes before, so a complaint about them can mean only that.
pub(super) fn may_lack_parts(error: &RegistryError) -> bool {
    let is_complaint = matches!(error, RegistryError::Status { .. })
        && matches!(error.status(), Some(400 | 404 | 422));
    is_complaint || error.is_of_incomplete_content()
}
