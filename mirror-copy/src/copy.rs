//! Copies one image: resolves the tag once, then copies manifests and blobs concurrently, each as soon as everything that it
//! names is at the target, and writes the tag last of all.

mod blobs;
mod copy_graph;
mod error;
#[cfg(any(fuzzing, test))]
#[path = "../fuzz/src/manifest.rs"]
pub(crate) mod fuzzing;
mod graph;
mod job;
mod manifests;
mod node;
mod options;
mod platforms;
mod preview;
mod progress;
mod referrers;
mod referrers_tag;
mod report;
mod root;
mod sessions;
mod slow_source;
mod transfer;

pub use error::CopyError;
pub use options::{CopyOptions, Source, Target};
pub use preview::{MissingBlob, Presence, Preview, preview};
pub use progress::{Event, Progress};
pub use referrers::{DigestTag, ListedReferrers};
pub use report::CopyReport;

use crate::reference::TagOrDigest;
use crate::registries::metadata_budget::Reservation;
use crate::registry::{Access, Located, Manifest};
use copy_graph::CopyGraph;
use job::{Job, Part, REPORT_EVERY};
use manifests::may_lack_parts;
use report::{Root, one_more};
use root::{Names, wanted};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::time::sleep;

/// Copies an image with everything that it names, all platforms, byte for byte.
///
/// A tag is written at the target only after everything that it names is present and verified. Content that the target
/// already has is not sent again; if it has the image under all wanted tags, at most two requests go to either side, plus
/// those for referrers that are new. The last manifest that is written is read back: a copy that is reported is one that the
/// target returns. Dropping the future stops the copy; upload sessions may then stay open until the registry expires them.
///
/// # Errors
/// [`CopyError`] with the side that failed. The target then has no new tag; [`CopyError::retry`] returns whether the same
/// copy may succeed later, which then skips everything that was already copied.
pub async fn copy(
    source: &Source,
    target: &Target,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyReport, CopyError> {
    let started = Instant::now();
    let job = Job::new(source, target, options, progress)?;
    let (from, to) = (job.source.registry(), job.target.registry());
    from.expect(job.source.name(), Access::Pull);
    to.expect(job.target.name(), Access::Push);
    let result = tokio::select! {
        result = Box::pin(job.run(source, target)) => result,
        never = report_memory(&job.reservation, progress) => match never {},
    };
    if result.is_err() {
        job.abandoned.close(&job.target).await;
    }
    let root = result?;
    Ok(job
        .tally
        .report(root, from.requests() + to.requests(), started.elapsed()))
}

/// Reports the memory for manifests that the copy holds, and that it waits for more.
async fn report_memory(reservation: &Reservation, progress: &dyn Progress) -> Infallible {
    let mut states = reservation.state();
    let mut reported = None;
    loop {
        let state = *states.borrow_and_update();
        if state.holds != reported
            && let Some(place) = state.holds
        {
            progress.event(Event::HoldsMemory(place));
            reported = state.holds;
        }
        if let Some(place) = state.waits_for {
            progress.event(Event::WaitingForMemory(place));
            sleep(REPORT_EVERY).await;
        } else if states.changed().await.is_err() {
            // The reservation, which sends the states, outlives the copy.
            std::future::pending::<()>().await;
        }
    }
}

impl Job<'_> {
    async fn run(&self, source: &Source, target: &Target) -> Result<Root, CopyError> {
        let tag = target.tag.clone().map(TagOrDigest::Tag);
        let (located, tagged) = tokio::try_join!(
            self.locate_source(&source.reference),
            self.locate_at_target(tag.as_ref())
        )?;
        if tagged.is_some() {
            // An older image of that name most likely shares blobs with this one.
            self.target_has_parts.store(true, Ordering::Relaxed);
        }
        let located = if self.options.platforms.is_empty() {
            located
        } else {
            let root = self.read_root(&source.reference, located).await?;
            Located::of(self.only_wanted(root).await?)
        };
        let digest = located.resolved.digest.clone();
        self.progress.event(Event::Resolved { digest: &digest });
        let state = self.target_state(target, tagged, &digest).await?;
        if state.complete && state.missing.references.is_empty() {
            self.progress
                .event(Event::ManifestSkipped { digest: &digest });
            one_more(&self.tally.manifests_trusted);
            self.copy_late_referrers(&digest).await;
            return Ok(Root {
                digest,
                media_type: located.resolved.media_type,
            });
        }
        if state.complete {
            // The target's own manifest is as good and costs no request to the source.
            let reference = TagOrDigest::Digest(digest.clone());
            let lost = match self.target.manifest(&reference).await {
                Ok(manifest) => match self.finish(&manifest, &state.missing).await {
                    Err(CopyError::Target(error)) if may_lack_parts(&error) => error,
                    Err(error) => return Err(error),
                    Ok(root) => {
                        one_more(&self.tally.manifests_trusted);
                        self.copy_late_referrers(&root.digest).await;
                        return Ok(root);
                    }
                },
                Err(error) if error.is_wrong_or_missing() => error,
                Err(error) => return Err(CopyError::Target(error)),
            };
            tracing::warn!(error = %lost, "the target lost parts of the image; copying all of it again");
            self.target_has_parts.store(true, Ordering::Relaxed);
            self.target_is_distrusted.store(true, Ordering::Relaxed);
        }
        let root = self.read_root(&source.reference, located).await?;
        // The content may have another digest than the registry reported.
        let mut missing = state.missing;
        if root.digest != digest {
            missing.references = wanted(target, &root.digest);
        }
        match self.copy_all(&root, &missing).await {
            Err(error) if self.distrust_if_parts_are_missing() => {
                tracing::warn!(%error, "the target lost manifests that it claimed to have; copying all again");
                self.copy_all(&root, &missing).await
            }
            result => result,
        }
    }

    /// Copies everything that the root names and its referrers, then the root itself.
    async fn copy_all(&self, root: &Manifest, names: &Names) -> Result<Root, CopyError> {
        self.sums.reset();
        self.tally.manifests_trusted.store(0, Ordering::Relaxed);
        let lease = self.hold(Part::Image, root, 0).await?;
        let referrers = async {
            if self.options.referrers {
                self.copy_referrers(root).await
            } else {
                Ok(())
            }
        };
        let (root, ()) = tokio::try_join!(
            CopyGraph::of_image(self).run(root.clone(), lease),
            referrers
        )?;
        self.push_root(&root, names).await?;
        self.copy_refused_referrers(&root.manifest).await;
        Ok(Root {
            digest: root.manifest.digest,
            media_type: root.media_type,
        })
    }
}
