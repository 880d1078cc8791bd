//! Copies one image: resolve once, plan from the manifests, blobs, manifests, tags, in this order.

mod blobs;
mod error;
mod manifests;
mod options;
mod plan;
mod pool;
mod progress;
mod report;
mod transfer;

pub use error::CopyError;
pub use options::CopyOptions;
pub use progress::{Event, Progress};
pub use report::CopyReport;

use crate::reference::TagOrDigest;
use crate::registry::{Access, Located, Manifest, Registry, Repository};
use oci_spec::image::Digest;
use report::Tally;
use std::time::Instant;

/// Where an image is copied from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The registry.
    pub registry: Registry,
    /// The repository in it, such as `library/nginx`.
    pub repository: String,
    /// What to copy. A tag is resolved once, at the beginning.
    pub reference: TagOrDigest,
}

/// Where an image is copied to. With neither tag nor anchor it is pushed by digest only, and the
/// registry's garbage collection may take it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The registry.
    pub registry: Registry,
    /// The repository in it.
    pub repository: String,
    /// The tag to give to the copy; written last of all.
    pub tag: Option<String>,
    /// Makes one more tag from the copy's digest; written just before `tag`. It holds the digest
    /// when `tag` moves on.
    pub anchor: Option<fn(&Digest) -> String>,
}

/// Copies an image with everything that it names, all platforms, byte for byte.
///
/// Nothing at the target gets a tag before everything that it names is there and verified. What the
/// target already has is not sent again; if it has the image under all wanted tags, at most two
/// requests go to either side. Dropping the future stops the copy; upload sessions may then stay
/// open until the registry expires them.
pub async fn copy(
    source: &Source,
    target: &Target,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyReport, CopyError> {
    let started = Instant::now();
    let from = source.registry.counting_from_zero();
    let to = target.registry.counting_from_zero();
    let job = Job {
        source: from
            .repository(&source.repository, Access::Pull)
            .map_err(CopyError::Source)?,
        target: to
            .repository(&target.repository, Access::Push)
            .map_err(CopyError::Target)?,
        options,
        progress,
        tally: Tally::default(),
    };
    let root = Box::pin(job.run(source, target)).await?;
    Ok(job
        .tally
        .report(root, from.requests() + to.requests(), started.elapsed()))
}

/// One copy in progress.
struct Job<'a> {
    source: Repository,
    target: Repository,
    options: &'a CopyOptions,
    progress: &'a dyn Progress,
    tally: Tally,
}

/// What was copied in the end.
struct Root {
    digest: Digest,
    media_type: String,
}

/// What the target knows of the image before the copy.
struct Present {
    /// The wanted tags that do not yet stand for the image, in the order of writing.
    missing: Vec<TagOrDigest>,
    /// Whether one of the wanted tags does, so that the whole image is there.
    complete: bool,
}

