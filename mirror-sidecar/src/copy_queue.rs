//! The queue of copies.
//!
//! Each image is copied at most once at a time, few images run in parallel, and failures are retried with exponential
//! backoff. Slots, memory and time go to sources that deliver; docs/fairness.md has the bounds. Only the list of
//! running copies is stored ([`CrashRecord`]): anyone who needs an image requests it again, so a restart loses no work.
//!
//! - [`fair_slots`]: which job is next;
//! - [`slots`]: slots that the queues of several backups share;
//! - [`limits`]: when a running copy gives up its slot;
//! - [`sources`]: which sources deliver;
//! - [`jobs`]: the jobs by image, and how many there may be;
//! - [`retry_delay`]: how long a failed copy waits;
//! - [`crash_record`]: which copies were running when the process died.

mod crash_record;
mod fair_slots;
mod job;
mod jobs;
mod limits;
mod metrics;
mod progress;
mod retry_delay;
mod slots;
mod sources;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mirror_contract::{BackupName, ImageRef};
use mirror_copy::{CopyReport, Retry};
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::logging::Throttle;
use crate::reason::Reason;

pub use crash_record::CrashRecord;
use fair_slots::{FairSlots, Lane};
use job::{Job, Stage, Wait};
pub use job::{Outlook, Status, Task};
use jobs::{InUseLimits, Jobs, Room};
use limits::{Blame, TICK, Verdict};
pub use metrics::{CopyMetrics, Counts};
pub use progress::JobProgress;
use retry_delay::{AUTOMATIC_ATTEMPTS, penalty_delay, retry_delay};
use slots::Demand;
pub use slots::{CopySlots, QueueSlots};
use sources::{Class, Source};

/// Ended attempts that are buffered for receivers. A receiver that lags behind by more checks all images instead.
const MAX_ENDED: usize = 1024;

/// Shortest time between two log lines about failed copies that admission requested. Those of images in use are all
/// logged.
const REQUESTED_FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Images requested by admission whose first failure is logged, per minute.
const FIRST_FAILURES_LOGGED: u32 = 100;

/// Namespaces that share their turns with one image.
const MAX_GROUPS: usize = 16;

