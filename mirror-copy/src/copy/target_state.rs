//! What the target has of an image before the copy, and what the copy is to be called there.

use super::endpoints::Target;
use super::error::CopyError;
use super::job::Job;
use crate::error::RegistryError;
use crate::reference::TagOrDigest;
use crate::registry::Located;
use oci_spec::image::Digest;

/// What the target knows of the image before the copy.
pub(super) struct TargetState {
    /// The wanted references that do not yet stand for the image.
    pub(super) missing: Names,
    /// Whether one of the wanted references does, so that the whole image is there.
    pub(super) complete: bool,
}

/// What the root is to be pushed as.
pub(super) struct Names {
    /// In the order of writing.
    pub(super) references: Vec<TagOrDigest>,
    /// What the target's tag stood for before the copy.
    pub(super) tag_was: Option<Digest>,
}

impl Job<'_> {
    /// What a target tag stands for now. A repository that is not there, or not yet ours to read, is
    /// empty; the first upload will tell.
    pub(super) async fn tagged(
        &self,
        tag: Option<&TagOrDigest>,
    ) -> Result<Option<Located>, CopyError> {
        let Some(tag) = tag else { return Ok(None) };
        match self.target.locate(tag).await {
            Ok(located) => Ok(located),
            Err(error) if error.is_denied() => Ok(None),
            // Something else of ours to overwrite, unlike a page, which says that this is no registry.
            Err(RegistryError::Manifest { .. }) => Ok(None),
            Err(error) => Err(CopyError::Target(error)),
        }
    }

    /// Compares what is there with `digest`. `tagged` is what the wanted tag stands for.
    pub(super) async fn present(
        &self,
        target: &Target,
        tagged: Option<Located>,
        digest: &Digest,
    ) -> Result<TargetState, CopyError> {
        let is_it = |found: &Option<Located>| {
            let found = found.as_ref().map(|found| &found.resolved.digest);
            found == Some(digest)
        };
        let tag_was = tagged.as_ref().map(|found| found.resolved.digest.clone());
        let mut present = TargetState {
            missing: Names {
                references: Vec::new(),
                tag_was,
            },
            complete: false,
        };
        for reference in wanted(target, digest) {
            let found = match &reference {
                TagOrDigest::Tag(tag) if Some(tag) == target.tag.as_ref() => is_it(&tagged),
                _ => is_it(&self.tagged(Some(&reference)).await?),
            };
            if found {
                present.complete = true;
            } else {
                present.missing.references.push(reference);
            }
        }
        if !self.options.trust_present {
            present.complete = false;
            present.missing.references = wanted(target, digest);
        }
        Ok(present)
    }
}

/// Everything that the root is to be pushed as, the tag last.
pub(super) fn wanted(target: &Target, digest: &Digest) -> Vec<TagOrDigest> {
    let anchor = target.anchor.map(|anchor| TagOrDigest::Tag(anchor(digest)));
    let tag = target.tag.clone().map(TagOrDigest::Tag);
    let mut wanted: Vec<_> = anchor.into_iter().chain(tag).collect();
    if wanted.is_empty() {
        wanted.push(TagOrDigest::Digest(digest.clone()));
    }
    wanted
}