impl Job<'_> {
    async fn run(&self, source: &Source, target: &Target) -> Result<Root, CopyError> {
        let tag = target.tag.clone().map(TagOrDigest::Tag);
        let (located, tagged) = tokio::try_join!(
            self.locate_source(&source.reference),
            self.tagged(tag.as_ref())
        )?;
        let digest = located.resolved.digest.clone();
        self.progress.event(Event::Resolved { digest: &digest });
        let present = self.present(target, tag, tagged, &digest).await?;
        if present.complete && present.missing.is_empty() {
            self.progress
                .event(Event::ManifestSkipped { digest: &digest });
            return Ok(Root {
                digest,
                media_type: located.resolved.media_type,
            });
        }
        if present.complete {
            // The target's own copy is as good and costs the source nothing.
            let reference = TagOrDigest::Digest(digest);
            let manifest = self
                .target
                .manifest(&reference)
                .await
                .map_err(CopyError::Target)?;
            return self.finish(&manifest, &present.missing).await;
        }
        let root = self.read_root(&source.reference, located).await?;
        // The content may have another digest than the registry said.
        let missing = if root.digest == digest {
            present.missing
        } else {
            wanted(target, &root.digest)
        };
        let plan = self.plan(root).await?;
        self.copy_blobs(&plan).await?;
        self.push_below_root(&plan).await?;
        self.push_root(&plan, &missing).await?;
        let root = plan.root();
        let (digest, media_type) = (root.manifest.digest.clone(), root.media_type.clone());
        Ok(Root { digest, media_type })
    }

    /// What the source's reference stands for. A digest is taken as it is, without asking.
    async fn locate_source(&self, reference: &TagOrDigest) -> Result<Located, CopyError> {
        if let TagOrDigest::Digest(digest) = reference {
            return Ok(Located::unseen(digest.clone()));
        }
        let located = self
            .source
            .locate(reference)
            .await
            .map_err(CopyError::Source)?;
        located.ok_or_else(|| CopyError::SourceMissing {
            object: self.source.object(&reference.suffix()),
        })
    }

    /// What a target tag stands for now. A repository that is not there, or not yet ours to read,
    /// is empty; the first upload will tell.
    async fn tagged(&self, tag: Option<&TagOrDigest>) -> Result<Option<Located>, CopyError> {
        let Some(tag) = tag else { return Ok(None) };
        match self.target.locate(tag).await {
            Ok(located) => Ok(located),
            Err(error) if matches!(error.status(), Some(401 | 403)) => Ok(None),
            Err(error) => Err(CopyError::Target(error)),
        }
    }

    async fn present(
        &self,
        target: &Target,
        tag: Option<TagOrDigest>,
        tagged: Option<Located>,
        digest: &Digest,
    ) -> Result<Present, CopyError> {
        let is_it = |found: &Option<Located>| {
            found
                .as_ref()
                .is_some_and(|found| found.resolved.digest == *digest)
        };
        let mut present = Present {
            missing: Vec::new(),
            complete: false,
        };
        if let Some(anchor) = target.anchor {
            let anchor = TagOrDigest::Tag(anchor(digest));
            let found = is_it(&self.tagged(Some(&anchor)).await?);
            present.note(anchor, found);
        }
        match tag {
            Some(tag) => present.note(tag, is_it(&tagged)),
            None if target.anchor.is_none() => {
                let reference = TagOrDigest::Digest(digest.clone());
                let found = is_it(&self.tagged(Some(&reference)).await?);
                present.note(reference, found);
            }
            None => {}
        }
        present.complete &= self.options.trust_present;
        if !self.options.trust_present {
            present.missing = wanted(target, digest);
        }
        Ok(present)
    }

    /// Reads the root by digest. Where the registry named a digest that it does not have, its tag is
    /// read instead and our own hash counts.
    async fn read_root(
        &self,
        reference: &TagOrDigest,
        located: Located,
    ) -> Result<Manifest, CopyError> {
        if let Some(manifest) = located.manifest {
            return Ok(manifest);
        }
        let by_digest = TagOrDigest::Digest(located.resolved.digest);
        let missing = || CopyError::SourceMissing {
            object: self.source.object(&by_digest.suffix()),
        };
        match self.source.manifest(&by_digest).await {
            Ok(manifest) => Ok(manifest),
            Err(error) if *reference != by_digest && error.is_wrong_or_missing() => {
                tracing::warn!(%error, "reading by tag instead");
                self.source
                    .manifest(reference)
                    .await
                    .map_err(CopyError::Source)
            }
            Err(error) if error.status() == Some(404) => Err(missing()),
            Err(error) => Err(CopyError::Source(error)),
        }
    }
}

impl Present {
    fn note(&mut self, reference: TagOrDigest, found: bool) {
        if found {
            self.complete = true;
        } else {
            self.missing.push(reference);
        }
    }
}

/// Everything that the root is to be pushed as, the tag last.
fn wanted(target: &Target, digest: &Digest) -> Vec<TagOrDigest> {
    let anchor = target.anchor.map(|anchor| TagOrDigest::Tag(anchor(digest)));
    let tag = target.tag.clone().map(TagOrDigest::Tag);
    let mut wanted: Vec<_> = anchor.into_iter().chain(tag).collect();
    if wanted.is_empty() {
        wanted.push(TagOrDigest::Digest(digest.clone()));
    }
    wanted
}