/// Copies images.
pub trait Copier: Send + Sync + 'static {
    /// Copies an image; dropping the future stops the copy.
    fn copy(
        &self,
        image: &ImageRef<'static>,
        task: Task,
        progress: &JobProgress,
    ) -> impl Future<Output = Result<CopyReport, Failure>> + Send;

    /// The state of the registry of an image that is being copied.
    fn source_state(&self, _image: &ImageRef<'static>) -> SourceState {
        SourceState::default()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SourceState {
    /// The address that the host name last resolved to, if known.
    pub address: Option<IpAddr>,
    /// The registry requested a pause that is not over.
    pub is_paused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requester {
    /// Objects in these namespaces use the image. Namespaces beyond 16 are not counted.
    Namespaces(Vec<Arc<str>>),
    /// A client requested the image, usually the policy for a workload that is being admitted.
    Admission,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub reason: Reason,
    pub retry: Retry,
    /// The source reports that it has no such image, or does not reveal whether it has it.
    pub is_absent: bool,
    /// The cause is logged elsewhere, once for all images that it affects.
    pub is_reported: bool,
}

/// The queue of copies. Clones share it.
pub struct CopyQueue<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    copier: C,
    /// In log lines; `None` for the default backup.
    backup: Option<BackupName<'static>>,
    slots: QueueSlots,
    metrics: CopyMetrics,
    state: Mutex<State>,
    crash_record: CrashRecord,
    ended: broadcast::Sender<ImageRef<'static>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    is_ticking: AtomicBool,
    /// Limits log lines, since any client may request any number of names that do not exist.
    requested_failures: Throttle,
    /// Limits log lines about the first failure of each image. Later ones repeat its reason.
    first_requested_failures: Throttle,
    /// Wakes the task that checks running copies and backoffs.
    changed: Arc<Notify>,
}

struct State {
    jobs: Jobs,
    slots: FairSlots,
}

/// What the queues of all backups share: the slots, and the record of running copies. Clones share it.
#[derive(Clone)]
pub struct SharedCopying {
    slots: CopySlots,
    crash_record: CrashRecord,
}

impl SharedCopying {
    /// At most `parallel` copies at a time, of all backups together.
    #[must_use]
    pub fn new(parallel: NonZeroUsize) -> Self {
        Self {
            slots: CopySlots::new(parallel),
            crash_record: CrashRecord::new(),
        }
    }

    /// The record of running copies. The caller stores it.
    #[must_use]
    pub fn crash_record(&self) -> &CrashRecord {
        &self.crash_record
    }
}

enum Outcome {
    Ended(Result<CopyReport, Failure>),
    Evicted(Verdict),
}

impl<C> Clone for CopyQueue<C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<C: Copier> CopyQueue<C> {
    /// A queue that runs at most `parallel` copies.
    pub fn new(copier: C, parallel: NonZeroUsize, metrics: CopyMetrics) -> Self {
        let shared = SharedCopying::new(parallel);
        Self::of_backup(copier, BackupName::DEFAULT, None, &shared, metrics)
    }

    /// A queue for one of several backups, which runs at most `most` copies.
    pub fn of_backup(
        copier: C,
        backup: BackupName<'static>,
        most: Option<NonZeroUsize>,
        shared: &SharedCopying,
        metrics: CopyMetrics,
    ) -> Self {
        let slots = shared.slots.queue(most);
        let state = State {
            jobs: Jobs::default(),
            slots: FairSlots::new(NonZeroUsize::MIN),
        };
        let changed = slots.changed();
        let inner = Inner {
            copier,
            backup: Some(backup).filter(|backup| !backup.is_default()),
            slots,
            metrics,
            state: Mutex::new(state),
            crash_record: shared.crash_record.clone(),
            ended: broadcast::Sender::new(MAX_ENDED),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            is_ticking: AtomicBool::new(false),
            requested_failures: Throttle::new(REQUESTED_FAILURE_LOG_INTERVAL),
            first_requested_failures: Throttle::with_burst(
                Duration::from_mins(1),
                FIRST_FAILURES_LOGGED,
            ),
            changed,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Limits the images in use that may wait, run or back off: of one namespace, and of all.
    pub fn limit_in_use(&self, of_namespace: usize, of_all: usize) {
        self.inner.state().jobs.in_use_limits = InUseLimits {
            of_namespace,
            of_all,
        };
    }

    /// The record of running copies. The caller stores it.
    #[must_use]
    pub fn crash_record(&self) -> &CrashRecord {
        &self.inner.crash_record
    }

    /// The status of the copy of `image`; `None` if it was not requested or is complete.
    #[must_use]
    pub fn status(&self, image: &ImageRef<'static>) -> Option<Status> {
        self.inner.state().jobs.get(image).map(Job::status)
    }

    /// Returns whether `image` is queued or running and has no older copy that could be used meanwhile.
    #[must_use]
    pub fn is_awaited(&self, image: &ImageRef<'static>) -> bool {
        let state = self.inner.state();
        let job = state.jobs.get(image);
        job.is_some_and(|job| job.is_active() && job.task != Task::Update)
    }

    /// Receives the image of each attempt that ended. A receiver that lags behind by more than a thousand must check
    /// the [`Self::status`] of all.
    #[must_use]
    pub fn ended(&self) -> broadcast::Receiver<ImageRef<'static>> {
        self.inner.ended.subscribe()
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.inner.state();
        let active = state.slots.running() + state.slots.waiting();
        Counts {
            waiting: state.slots.waiting(),
            running: state.slots.running(),
            backing_off: state.jobs.all().count().saturating_sub(active),
            isolated: self.inner.crash_record.isolated(),
        }
    }

    pub fn update_metrics(&self) {
        self.inner.metrics.set_counts(self.counts());
    }

    /// Requests a copy of `image` and returns its status. Must be called within a Tokio runtime.
    ///
    /// Admission is never refused a new name: it displaces the oldest that never succeeded. Images in use are refused
    /// only beyond the limit of their namespace.
    #[must_use]
    pub fn request(&self, image: &ImageRef<'static>, task: Task, requester: &Requester) -> Status {
        let now = Instant::now();
        let mut state = self.inner.state();
        let (lane, groups) = requester.groups();
        let mut failures = 0;
        let mut is_penalized = false;
        if let Some(job) = state.jobs.get(image) {
            let id = job.id;
            // Nobody waited for an update, but now somebody waits for the copy.
            let is_more_urgent =
                job.is_backing_off() && job.task == Task::Update && task != Task::Update;
            if !is_more_urgent && !job.is_due(now) {
                if lane == Lane::InUse {
                    self.inner.join(&mut state, id, &groups, now);
                }
                return state.jobs.get(image).map_or(Status::Full, Job::status);
            }
            if !is_more_urgent {
                (failures, is_penalized) = (job.failures, job.is_penalized);
            }
            state.remove(id);
        }
        if !self.inner.make_room(&mut state, lane, &groups, now) {
            return Status::Full;
        }
        let id = state.jobs.next_id();
        state.jobs.add(Job {
            id,
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
        if !self.inner.isolate(&mut state, id, now) {
            state.enqueue(id, now);
            self.inner.share_slots(&mut state, now);
            if state.slots.may_start(id, now) && !self.inner.crash_record.is_loading(now) {
                self.inner.start(&mut state, id, now);
            }
        }
        self.inner.share_slots(&mut state, now);
        self.inner.tick_soon();
        state.jobs.by_id(id).map_or(Status::Full, Job::status)
    }

    /// Stops all copies and waits for their tasks.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl<C: Copier> Inner<C> {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while holding the lock half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds namespaces to the job.
    fn join(self: &Arc<Self>, state: &mut State, id: u64, groups: &[Arc<str>], now: Instant) {
        if !state.jobs.join(id, groups, MAX_GROUPS) {
            return;
        }
        let Some(job) = state.jobs.by_id(id) else {
            return;
        };
        let groups = job.groups.clone();
        let is_waiting = job.is_waiting();
        state.slots.regroup(id, Lane::InUse, groups);
        self.share_slots(state, now);
        if is_waiting && state.slots.may_start(id, now) && !self.crash_record.is_loading(now) {
            self.start(state, id, now);
            self.share_slots(state, now);
        }
    }

    /// Makes room for one more job. Returns whether there is any.
    fn make_room(&self, state: &mut State, lane: Lane, groups: &[Arc<str>], now: Instant) -> bool {
        let room = match lane {
            Lane::Requested => {
                let sources = &state.slots.sources;
                state.jobs.room_for_requested(|job| {
                    sources.class(&Source::of(&job.image), now) == Class::Proven
                })
            }
            Lane::InUse => {
                let namespace = groups.first().map_or("", |name| name);
                state.jobs.room_for_in_use(namespace)
            }
        };
        if let Room::InsteadOf(id) = room
            && let Some(job) = state.remove(id)
        {
            tracing::debug!(image = %job.image, "displaced image from the queue");
            self.report_ended(&job.image);
        }
        room != Room::None
    }

    /// Postpones the job if its image must be copied alone. Returns whether the job backs off.
    fn isolate(&self, state: &mut State, id: u64, now: Instant) -> bool {
        let Some(job) = state.jobs.by_id_mut(id) else {
            return false;
        };
        let Some(isolation) = self.crash_record.isolation(&job.image.to_string()) else {
            return false;
        };
        job.is_isolated = true;
        if isolation.backoff.is_zero() {
            return false;
        }
        tracing::info!(
            image = %job.image, crashes = isolation.crashes, backoff_s = isolation.backoff.as_secs(),
            "isolated image: it is copied alone after the backoff"
        );
        let wait = Wait {
            reason: format!(
                "mirror-sidecar died {} times while copying the image, which is copied alone later; raise the memory limit \
                 of mirror-sidecar, or exclude the image",
                isolation.crashes
            ),
            outlook: Outlook::Passing,
            until: now + isolation.backoff,
            is_automatic: true,
        };
        state.jobs.set_backing_off(id, wait);
        true
    }

    /// Tells the queues of other backups what runs and waits here, and uses what they leave.
    fn share_slots(&self, state: &mut State, now: Instant) {
        self.slots.set(Demand {
            running: state.slots.running(),
            waiting: state.slots.waiting(),
            is_exclusive: state.slots.is_exclusive(now),
        });
        state.slots.set_limit(self.slots.limit());
    }

    /// Starts the jobs that may run now.
    fn dispatch(self: &Arc<Self>, state: &mut State, now: Instant) {
        self.share_slots(state, now);
        if self.stop.is_cancelled() || self.crash_record.is_loading(now) {
            return;
        }
        while let Some(id) = state.slots.next(now) {
            if !self.start(state, id, now) {
                break;
            }
        }
        self.share_slots(state, now);
    }

    /// Starts a job; returns `false` if the copies of other backups do not allow it now.
    fn start(self: &Arc<Self>, state: &mut State, id: u64, now: Instant) -> bool {
        // The record may have been loaded after the job was added.
        let is_new = state.jobs.by_id(id).is_some_and(|job| !job.is_isolated);
        if is_new
            && state
                .jobs
                .by_id(id)
                .is_some_and(|job| self.is_isolated(job))
        {
            state.slots.remove(id);
            if !self.isolate(state, id, now) {
                state.enqueue(id, now);
            }
            return true;
        }
        let Some(job) = state.jobs.by_id(id) else {
            state.slots.remove(id);
            return true;
        };
        if (job.is_isolated && !self.slots.are_others_idle()) || !self.slots.take() {
            return false;
        }
        let (image, task, failures) = (Arc::clone(&job.image), job.task, job.failures);
        let progress = Arc::new(JobProgress::new(Arc::clone(&self.changed)));
        let (evict, evicted) = oneshot::channel();
        state.slots.start(id, Arc::clone(&progress), evict, now);
        state
            .jobs
            .set_running(id, Stage::Running(Arc::clone(&progress)));
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            let stop = inner.stop.clone();
            let mut end = End {
                inner: &inner,
                image: &image,
                id,
                is_concluded: false,
            };
            // A stopped copy leaves no tag; the next run finds the blobs that are there.
            let _ = stop
                .run_until_cancelled(end.attempt(task, &progress, evicted, failures))
                .await;
        });
        true
    }

    fn is_isolated(&self, job: &Job) -> bool {
        self.crash_record.isolated() > 0
            && self
                .crash_record
                .isolation(&job.image.to_string())
                .is_some()
    }

    /// Wakes the ticking task, and starts it if none runs.
    fn tick_soon(self: &Arc<Self>) {
        if self.is_ticking.swap(true, Ordering::Relaxed) {
            self.changed.notify_one();
        } else {
            let (inner, changed) = (Arc::downgrade(self), Arc::clone(&self.changed));
            self.tasks.spawn(tick(inner, changed, self.stop.clone()));
        }
    }

    /// Checks running copies, ends backoffs, and starts jobs that may run. Returns whether there is anything to check
    /// later.
    fn tick(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        let mut guard = self.state();
        let state = &mut *guard;
        let State { jobs, slots } = state;
        slots.check_running(now, |id| {
            let state = jobs
                .by_id(id)
                .map(|job| self.copier.source_state(&job.image));
            let state = state.unwrap_or_default();
            (state.address, state.is_paused)
        });
        while let Some(id) = state.jobs.next_due(now) {
            state.jobs.set_waiting(id);
            if !self.isolate(state, id, now) {
                state.enqueue(id, now);
            }
        }
        self.dispatch(state, now);
        !state.slots.is_empty() || state.jobs.is_any_due_later()
    }

    /// The name of the backup for the log.
    fn backup(&self) -> Option<&str> {
        self.backup.as_ref().map(BackupName::as_str)
    }

    fn report_ended(&self, image: &ImageRef<'static>) {
        // Without a cluster there are no receivers.
        let _ = self.ended.send(image.clone());
    }
}

async fn tick<C: Copier>(inner: Weak<Inner<C>>, changed: Arc<Notify>, stop: CancellationToken) {
    let mut is_busy = true;
    loop {
        let next_tick = async {
            if is_busy {
                tokio::time::sleep(TICK).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            () = next_tick => {}
        }
        let Some(inner) = inner.upgrade() else {
            return;
        };
        is_busy = inner.tick();
    }
}

impl State {
    fn enqueue(&mut self, id: u64, now: Instant) {
        if let Some(job) = self.jobs.by_id(id) {
            self.slots.enqueue(id, job.ticket(), now);
        }
    }

    fn remove(&mut self, id: u64) -> Option<Job> {
        self.slots.remove(id);
        self.jobs.remove(id)
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

impl Failure {
    fn passing(reason: String) -> Self {
        Self {
            reason: reason.into(),
            retry: Retry::Transient { after: None },
            is_absent: false,
            is_reported: false,
        }
    }

    fn outlook(&self) -> Outlook {
        match self.retry {
            Retry::Transient { .. } => Outlook::Passing,
            Retry::Permanent if self.is_absent => Outlook::Absent,
            Retry::Permanent => Outlook::Lasting,
        }
    }
}

/// Describes when an image is retried after the backoff. Images in use are requested again by their re-checks.
fn next_attempt(is_automatic: bool, lane: Option<Lane>) -> &'static str {
    match lane {
        _ if is_automatic => "automatic",
        Some(Lane::Requested) => "when a workload requests or uses the image",
        _ => "automatic, with the next re-check of the image",
    }
}

/// Concludes an attempt on drop: one that was stopped or panicked must not leave its image "copying", nor keep its
/// slot.
struct End<'a, C: Copier> {
    inner: &'a Arc<Inner<C>>,
    image: &'a ImageRef<'static>,
    id: u64,
    /// The job may run again already.
    is_concluded: bool,
}

impl<C: Copier> End<'_, C> {
    async fn attempt(
        &mut self,
        task: Task,
        progress: &JobProgress,
        evicted: oneshot::Receiver<Verdict>,
        failures: u32,
    ) {
        let (inner, image) = (self.inner, self.image);
        inner
            .crash_record
            .start(inner.slots.number(), self.id, &image.to_string())
            .await;
        tracing::debug!(%image, ?task, "copying image");
        let started = Instant::now();
        let outcome = tokio::select! {
            result = inner.copier.copy(image, task, progress) => Outcome::Ended(result),
            Ok(verdict) = evicted => Outcome::Evicted(verdict),
        };
        inner.crash_record.end(inner.slots.number(), self.id);
        let report = match &outcome {
            Outcome::Ended(result) => result.as_ref().ok(),
            Outcome::Evicted(_) => None,
        };
        if !matches!(
            outcome,
            Outcome::Evicted(Verdict::Requeue | Verdict::MakeRoom)
        ) {
            inner.metrics.copy_ended(report, started.elapsed());
        }
        if let Some(report) = report {
            tracing::info!(
                %image, backup = inner.backup(), digest = %report.digest, bytes = report.bytes, requests = report.requests,
                copied = report.blobs_copied, mounted = report.blobs_mounted, skipped = report.blobs_skipped,
                elapsed_ms = u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX), "copied image"
            );
        }
        self.conclude(outcome, failures);
    }

    fn conclude(&mut self, outcome: Outcome, failures: u32) {
        self.is_concluded = true;
        let now = Instant::now();
        let mut guard = self.inner.state();
        let state = &mut *guard;
        state.slots.remove(self.id);
        match outcome {
            Outcome::Ended(Ok(_)) => {
                state.slots.sources.delivered(&Source::of(self.image), now);
                self.end_isolation(state);
                state.jobs.remove(self.id);
                self.inner.report_ended(self.image);
            }
            Outcome::Ended(Err(failure)) => {
                if !failure.retry.is_transient() {
                    self.end_isolation(state);
                }
                self.back_off(state, &failure, Blame::Nobody, failures, now);
            }
            Outcome::Evicted(Verdict::GiveUp { reason, blame }) => {
                if blame.is_on_source() {
                    state.slots.sources.strike(&Source::of(self.image), now);
                }
                self.back_off(state, &Failure::passing(reason), blame, failures, now);
            }
            Outcome::Evicted(Verdict::MakeRoom) => {
                tracing::info!(image = %self.image, "requeued long copy to make room for others");
                if let Some(job) = state.jobs.by_id_mut(self.id) {
                    job.is_long = true;
                }
                self.wait_again(state, now);
            }
            Outcome::Evicted(Verdict::Requeue) => self.wait_again(state, now),
        }
        self.inner.dispatch(state, now);
    }

    fn wait_again(&self, state: &mut State, now: Instant) {
        state.jobs.set_waiting(self.id);
        state.enqueue(self.id, now);
    }

    fn end_isolation(&self, state: &mut State) {
        if let Some(job) = state.jobs.by_id_mut(self.id)
            && std::mem::take(&mut job.is_isolated)
        {
            self.inner.crash_record.clear(&self.image.to_string());
        }
    }

    fn back_off(
        &self,
        state: &mut State,
        failure: &Failure,
        blame: Blame,
        failures: u32,
        now: Instant,
    ) {
        let failures = failures.saturating_add(1);
        let delay = match blame {
            Blame::Nobody => retry_delay(failures, failure.retry),
            _ => penalty_delay(failures),
        };
        let outlook = failure.outlook();
        let is_automatic = outlook == Outlook::Passing && failures < AUTOMATIC_ATTEMPTS;
        let image = self.image;
        let lane = state.jobs.by_id(self.id).map(|job| job.lane);
        let times = match lane {
            _ if failure.is_reported => None,
            Some(Lane::Requested) if failures == 1 => self.inner.first_requested_failures.count(),
            Some(Lane::Requested) => self.inner.requested_failures.count(),
            _ => Some(1),
        };
        let (backup, reason) = (self.inner.backup(), &failure.reason.detail);
        let (backoff_s, next) = (delay.as_secs(), next_attempt(is_automatic, lane));
        if let Some(times) = times {
            let not_logged = times.saturating_sub(1);
            tracing::warn!(%image, backup, failures, backoff_s, next, not_logged, reason, "copy failed");
        } else {
            tracing::debug!(%image, backup, failures, backoff_s, next, reason, "copy failed");
        }
        if let Some(job) = state.jobs.by_id_mut(self.id) {
            job.failures = failures;
            job.is_penalized |= blame.is_on_image();
        }
        let wait = Wait {
            reason: failure.reason.public.clone(),
            outlook,
            until: now + delay,
            is_automatic,
        };
        state.jobs.set_backing_off(self.id, wait);
        self.inner.report_ended(image);
    }
}

impl<C: Copier> Drop for End<'_, C> {
    fn drop(&mut self) {
        if self.is_concluded {
            return;
        }
        self.inner
            .crash_record
            .end(self.inner.slots.number(), self.id);
        let mut state = self.inner.state();
        let is_running = |job: &Job| matches!(job.stage, Stage::Running(_));
        if state.jobs.by_id(self.id).is_some_and(is_running) {
            state.remove(self.id);
            self.inner.report_ended(self.image);
            self.inner.dispatch(&mut state, Instant::now());
        }
    }
}
