//! Starts the jobs whose turn it is, checks running copies, and draws the consequences of their results.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mirror_contract::{BackupName, ImageRef};
use mirror_copy::CopyReport;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::copier::{Copier, Failure};
use super::crash_record::CrashRecord;
use super::fair_slots::{FairSlots, Lane};
use super::job::{Job, Outlook, Stage, Task, Wait};
use super::jobs::{Jobs, Room};
use super::limits::{Blame, TICK, Verdict};
use super::metrics::CopyMetrics;
use super::progress::JobProgress;
use super::retry_delay::{AUTOMATIC_ATTEMPTS, penalty_delay, retry_delay};
use super::sources::{BackupId, Class, Source};
use crate::logging::Throttle;

/// Shortest time between two log lines about failed copies that admission requested. Those of images in use are all
/// logged.
const REQUESTED_FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Images requested by admission whose first failure is logged, per minute.
const FIRST_FAILURES_LOGGED: u32 = 100;

/// Namespaces that share their turns with one image.
pub(super) const MAX_GROUPS: usize = 16;

pub(super) struct Runner<C> {
    state: Mutex<State<C>>,
    pub(super) crash_record: CrashRecord,
    is_ticking: AtomicBool,
    /// Limits log lines, since any client may request any number of names that do not exist.
    requested_failures: Throttle,
    /// Limits log lines about the first failure of each image. Later ones repeat its reason.
    first_requested_failures: Throttle,
    /// Wakes the task that checks running copies and backoffs.
    changed: Arc<Notify>,
    /// Ends that task.
    _stop_ticking: DropGuard,
    ticking: CancellationToken,
}

pub(super) struct State<C> {
    pub(super) jobs: Jobs,
    pub(super) slots: FairSlots,
    pub(super) backups: HashMap<BackupId, Arc<Backup<C>>>,
    pub(super) last_backup: BackupId,
}

