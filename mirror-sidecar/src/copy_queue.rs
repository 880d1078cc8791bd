//! The copies to make.
//!
//! Every image is copied at most once at a time, few images at the same time, and failures are tried again with growing
//! pauses. Nothing is written down: whoever needs an image asks again, so a restart loses no work. What the copies are
//! made of is the [`Copier`]'s matter.

mod fair_slots;
mod job;
mod jobs;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_contract::ImageRef;
use mirror_copy::{CopyReport, Retry};
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::{doubling, jittered};
use crate::metrics::{Jobs as Counts, Metrics};
use crate::reason::Reason;

use fair_slots::{Line, Places};
pub use job::JobProgress;
use job::{Job, Rest, Stage};
use jobs::Jobs;

/// Ends of attempts that wait to be heard of. Who is behind by more looks at everything instead.
const MAX_ENDED: usize = 1024;

/// Failures after which a job is not tried again by itself, but only when somebody asks for the image: about an hour.
const AUTOMATIC_ATTEMPTS: u32 = 12;

/// How an image is copied.
pub trait Copier: Send + Sync + 'static {
    /// Copies an image; dropping the future stops the copy.
    fn copy(
        &self,
        image: &ImageRef<'static>,
        task: Task,
        progress: &JobProgress,
    ) -> impl Future<Output = Result<CopyReport, Failure>> + Send;
}

/// What is to be done for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Make its copy. What the backup has of it is believed to be whole.
    Copy,
    /// Make its copy again, which was there and vanished: everything that the backup still has of it is looked at.
    Restore,
    /// Make the copy follow its original. The older copy stays in place meanwhile, and also if that fails.
    Update,
}

/// Who needs a copy. Both take turns where both wait, and to both some places are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Something in the cluster runs it.
    InUse,
    /// Somebody asked for it.
    Asked,
}

/// Why an image could not be copied.
#[derive(Clone, Debug)]
pub struct Failure {
    /// For those who asked, and for the log.
    pub reason: Reason,
    /// Whether trying again may help.
    pub retry: Retry,
    /// Whether the source says that it has no such image, or does not say whether it has it.
    pub is_absent: bool,
}

/// How far the copy of an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Being made or waiting for its turn, in words.
    Pending(String),
    /// The last attempt failed.
    Failed {
        /// Why, in one sentence.
        reason: String,
        /// What is to be expected of the next one.
        outlook: Outlook,
    },
    /// Not accepted, because too many images are asked for.
    Full,
}

/// What is to be expected after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It may pass by itself.
    Passing,
    /// It will fail again until somebody changes something.
    Lasting,
    /// The same, because the source has no such image, or shows none to this client.
    Absent,
}

