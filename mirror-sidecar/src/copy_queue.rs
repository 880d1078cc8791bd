//! The queue of copies, of all backups.
//!
//! Each image is copied at most once at a time to each backup, few images run in parallel, and failures are retried with
//! exponential backoff. Slots, memory and time go to sources that deliver; docs/fairness.md has the bounds. Only the list
//! of running copies is stored ([`CrashRecord`]): anyone who needs an image requests it again, so a restart loses no work.
//!
//! - [`runner`]: starts jobs, checks running copies, and draws the consequences of their results;
//! - [`fair_slots`]: which job is next;
//! - [`limits`]: when a running copy gives up its slot;
//! - [`sources`]: which sources deliver;
//! - [`jobs`]: the jobs by image, and how many there may be;
//! - [`retry_delay`]: how long a failed copy waits;
//! - [`crash_record`]: which copies were running when the process died.

mod copier;
mod crash_record;
mod fair_slots;
mod job;
mod jobs;
mod limits;
mod metrics;
mod progress;
mod retry_delay;
mod runner;
mod sources;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::Arc;

use mirror_contract::{BackupName, ImageRef};
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use copier::{Copier, Failure, SourceState};
pub use crash_record::CrashRecord;
use fair_slots::Lane;
use job::{Job, Stage};
pub use job::{Outlook, Status, Task};
use jobs::InUseLimits;
pub use metrics::{CopyMetrics, Counts};
pub use progress::{CopyProgress, JobProgress};
use runner::{Backup, MAX_GROUPS, Runner};
use sources::BackupId;
pub(crate) use sources::{Class, Source, Sources};

/// Ended attempts that are buffered for receivers. A receiver that lags behind by more checks all images instead.
const MAX_ENDED: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requester {
    /// Objects in these namespaces use the image. Namespaces beyond 16 are not counted.
    Namespaces(Vec<Arc<str>>),
    /// A client requested the image, usually the policy for a workload that is being admitted.
    Admission,
}

/// The copies to one backup in the queue. Clones share them. When the last one is dropped, they are removed.
pub struct CopyQueue<C: Copier> {
    runner: Arc<Runner<C>>,
    backup: Arc<Membership<C>>,
}

/// The queue of the copies to all backups.
pub struct SharedQueue<C> {
    runner: Arc<Runner<C>>,
}

/// Removes the backup from the queue on drop.
struct Membership<C: Copier> {
    runner: Arc<Runner<C>>,
    backup: Arc<Backup<C>>,
}

impl<C: Copier> Clone for CopyQueue<C> {
    fn clone(&self) -> Self {
        Self {
            runner: Arc::clone(&self.runner),
            backup: Arc::clone(&self.backup),
        }
    }
}

impl<C: Copier> SharedQueue<C> {
    /// A queue that runs at most `parallel` copies.
    #[must_use]
    pub fn new(parallel: NonZeroUsize) -> Self {
        Self {
            runner: Arc::new(Runner::new(parallel)),
        }
    }

    /// Adds a backup, which gets at most `max_parallel` of the copies that run at the same time.
    pub fn add(
        &self,
        name: BackupName<'static>,
        copier: C,
        max_parallel: Option<NonZeroUsize>,
        metrics: CopyMetrics,
    ) -> CopyQueue<C> {
        let mut state = self.runner.state();
        state.last_backup = state.last_backup.next();
        let backup = Arc::new(Backup {
            id: state.last_backup,
            name: Some(name).filter(|name| !name.is_default()),
            copier,
            metrics,
            ended: broadcast::Sender::new(MAX_ENDED),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        state.backups.insert(backup.id, Arc::clone(&backup));
        state.slots.add_backup(backup.id, max_parallel);
        drop(state);
        CopyQueue {
            runner: Arc::clone(&self.runner),
            backup: Arc::new(Membership {
                runner: Arc::clone(&self.runner),
                backup,
            }),
        }
    }

    /// The record of running copies. The caller stores it.
    #[must_use]
    pub fn crash_record(&self) -> &CrashRecord {
        &self.runner.crash_record
    }
}

impl<C: Copier> CopyQueue<C> {
    /// A queue of a single backup that runs at most `parallel` copies.
    pub fn new(copier: C, parallel: NonZeroUsize, metrics: CopyMetrics) -> Self {
        SharedQueue::new(parallel).add(BackupName::DEFAULT, copier, None, metrics)
    }

    /// Limits the images in use that may wait, run or back off in all backups: of one namespace, and of all.
    pub fn limit_in_use(&self, of_namespace: usize, of_all: usize) {
        self.runner.state().jobs.in_use_limits = InUseLimits {
            of_namespace,
            of_all,
        };
    }

    /// The status of the copy of `image`; `None` if it was not requested or is complete.
    #[must_use]
    pub fn status(&self, image: &ImageRef<'static>) -> Option<Status> {
        let state = self.runner.state();
        state.jobs.get(self.id(), image).map(Job::status)
    }

    /// The progress of the running copy of `image`; `None` if it does not run.
    #[must_use]
    pub fn progress(&self, image: &ImageRef<'static>) -> Option<CopyProgress> {
        let state = self.runner.state();
        match &state.jobs.get(self.id(), image)?.stage {
            Stage::Running(progress) => Some(progress.snapshot(Instant::now())),
            Stage::Waiting | Stage::BackingOff(_) => None,
        }
    }

    /// Returns the images whose copies run.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<ImageRef<'static>>> {
        let state = self.runner.state();
        let jobs = state.jobs.of_backup(self.id());
        let running = jobs.filter(|job| matches!(job.stage, Stage::Running(_)));
        running.map(|job| Arc::clone(&job.image)).collect()
    }

    /// Returns whether `image` is queued or running and has no older copy that could be used meanwhile.
    #[must_use]
    pub fn is_awaited(&self, image: &ImageRef<'static>) -> bool {
        let state = self.runner.state();
        let job = state.jobs.get(self.id(), image);
        job.is_some_and(|job| job.is_active() && job.task != Task::Update)
    }

    /// Returns whether the source of `image` delivered images to this backup recently, and none too slowly since.
    #[must_use]
    pub fn has_proven_source(&self, image: &ImageRef<'_>) -> bool {
        let source = Source::of(self.id(), image);
        let state = self.runner.state();
        state.slots.sources.class(&source, Instant::now()) == Class::Proven
    }

    /// Receives the image of each attempt that ended. A receiver that lags behind by more than a thousand must check
    /// the [`Self::status`] of all.
    #[must_use]
    pub fn ended(&self) -> broadcast::Receiver<ImageRef<'static>> {
        self.backup().ended.subscribe()
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.runner.state();
        let mut counts = Counts {
            isolated: self.runner.crash_record.isolated(),
            ..Counts::default()
        };
        for job in state.jobs.of_backup(self.id()) {
            *match &job.stage {
                Stage::Waiting => &mut counts.waiting,
                Stage::Running(_) => &mut counts.running,
                Stage::BackingOff(_) => &mut counts.backing_off,
            } += 1;
        }
        counts
    }

