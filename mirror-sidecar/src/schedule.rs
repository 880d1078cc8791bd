//! The copies to make.
//!
//! Every image is copied at most once at a time, few images at the same time, and failures are tried again with growing
//! pauses. Nothing is written down: whoever needs an image asks again, so a restart loses no work. What the copies are
//! made of is the [`Copier`]'s matter.

mod job;
mod places;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_contract::ImageRef;
use mirror_copy::{CopyReport, Retry};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::{Jobs, Metrics};

pub use job::JobProgress;
use job::{Job, Rest};
use places::Places;

/// Images that are being copied, waiting or resting after a failure. A cluster has some thousand; the bound is there so
/// that a flood of invented names cannot exhaust memory.
const MAX_JOBS: usize = 10_000;

/// Failures after which a job is not tried again by itself, but only when somebody asks for the image: about an hour.
const AUTOMATIC_ATTEMPTS: u32 = 12;

/// How an image is copied.
pub trait Copier: Send + Sync + 'static {
    /// Copies an image; dropping the future stops the copy.
    fn copy(
        &self,
        image: &ImageRef<'static>,
        progress: &JobProgress,
    ) -> impl Future<Output = Result<CopyReport, Failure>> + Send;
}

/// Why an image could not be copied.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In one sentence, without secrets.
    pub reason: String,
    /// Whether trying again may help.
    pub retry: Retry,
}

/// How far the copy of an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Being made or waiting for its turn, in words.
    Pending(String),
    /// The last attempt failed, for this reason.
    Failed(String),
    /// Not accepted, because too many images are asked for.
    Full,
}

