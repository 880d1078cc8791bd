//! Copies one image: resolve once, then manifests, blobs and manifests again, each as soon as it can be,
//! and the tag last of all.

mod blobs;
mod children;
mod closure;
mod error;
mod fallback;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod graph;
mod manifests;
mod node;
mod offer;
mod options;
mod platforms;
mod present;
mod progress;
mod queue;
mod referrers;
mod report;
mod root;
mod transfer;

pub use error::CopyError;
pub use options::CopyOptions;
pub use progress::{Event, Progress};
pub use report::CopyReport;

use crate::reference::TagOrDigest;
use crate::registry::{Access, Located, Registry, Repository};
use closure::Closure;
use oci_spec::image::Digest;
use present::wanted;
use report::Tally;
use std::sync::atomic::{AtomicBool, Ordering};
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
        found_something: AtomicBool::new(!options.trust_present),
    };
    from.expect(job.source.name(), Access::Pull);
    to.expect(job.target.name(), Access::Push);
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
    /// Whether the target turned out to have parts of the image.
    found_something: AtomicBool,
}

/// What was copied in the end.
struct Root {
    digest: Digest,
    media_type: String,
}

impl Job<'_> {
    async fn run(&self, source: &Source, target: &Target) -> Result<Root, CopyError> {
        let tag = target.tag.clone().map(TagOrDigest::Tag);
        let (located, tagged) = tokio::try_join!(
            self.locate_source(&source.reference),
            self.tagged(tag.as_ref())
        )?;
        if tagged.is_some() {
            // An older image of that name most likely shares something with this one.
            self.found_something.store(true, Ordering::Relaxed);
        }
        let located = if self.options.platforms.is_empty() {
            located
        } else {
            let root = self.read_root(&source.reference, located).await?;
            Located::of(self.only_wanted(root).await?)
        };
        let digest = located.resolved.digest.clone();
        self.progress.event(Event::Resolved { digest: &digest });
        let present = self.present(target, tagged, &digest).await?;
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
            let manifest = self.target.manifest(&reference).await;
            let manifest = manifest.map_err(CopyError::Target)?;
            return self.finish(&manifest, &present.missing).await;
        }
        let root = self.read_root(&source.reference, located).await?;
        // The content may have another digest than the registry said.
        let missing = if root.digest == digest {
            present.missing
        } else {
            wanted(target, &root.digest)
        };
        let referrers = async {
            match self.options.referrers {
                true => self.bring_referrers(&root).await,
                false => Ok(()),
            }
        };
        let (root, ()) = tokio::try_join!(Closure::new(self).bring(root.clone()), referrers)?;
        self.push_root(&root, &missing).await?;
        Ok(Root {
            digest: root.manifest.digest,
            media_type: root.media_type,
        })
    }

    /// Whether it makes sense to look for single manifests at the target.
    fn may_have_parts(&self) -> bool {
        self.options.trust_present
            && (self.found_something.load(Ordering::Relaxed)
                || self.source.registry().counts_reads())
    }
}