/// The copies to make. Clones share the work.
pub struct CopyQueue<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    copier: C,
    metrics: Metrics,
    jobs: Mutex<Jobs>,
    places: Places,
    ended: broadcast::Sender<ImageRef<'static>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<C> Clone for CopyQueue<C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<C: Copier> CopyQueue<C> {
    /// A schedule that makes at most `parallel` copies at the same time, and counts how they end.
    pub fn new(copier: C, parallel: NonZeroUsize, metrics: Metrics) -> Self {
        let inner = Inner {
            copier,
            metrics,
            jobs: Mutex::default(),
            places: Places::new(parallel),
            ended: broadcast::Sender::new(MAX_ENDED),
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

    /// Whether `image` has no copy that could be used before the one that is being made, or waits for its turn.
    #[must_use]
    pub fn is_awaited(&self, image: &ImageRef<'static>) -> bool {
        let jobs = self.inner.jobs();
        let job = jobs.get(image);
        job.is_some_and(|job| job.is_active() && job.task != Task::Update)
    }

    /// Tells of which image an attempt ended, however it did. Who lags behind by more than a thousand must ask for the
    /// [`Self::status`] of all.
    #[must_use]
    pub fn ended(&self) -> broadcast::Receiver<ImageRef<'static>> {
        self.inner.ended.subscribe()
    }

    /// How many images wait, are being copied, and rest after a failure.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for job in self.inner.jobs().all() {
            match &job.stage {
                Stage::Active(progress) if progress.is_started() => counts.running += 1,
                Stage::Active(_) => counts.waiting += 1,
                Stage::Resting(_) => counts.resting += 1,
            }
        }
        counts
    }

    /// Asks for a copy of `image`, and says how far it is. Must be called within a Tokio runtime.
    ///
    /// What is in use is never refused for its number: of that the cluster itself is the bound. It takes nothing of the
    /// room for what is asked for.
    #[must_use]
    pub fn request(&self, image: &ImageRef<'static>, task: Task, priority: Priority) -> Status {
        let mut jobs = self.inner.jobs();
        if priority == Priority::Asked && !jobs.make_room_for(image) {
            return Status::Full;
        }
        let failures = match jobs.get(image) {
            None => 0,
            // Nobody waited for that, but somebody does now.
            Some(job) if job.is_resting() && job.task == Task::Update && task != Task::Update => 0,
            Some(job) => {
                let Some(failures) = job.due_failures(Instant::now()) else {
                    let status = job.status();
                    jobs.raise(image, priority);
                    return status;
                };
                failures
            }
        };
        let progress = Arc::new(JobProgress::new(priority));
        let (id, status) = jobs.begin(image, task, priority, &progress);
        drop(jobs);
        let inner = Arc::clone(&self.inner);
        let image = image.clone();
        self.inner.tasks.spawn(async move {
            let stop = inner.stop.clone();
            let end = End {
                inner: &inner,
                image: &image,
                id,
            };
            // A stopped copy leaves no tag; the next run finds the blobs that are there.
            let _ = stop
                .run_until_cancelled(end.work(task, progress, failures))
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

impl<C: Copier> End<'_, C> {
    async fn work(&self, task: Task, mut progress: Arc<JobProgress>, mut failures: u32) {
        loop {
            let result = self.attempt(task, &progress, failures).await;
            failures = failures.saturating_add(1);
            let pause = result.err().map(|failure| self.rest(failure, failures));
            self.inner.tell_ended(self.image);
            let Some(Some(pause)) = pause else {
                return;
            };
            tokio::time::sleep(pause).await;
            let Some(next) = self.resume() else {
                return;
            };
            progress = next;
        }
    }

    /// Notes a failure; `Some` is the time after which to try again by itself.
    fn rest(&self, failure: Failure, failures: u32) -> Option<Duration> {
        let (image, pause) = (self.image, pause(failures, failure.retry));
        let outlook = failure.outlook();
        let automatic = outlook == Outlook::Passing && failures < AUTOMATIC_ATTEMPTS;
        tracing::warn!(%image, failures, pause_s = pause.as_secs(), automatic, reason = failure.reason.detail, "could not copy");
        if let Some(job) = self.inner.jobs().own(image, self.id) {
            job.stage = Stage::Resting(Rest {
                reason: failure.reason.public,
                outlook,
                failures,
                until: Instant::now() + pause,
                automatic,
            });
        }
        automatic.then_some(pause)
    }

    /// Takes the job up again after its rest, unless it had to make room meanwhile.
    fn resume(&self) -> Option<Arc<JobProgress>> {
        let mut jobs = self.inner.jobs();
        let job = jobs.own(self.image, self.id)?;
        let progress = Arc::new(JobProgress::new(job.priority));
        job.stage = Stage::Active(Arc::clone(&progress));
        Some(progress)
    }

    async fn attempt(
        &self,
        task: Task,
        progress: &JobProgress,
        failures: u32,
    ) -> Result<(), Failure> {
        let (inner, image) = (self.inner, self.image);
        let places = &inner.places;
        let line = || Line::of(progress.priority(), task);
        let place = tokio::select! {
            biased;
            place = places.take(image.host(), line()) => place,
            // It joins another line.
            () = progress.raised() => places.take(image.host(), line()).await,
        };
        progress.start();
        tracing::info!(%image, ?task, "copying");
        let started = Instant::now();
        let result = tokio::select! {
            result = inner.copier.copy(image, task, progress) => result,
            stalled = progress.stalled() => Err(stalled),
            late = progress.crowded_out(|| place.others_wait(), failures) => Err(late),
        };
        inner
            .metrics
            .copy_ended(result.as_ref().ok(), started.elapsed());
        let report = result?;
        tracing::info!(
            %image, digest = %report.digest, bytes = report.bytes, requests = report.requests,
            copied = report.blobs_copied, mounted = report.blobs_mounted, skipped = report.blobs_skipped,
            elapsed_ms = u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX), "copied"
        );
        self.inner.jobs().forget(image, self.id);
        Ok(())
    }
}

impl<C> Inner<C> {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // No code panics while holding the lock half way through a change.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_ended(&self, image: &ImageRef<'static>) {
        // Without a cluster nobody listens.
        let _ = self.ended.send(image.clone());
    }
}

impl Failure {
    fn outlook(&self) -> Outlook {
        match self.retry {
            Retry::Transient { .. } => Outlook::Passing,
            Retry::Permanent if self.is_absent => Outlook::Absent,
            Retry::Permanent => Outlook::Lasting,
        }
    }
}

/// A task that ends without having said how, because it was stopped or has a defect, must not leave its image "being
/// copied" for ever.
struct End<'a, C> {
    inner: &'a Inner<C>,
    image: &'a ImageRef<'static>,
    id: u64,
}

impl<C> Drop for End<'_, C> {
    fn drop(&mut self) {
        let mut jobs = self.inner.jobs();
        if jobs
            .own(self.image, self.id)
            .is_some_and(|job| !job.is_over())
        {
            jobs.remove(self.image);
            drop(jobs);
            self.inner.tell_ended(self.image);
        }
    }
}

/// How long a job rests after its `failures`-th failure in a row: 1 s doubling to 15 minutes, with jitter so that many
/// images do not come back at the same moment. A permanent error rests for five minutes at once: somebody has to act
/// first, and each try costs the registry's patience.
fn pause(failures: u32, retry: Retry) -> Duration {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_mins(15);
    match retry {
        Retry::Permanent => Duration::from_mins(5),
        Retry::Transient { after } => {
            let pause = doubling(FIRST, LONGEST, failures);
            jittered(pause.max(after.unwrap_or_default()).min(LONGEST))
        }
    }
}