/// The copies to make. Clones share the work.
pub struct Schedule<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    copier: C,
    metrics: Metrics,
    jobs: Mutex<HashMap<ImageRef<'static>, Job>>,
    places: Places,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<C> Clone for Schedule<C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<C: Copier> Schedule<C> {
    /// A schedule that makes at most `parallel` copies at the same time, and counts how they end.
    pub fn new(copier: C, parallel: NonZeroUsize, metrics: Metrics) -> Self {
        let inner = Inner {
            copier,
            metrics,
            jobs: Mutex::default(),
            places: Places::new(parallel),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// How far the copy of `image` is; `None` when nobody asked for it, or when it is done.
    #[must_use]
    pub fn status(&self, image: &ImageRef<'static>) -> Option<Status> {
        self.inner.jobs().get(image).map(Job::status)
    }

    /// Whether the copy of `image` is being made or waits for its turn.
    #[must_use]
    pub fn is_active(&self, image: &ImageRef<'static>) -> bool {
        matches!(self.inner.jobs().get(image), Some(Job::Active(_)))
    }

    /// How many images wait, are being copied, and rest after a failure.
    #[must_use]
    pub fn counts(&self) -> Jobs {
        let mut counts = Jobs::default();
        for job in self.inner.jobs().values() {
            match job {
                Job::Active(progress) if progress.is_started() => counts.running += 1,
                Job::Active(_) => counts.waiting += 1,
                Job::Resting(_) => counts.resting += 1,
            }
        }
        counts
    }

    /// Asks for a copy of `image`, and says how far it is. Must be called within a Tokio runtime.
    #[must_use]
    pub fn request(&self, image: &ImageRef<'static>) -> Status {
        let mut jobs = self.inner.jobs();
        if jobs.len() >= MAX_JOBS && !jobs.contains_key(image) {
            // Those that failed make room for those that nobody has tried yet; who needs them asks again.
            jobs.retain(|_, job| matches!(job, Job::Active(_)));
            if jobs.len() >= MAX_JOBS {
                return Status::Full;
            }
        }
        let failures = match jobs.entry(image.clone()) {
            Entry::Occupied(entry) => match entry.get().due_failures(Instant::now()) {
                None => return entry.get().status(),
                Some(failures) => failures,
            },
            Entry::Vacant(_) => 0,
        };
        let progress = Arc::new(JobProgress::default());
        let job = Job::Active(Arc::clone(&progress));
        let status = job.status();
        jobs.insert(image.clone(), job);
        drop(jobs);
        let inner = Arc::clone(&self.inner);
        let image = image.clone();
        self.inner.tasks.spawn(async move {
            let stop = inner.stop.clone();
            let _end = End {
                inner: &inner,
                image: &image,
            };
            // A stopped copy leaves no tag; the next run finds the blobs that are there.
            let _ = stop
                .run_until_cancelled(inner.work(&image, progress, failures))
                .await;
        });
        status
    }

    /// Stops all copies and waits until they have let go.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl<C: Copier> Inner<C> {
    async fn work(
        &self,
        image: &ImageRef<'static>,
        mut progress: Arc<JobProgress>,
        mut failures: u32,
    ) {
        loop {
            let Some(failure) = self.attempt(image, &progress).await else {
                self.jobs().remove(image);
                return;
            };
            failures = failures.saturating_add(1);
            let pause = pause(failures, failure.retry);
            let automatic = failure.retry.is_transient() && failures < AUTOMATIC_ATTEMPTS;
            tracing::warn!(%image, failures, pause_s = pause.as_secs(), automatic, reason = failure.reason, "could not copy");
            let until = Instant::now() + pause;
            let rest = Rest {
                reason: failure.reason,
                failures,
                until,
                automatic,
            };
            self.jobs().insert(image.clone(), Job::Resting(rest));
            if !automatic {
                return;
            }
            tokio::time::sleep(pause).await;
            let Some(job) = self.resume(image, until) else {
                return;
            };
            progress = job;
        }
    }

    /// Takes a job up again after the rest that lasts until `until`, unless it had to make room meanwhile.
    fn resume(&self, image: &ImageRef<'static>, until: Instant) -> Option<Arc<JobProgress>> {
        let mut jobs = self.jobs();
        let job = jobs.get_mut(image).filter(|job| job.rests_until(until))?;
        let progress = Arc::new(JobProgress::default());
        *job = Job::Active(Arc::clone(&progress));
        Some(progress)
    }

    async fn attempt(&self, image: &ImageRef<'static>, progress: &JobProgress) -> Option<Failure> {
        let _place = self.places.take(image.host()).await;
        progress.start();
        tracing::info!(%image, "copying");
        let started = Instant::now();
        let result = tokio::select! {
            result = self.copier.copy(image, progress) => result,
            stalled = progress.stalled() => Err(stalled),
        };
        self.metrics
            .copy_ended(result.as_ref().ok(), started.elapsed());
        match result {
            Ok(report) => {
                tracing::info!(
                    %image, digest = %report.digest, bytes = report.bytes, requests = report.requests,
                    copied = report.blobs_copied, mounted = report.blobs_mounted, skipped = report.blobs_skipped,
                    elapsed_ms = u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX), "copied"
                );
                None
            }
            Err(failure) => Some(failure),
        }
    }
}

impl<C> Inner<C> {
    fn jobs(&self) -> MutexGuard<'_, HashMap<ImageRef<'static>, Job>> {
        // No code panics while holding the lock half way through a change.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that ends without having said how, because it was stopped or has a defect, must not leave its image "being
/// copied" for ever.
struct End<'a, C> {
    inner: &'a Inner<C>,
    image: &'a ImageRef<'static>,
}

impl<C> Drop for End<'_, C> {
    fn drop(&mut self) {
        let mut jobs = self.inner.jobs();
        if jobs.get(self.image).is_some_and(|job| !job.is_over()) {
            jobs.remove(self.image);
        }
    }
}

/// How long a job rests after its `failures`-th failure in a row: 1 s doubling to 15 minutes, with jitter so that many
/// images do not come back at the same moment. A permanent error rests for five minutes at once: somebody has to act
/// first, and each try costs the registry's patience.
fn pause(failures: u32, retry: Retry) -> Duration {
    const LONGEST: Duration = Duration::from_mins(15);
    let base = match retry {
        Retry::Permanent => return Duration::from_mins(5),
        Retry::Transient { after } => {
            let doubled = Duration::from_secs(1 << failures.saturating_sub(1).min(10));
            doubled.max(after.unwrap_or_default()).min(LONGEST)
        }
    };
    base.mul_f64(1.0 + fastrand::f64() / 4.0)
}