    pub fn update_metrics(&self) {
        self.backup().metrics.set_counts(self.counts());
    }

    /// Requests a copy of `image` and returns its status. Must be called within a Tokio runtime.
    ///
    /// Admission is never refused a new name: it displaces the oldest that never succeeded, of the backup with the most
    /// requested names. Images in use are refused only beyond the limit of their namespace.
    #[must_use]
    pub fn request(&self, image: &ImageRef<'static>, task: Task, requester: &Requester) -> Status {
        let now = Instant::now();
        let mut state = self.runner.state();
        let (lane, groups) = requester.groups();
        let mut failures = 0;
        let mut is_penalized = false;
        if let Some(job) = state.jobs.get(self.id(), image) {
            let id = job.id;
            // Nobody waited for an update, but now somebody waits for the copy.
            let is_more_urgent =
                job.is_backing_off() && job.task == Task::Update && task != Task::Update;
            if !is_more_urgent && !job.is_due(now) {
                if lane == Lane::InUse {
                    self.runner.join(&mut state, id, &groups, now);
                }
                let job = state.jobs.get(self.id(), image);
                return job.map_or(Status::Full, Job::status);
            }
            if !is_more_urgent {
                (failures, is_penalized) = (job.failures, job.is_penalized);
            }
            state.remove(id);
        }
        if !state.make_room(self.id(), lane, &groups, now) {
            return Status::Full;
        }
        let id = state.jobs.next_id();
        state.jobs.add(Job {
            id,
            backup: self.id(),
            image: Arc::new(image.clone()),
            task,
            lane,
            groups,
            stage: Stage::Waiting,
            failures,
            is_penalized,
            is_long: false,
            is_isolated: false,
        });
        if !self.runner.isolate(&mut state, id, now) {
            state.enqueue(id, now);
            if state.slots.may_start(id, now) && !self.runner.crash_record.is_loading(now) {
                self.runner.start(&mut state, id, now);
            }
        }
        self.runner.tick_soon();
        state.jobs.by_id(id).map_or(Status::Full, Job::status)
    }

    /// Stops the copies to this backup, waits for their tasks, and starts no others.
    pub async fn shutdown(&self) {
        let backup = self.backup();
        backup.stop.cancel();
        drop(self.runner.remove_jobs(backup.id));
        backup.tasks.close();
        backup.tasks.wait().await;
    }

    fn backup(&self) -> &Backup<C> {
        &self.backup.backup
    }

    fn id(&self) -> BackupId {
        self.backup().id
    }
}

impl<C: Copier> Drop for Membership<C> {
    fn drop(&mut self) {
        self.backup.stop.cancel();
        let id = self.backup.id;
        let mut state = self.runner.remove_jobs(id);
        state.backups.remove(&id);
        state.slots.remove_backup(id);
    }
}

impl Requester {
    fn groups(&self) -> (Lane, Vec<Arc<str>>) {
        match self {
            Self::Admission => (Lane::Requested, vec![Arc::from("")]),
            Self::Namespaces(names) if names.is_empty() => (Lane::InUse, vec![Arc::from("")]),
            Self::Namespaces(names) => {
                let names = names.iter().take(MAX_GROUPS).cloned();
                (Lane::InUse, names.collect())
            }
        }
    }
}
