//! Copies one image: resolve once, then manifests, blobs and manifests again, each as soon as it can be,
//! and the tag last of all.

mod blobs;
mod child_manifests;
mod copy_graph;
mod endpoints;
mod error;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod graph;
mod job;
mod limits;
mod manifests;
mod node;
mod options;
mod platforms;
mod probe_blob;
mod progress;
mod queue;
mod referrers;
mod referrers_tag;
mod referring;
mod report;
mod root;
mod sent;
mod sessions;
mod slow_source;
mod sums;
mod target_state;
mod transfer;

pub use endpoints::{Source, Target};
pub use error::CopyError;
pub use options::CopyOptions;
pub use progress::{Event, Progress};
pub use referrers::{DigestTag, ListedReferrers};
pub use report::CopyReport;

use crate::reference::TagOrDigest;
use crate::registries::Reservation;
use crate::registry::{Access, Located, Manifest};
use copy_graph::CopyGraph;
use job::{Job, REPORT_EVERY};
use limits::Part;
use manifests::may_lack_parts;
use referring::Referring;
use report::{Root, Tally, one_more};
use sent::Sent;
use sessions::Abandoned;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use sums::Sums;
use target_state::{Names, wanted};
use tokio::time::sleep;

/// Requests for manifests and lists that one copy sends to its source at a time: with headers of 400 KiB each, as many
/// as the HTTP client reads, they take 6.4 MiB.
const SOURCE_METADATA_REQUESTS: usize = 16;

/// Copies an image with everything that it names, all platforms, byte for byte.
///
/// Nothing at the target gets a tag before everything that it names is there and verified. What the
/// target already has is not sent again; if it has the image under all wanted tags, at most two
/// requests go to either side, and those that show and bring what refers to the image since. What is written last is read back: a copy that is reported is one that the target shows.
/// Dropping the future stops the copy; upload sessions may then stay
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
    let reservation = from.reservation_of_copy();
    let job = Job {
        source: from
            .repository(&source.repository, Access::Pull)
            .map_err(CopyError::Source)?
            .of_copy(&reservation)
            .with_metadata_requests(SOURCE_METADATA_REQUESTS),
        target: to
            .repository(&target.repository, Access::Push)
            .map_err(CopyError::Target)?
            .of_copy(&reservation),
        reservation,
        options,
        progress,
        tally: Tally::default(),
        found_something: AtomicBool::new(!options.trust_present),
        parts_are_missing: AtomicBool::new(false),
        misled: AtomicBool::new(false),
        sent: Sent::default(),
        sums: Sums::default(),
        referring: Referring::default(),
        abandoned: Abandoned::default(),
    };
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

/// Reports what memory for manifests the copy has, and while it waits for more.
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
            // The reservation, which sends this, outlives the copy.
            std::future::pending::<()>().await;
        }
    }
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
        if present.complete && present.missing.references.is_empty() {
            self.progress
                .event(Event::ManifestSkipped { digest: &digest });
            one_more(&self.tally.manifests_trusted);
            self.copy_late_referrers(&digest).await;
            return Ok(Root {
                digest,
                media_type: located.resolved.media_type,
            });
        }
        if present.complete {
            // The target's own copy is as good and costs the source nothing.
            let reference = TagOrDigest::Digest(digest.clone());
            let lost = match self.target.manifest(&reference).await {
                Ok(manifest) => match self.finish(&manifest, &present.missing).await {
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
            tracing::warn!(error = %lost, "the target lost parts of an image that it has; bringing all of it again");
            self.found_something.store(true, Ordering::Relaxed);
            self.misled.store(true, Ordering::Relaxed);
        }
        let root = self.read_root(&source.reference, located).await?;
        // The content may have another digest than the registry said.
        let mut missing = present.missing;
        if root.digest != digest {
            missing.references = wanted(target, &root.digest);
        }
        match self.copy_all(&root, &missing).await {
            Err(error) if self.was_misled() => {
                tracing::warn!(%error, "the target misses manifests that it had; bringing all again");
                self.copy_all(&root, &missing).await
            }
            result => result,
        }
    }

    /// Brings everything that the root names and that refers to it, then the root itself.
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
            CopyGraph::of_image(self).copy_closure(root.clone(), lease),
            referrers
        )?;
        self.push_root(&root, names).await?;
        self.copy_refused_referrers(&root.manifest).await;
        Ok(Root {
            digest: root.manifest.digest,
            media_type: root.media_type,
        })
    }

    /// Whether the target turned out to lack manifests that it said it has. From then on it is not believed.
    fn was_misled(&self) -> bool {
        self.parts_are_missing.load(Ordering::Relaxed) && !self.misled.swap(true, Ordering::Relaxed)
    }

    /// Whether the target is believed when it says that it has something.
    fn trusts(&self) -> bool {
        self.options.trust_present && !self.misled.load(Ordering::Relaxed)
    }

    /// Whether it makes sense to look for single manifests at the target.
    fn may_have_parts(&self) -> bool {
        self.trusts()
            && (self.found_something.load(Ordering::Relaxed)
                || self.source.registry().counts_reads())
    }
}
