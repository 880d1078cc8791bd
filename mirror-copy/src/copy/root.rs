//! The root manifest: what the source's reference stands for, and what the target has of it before the copy.

use super::error::CopyError;
use super::job::Job;
use super::options::Target;
use super::progress::Event;
use crate::error::RegistryError;
use crate::reference::TagOrDigest;
use crate::registry::{Located, Manifest};
use oci_spec::image::Digest;

pub(super) struct TargetState {
    /// Wanted references that do not yet stand for the image.
    pub(super) missing: Names,
    /// A wanted reference stands for the image, so the whole image is present.
    pub(super) complete: bool,
}

/// The references that the root is to be pushed as.
pub(super) struct Names {
    /// In the order of writing.
    pub(super) references: Vec<TagOrDigest>,
    /// The digest that the target's tag stood for before the copy.
    pub(super) previous: Option<Digest>,
}

impl Job<'_> {
    /// Resolves the source's reference. A digest is used as it is, without a request. A tag is read immediately, which
    /// saves one request, except where reading is limited and `HEAD` is not.
    pub(super) async fn locate_source(
        &self,
        reference: &TagOrDigest,
    ) -> Result<Located, CopyError> {
        if let TagOrDigest::Digest(digest) = reference {
            return Ok(Located::unseen(digest.clone()));
        }
        self.progress.event(Event::SourceRequested);
        let located = if self.source.registry().counts_reads() {
            self.source.locate(reference).await
        } else {
            self.source.read(reference).await
        };
        let missing = || CopyError::SourceMissing {
            object: self.source.object(&reference.suffix()),
        };
        let located = located.map_err(CopyError::Source)?.ok_or_else(missing)?;
        self.progress.event(Event::SourceResponded);
        Ok(located)
    }

    /// Reads the root by digest. Where the registry reported a digest that it does not have, the tag is read instead and
    /// the hash of the content counts.
    pub(super) async fn read_root(
        &self,
        reference: &TagOrDigest,
        located: Located,
    ) -> Result<Manifest, CopyError> {
        if let Some(manifest) = located.manifest {
            return Ok(manifest);
        }
        let by_digest = TagOrDigest::Digest(located.resolved.digest);
        self.progress.event(Event::SourceRequested);
        match self.source.manifest(&by_digest).await {
            Ok(manifest) => {
                self.progress.event(Event::SourceResponded);
                Ok(manifest)
            }
            Err(error) if *reference != by_digest && error.is_wrong_or_missing() => {
                tracing::warn!(%error, "reading by tag instead");
                let manifest = self.source.manifest(reference).await;
                manifest.map_err(CopyError::Source)
            }
            Err(error) if error.status() == Some(404) => Err(CopyError::SourceMissing {
                object: self.source.object(&by_digest.suffix()),
            }),
            Err(error) => Err(CopyError::Source(error)),
        }
    }

    /// Resolves a reference at the target. A repository that does not exist, or may not be read, is empty; the first upload
    /// shows whether it may be written.
    pub(super) async fn locate_at_target(
        &self,
        reference: Option<&TagOrDigest>,
    ) -> Result<Option<Located>, CopyError> {
        let Some(reference) = reference else {
            return Ok(None);
        };
        match self.target.locate(reference).await {
            Ok(located) => Ok(located),
            Err(error) if error.is_denied() => Ok(None),
            // A manifest that cannot be used is overwritten. A page is an error: it shows that this is no registry.
            Err(RegistryError::Manifest { .. }) => Ok(None),
            Err(error) => Err(CopyError::Target(error)),
        }
    }

    /// Compares the target with `digest`. `tagged` is what the wanted tag stands for.
    pub(super) async fn target_state(
        &self,
        target: &Target,
        tagged: Option<Located>,
        digest: &Digest,
    ) -> Result<TargetState, CopyError> {
        let is_it = |found: &Option<Located>| {
            let found = found.as_ref().map(|found| &found.resolved.digest);
            found == Some(digest)
        };
        let previous = tagged.as_ref().map(|found| found.resolved.digest.clone());
        let mut state = TargetState {
            missing: Names {
                references: Vec::new(),
                previous,
            },
            complete: false,
        };
        for reference in wanted(target, digest) {
            let found = match &reference {
                TagOrDigest::Tag(tag) if Some(tag) == target.tag.as_ref() => is_it(&tagged),
                _ => is_it(&self.locate_at_target(Some(&reference)).await?),
            };
            if found {
                state.complete = true;
            } else {
                state.missing.references.push(reference);
            }
        }
        if !self.options.trust_present {
            state.complete = false;
            state.missing.references = wanted(target, digest);
        }
        Ok(state)
    }
}

/// The references that the root is to be pushed as, the tag last.
pub(super) fn wanted(target: &Target, digest: &Digest) -> Vec<TagOrDigest> {
    let anchor = target.anchor.map(|anchor| TagOrDigest::Tag(anchor(digest)));
    let tag = target.tag.clone().map(TagOrDigest::Tag);
    let mut wanted: Vec<_> = anchor.into_iter().chain(tag).collect();
    if wanted.is_empty() {
        wanted.push(TagOrDigest::Digest(digest.clone()));
    }
    wanted
}