/// A backup of the queue.
pub(super) struct Backup<C> {
    pub(super) id: BackupId,
    /// In log lines; `None` for the default backup.
    pub(super) name: Option<BackupName<'static>>,
    pub(super) copier: C,
    pub(super) metrics: CopyMetrics,
    pub(super) ended: broadcast::Sender<ImageRef<'static>>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl<C: Copier> Runner<C> {
    /// Runs at most `parallel` copies.
    pub(super) fn new(parallel: NonZeroUsize) -> Self {
        let state = State {
            jobs: Jobs::default(),
            slots: FairSlots::new(parallel),
            backups: HashMap::new(),
            last_backup: BackupId::default(),
        };
        let ticking = CancellationToken::new();
        Self {
            state: Mutex::new(state),
            crash_record: CrashRecord::new(),
            is_ticking: AtomicBool::new(false),
            requested_failures: Throttle::new(REQUESTED_FAILURE_LOG_INTERVAL),
            first_requested_failures: Throttle::with_burst(
                Duration::from_mins(1),
                FIRST_FAILURES_LOGGED,
            ),
            changed: Arc::default(),
            _stop_ticking: ticking.clone().drop_guard(),
            ticking,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<C>> {
        // No code panics while holding the lock half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds namespaces to the job.
    pub(super) fn join(
        self: &Arc<Self>,
        state: &mut State<C>,
        id: u64,
        groups: &[Arc<str>],
        now: Instant,
    ) {
        if !state.jobs.join(id, groups, MAX_GROUPS) {
            return;
        }
        let Some(job) = state.jobs.by_id(id) else {
            return;
        };
        let groups = job.groups.clone();
        let is_waiting = job.is_waiting();
        state.slots.regroup(id, Lane::InUse, groups);
        if is_waiting && state.slots.may_start(id, now) && !self.crash_record.is_loading(now) {
            self.start(state, id, now);
        }
    }

    /// Postpones the job if its image must be copied alone. Returns whether the job backs off.
    pub(super) fn isolate(&self, state: &mut State<C>, id: u64, now: Instant) -> bool {
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

    /// Starts the jobs that may run now.
    fn dispatch(self: &Arc<Self>, state: &mut State<C>, now: Instant) {
        if self.crash_record.is_loading(now) {
            return;
        }
        while let Some(id) = state.slots.next(now) {
            self.start(state, id, now);
        }
    }

    pub(super) fn start(self: &Arc<Self>, state: &mut State<C>, id: u64, now: Instant) {
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
            return;
        }
        let job = state.jobs.by_id(id);
        let job = job.and_then(|job| Some((job, state.backups.get(&job.backup)?)));
        let Some((job, backup)) = job.filter(|(_, backup)| !backup.stop.is_cancelled()) else {
            state.remove(id);
            return;
        };
        let attempt = Attempt {
            runner: Arc::clone(self),
            backup: Arc::clone(backup),
            job: id,
            image: Arc::clone(&job.image),
            task: job.task,
            failures: job.failures,
            is_running: false,
        };
        let progress = Arc::new(JobProgress::new(Arc::clone(&self.changed)));
        let (evict, evicted) = oneshot::channel();
        state.slots.start(id, Arc::clone(&progress), evict, now);
        state
            .jobs
            .set_running(id, Stage::Running(Arc::clone(&progress)));
        attempt.spawn(progress, evicted);
    }

    /// Removes all jobs of a backup.
    pub(super) fn remove_jobs(&self, backup: BackupId) -> MutexGuard<'_, State<C>> {
        let mut state = self.state();
        let ids: Vec<u64> = state.jobs.of_backup(backup).map(|job| job.id).collect();
        for id in ids {
            state.remove(id);
        }
        self.changed.notify_one();
        state
    }

    fn is_isolated(&self, job: &Job) -> bool {
        self.crash_record.isolated() > 0
            && self
                .crash_record
                .isolation(&job.image.to_string())
                .is_some()
    }

    /// Wakes the ticking task, and starts it if none runs.
    pub(super) fn tick_soon(self: &Arc<Self>) {
        if self.is_ticking.swap(true, Ordering::Relaxed) {
            self.changed.notify_one();
        } else {
            let (runner, changed) = (Arc::downgrade(self), Arc::clone(&self.changed));
            tokio::spawn(tick(runner, changed, self.ticking.clone()));
        }
    }

    /// Checks running copies, ends backoffs, and starts jobs that may run. Returns whether there is anything to check
    /// later.
    fn tick(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        let mut guard = self.state();
        let state = &mut *guard;
        let State {
            jobs,
            slots,
            backups,
            ..
        } = state;
        slots.check_running(now, |id| {
            let state = jobs.by_id(id).and_then(|job| {
                let backup = backups.get(&job.backup)?;
                Some(backup.copier.source_state(&job.image))
            });
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
}

async fn tick<C: Copier>(runner: Weak<Runner<C>>, changed: Arc<Notify>, stop: CancellationToken) {
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
        let Some(runner) = runner.upgrade() else {
            return;
        };
        is_busy = runner.tick();
    }
}

impl<C> State<C> {
    /// Makes room for one more job. Returns whether there is any.
    pub(super) fn make_room(
        &mut self,
        backup: BackupId,
        lane: Lane,
        groups: &[Arc<str>],
        now: Instant,
    ) -> bool {
        let room = match lane {
            Lane::Requested => {
                let sources = &self.slots.sources;
                let is_proven = |job: &Job| sources.class(&job.source(), now) == Class::Proven;
                self.jobs.room_for_requested(backup, is_proven)
            }
            Lane::InUse => {
                let namespace = groups.first().map_or("", |name| name);
                self.jobs.room_for_in_use(namespace)
            }
        };
        if let Room::InsteadOf(id) = room
            && let Some(job) = self.remove(id)
        {
            tracing::debug!(image = %job.image, "displaced image from the queue");
            self.report_ended(job.backup, &job.image);
        }
        room != Room::None
    }

    pub(super) fn enqueue(&mut self, id: u64, now: Instant) {
        if let Some(job) = self.jobs.by_id(id) {
            self.slots.enqueue(id, job.ticket(), now);
        }
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Job> {
        self.slots.remove(id);
        self.jobs.remove(id)
    }

    fn report_ended(&self, backup: BackupId, image: &ImageRef<'static>) {
        if let Some(backup) = self.backups.get(&backup) {
            backup.report_ended(image);
        }
    }
}

impl<C> Backup<C> {
    /// The name for the log.
    fn name(&self) -> Option<&str> {
        self.name.as_ref().map(BackupName::as_str)
    }

    fn report_ended(&self, image: &ImageRef<'static>) {
        // Without a cluster there are no receivers.
        let _ = self.ended.send(image.clone());
    }
}

enum Outcome {
    Ended(Result<CopyReport, Failure>),
    Evicted(Verdict),
}

/// Describes when an image is retried after the backoff. Images in use are requested again by their re-checks.
fn next_attempt(is_automatic: bool, lane: Option<Lane>) -> &'static str {
    match lane {
        _ if is_automatic => "automatic",
        Some(Lane::Requested) => "when a workload requests or uses the image",
        _ => "automatic, with the next re-check of the image",
    }
}

/// An attempt. One that is stopped or panics is concluded on drop: it must not leave its image "copying", nor keep its slot.
struct Attempt<C: Copier> {
    runner: Arc<Runner<C>>,
    backup: Arc<Backup<C>>,
    job: u64,
    image: Arc<ImageRef<'static>>,
    task: Task,
    /// Failed attempts before this one.
    failures: u32,
    /// Begun and not concluded. Once it is concluded, the job may run again.
    is_running: bool,
}

impl<C: Copier> Attempt<C> {
    /// Runs in a task of its own until the backup is stopped.
    fn spawn(mut self, progress: Arc<JobProgress>, evicted: oneshot::Receiver<Verdict>) {
        let (tasks, stop) = (self.backup.tasks.clone(), self.backup.stop.clone());
        tasks.spawn(async move {
            // A stopped copy leaves no tag; the next run finds the blobs that are there.
            let _ = stop.run_until_cancelled(self.run(&progress, evicted)).await;
        });
    }

    async fn run(&mut self, progress: &JobProgress, evicted: oneshot::Receiver<Verdict>) {
        self.is_running = true;
        let (runner, backup) = (Arc::clone(&self.runner), Arc::clone(&self.backup));
        let (image, task) = (Arc::clone(&self.image), self.task);
        runner
            .crash_record
            .start(self.job, &image.to_string())
            .await;
        tracing::debug!(%image, ?task, "copying image");
        let started = Instant::now();
        let outcome = tokio::select! {
            result = backup.copier.copy(&image, task, progress) => Outcome::Ended(result),
            Ok(verdict) = evicted => Outcome::Evicted(verdict),
        };
        runner.crash_record.end(self.job);
        let report = match &outcome {
            Outcome::Ended(result) => result.as_ref().ok(),
            Outcome::Evicted(_) => None,
        };
        if !matches!(
            outcome,
            Outcome::Evicted(Verdict::Requeue | Verdict::MakeRoom)
        ) {
            backup.metrics.copy_ended(report, started.elapsed());
        }
        if let Some(report) = report {
            tracing::info!(
                %image, backup = backup.name(), digest = %report.digest, bytes = report.bytes, requests = report.requests,
                copied = report.blobs_copied, mounted = report.blobs_mounted, skipped = report.blobs_skipped,
                elapsed_ms = u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX), "copied image"
            );
        }
        self.conclude(outcome);
    }

    fn conclude(&mut self, outcome: Outcome) {
        self.is_running = false;
        let now = Instant::now();
        let runner = Arc::clone(&self.runner);
        let mut guard = runner.state();
        let state = &mut *guard;
        state.slots.remove(self.job);
        match outcome {
            Outcome::Ended(Ok(_)) => {
                state.slots.sources.delivered(&self.source(), now);
                self.end_isolation(state);
                state.jobs.remove(self.job);
                self.backup.report_ended(&self.image);
            }
            Outcome::Ended(Err(failure)) => {
                if !failure.retry.is_transient() {
                    self.end_isolation(state);
                }
                self.back_off(state, &failure, Blame::Nobody, now);
            }
            Outcome::Evicted(Verdict::GiveUp { reason, blame }) => {
                if blame.is_on_source() {
                    state.slots.sources.strike(&self.source(), now);
                }
                self.back_off(state, &Failure::passing(reason), blame, now);
            }
            Outcome::Evicted(Verdict::MakeRoom) => {
                tracing::info!(image = %self.image, "requeued long copy to make room for others");
                if let Some(job) = state.jobs.by_id_mut(self.job) {
                    job.is_long = true;
                }
                self.wait_again(state, now);
            }
            Outcome::Evicted(Verdict::Requeue) => self.wait_again(state, now),
        }
        runner.dispatch(state, now);
    }

    fn source(&self) -> Source {
        Source::of(self.backup.id, &self.image)
    }

    fn wait_again(&self, state: &mut State<C>, now: Instant) {
        state.jobs.set_waiting(self.job);
        state.enqueue(self.job, now);
    }

    fn end_isolation(&self, state: &mut State<C>) {
        if let Some(job) = state.jobs.by_id_mut(self.job)
            && std::mem::take(&mut job.is_isolated)
        {
            self.runner.crash_record.clear(&self.image.to_string());
        }
    }

    fn back_off(&self, state: &mut State<C>, failure: &Failure, blame: Blame, now: Instant) {
        let failures = self.failures.saturating_add(1);
        let delay = match blame {
            Blame::Nobody => retry_delay(failures, failure.retry),
            _ => penalty_delay(failures),
        };
        let outlook = failure.outlook();
        let is_automatic = outlook == Outlook::Passing && failures < AUTOMATIC_ATTEMPTS;
        let image = &self.image;
        let lane = state.jobs.by_id(self.job).map(|job| job.lane);
        let times = match lane {
            _ if failure.is_reported => None,
            Some(Lane::Requested) if failures == 1 => self.runner.first_requested_failures.count(),
            Some(Lane::Requested) => self.runner.requested_failures.count(),
            _ => Some(1),
        };
        let (backup, reason) = (self.backup.name(), &failure.reason.detail);
        let (backoff_s, next) = (delay.as_secs(), next_attempt(is_automatic, lane));
        if let Some(times) = times {
            let not_logged = times.saturating_sub(1);
            tracing::warn!(%image, backup, failures, backoff_s, next, not_logged, reason, "copy failed");
        } else {
            tracing::debug!(%image, backup, failures, backoff_s, next, reason, "copy failed");
        }
        if let Some(job) = state.jobs.by_id_mut(self.job) {
            job.failures = failures;
            job.is_penalized |= blame.is_on_image();
        }
        let wait = Wait {
            reason: failure.reason.public.clone(),
            outlook,
            until: now + delay,
            is_automatic,
        };
        state.jobs.set_backing_off(self.job, wait);
        self.backup.report_ended(image);
    }
}

impl<C: Copier> Drop for Attempt<C> {
    fn drop(&mut self) {
        if !self.is_running {
            return;
        }
        self.runner.crash_record.end(self.job);
        let mut state = self.runner.state();
        let is_running = |job: &Job| matches!(job.stage, Stage::Running(_));
        if state.jobs.by_id(self.job).is_some_and(is_running) {
            state.remove(self.job);
            self.backup.report_ended(&self.image);
            self.runner.dispatch(&mut state, Instant::now());
        }
    }
}
