//! The loop of the reconciler: it syncs the images in use, starts checks that are due, applies their results, and reports.

pub(super) mod images_in_use;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mirror_contract::ImageRef;
use mirror_copy::{Completeness, SetupError};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Reconciler;
use super::image_checks::Upstream;
use super::image_state::{ImageState, Owner};
use super::metrics::{BackupCheck, UpstreamCheck};
use super::probe::{ByCheck, Check, ProbeRequest, ProbeResult, Subject, probe};
use super::rate_limits::{
    BURST, CHECK_SPACING, HostLimits, HostSlot, OUTAGE_FAILURES, UpstreamPermit, backup_backoff,
};
use super::recheck_schedule::RecheckSchedule;
use super::work_queue::WorkQueue;
use crate::backoff::Backoff;
use crate::cluster::copy_status::{Record, State};
use crate::cluster::index::Image;
use crate::token_bucket::TokenBucket;

/// Shortest time between two syncs with the index: the first list of a cluster is thousands of changes.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Images that are considered for an upstream check in one pass: all of them may be from one throttled registry.
const MAX_CANDIDATES: usize = 64;

/// Shortest time between two passes over checks that were held back.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// How often conditions that still hold, and reports that were dropped, are reported again. It is also the longest sleep.
const REPORT_INTERVAL: Duration = Duration::from_mins(2);

/// The state of the loop.
pub(super) struct Controller {
    ctx: Reconciler,
    recheck_schedule: RecheckSchedule,
    images: BTreeMap<Image, ImageState>,
    checks: JoinSet<ProbeResult>,
    running: HashMap<Id, Running>,
    in_flight: ByCheck<usize>,
    /// When the checks of each image are due; set after each change of its state.
    work_queue: WorkQueue,
    backup_rate: TokenBucket,
    backup: Backoff,
    hosts: HostLimits,
    /// Images whose state may have changed since it was last published.
    changed: BTreeSet<Image>,
    /// When to sync with the index, if it changed.
    sync_at: Option<Instant>,
    /// When to report again.
    report_at: Instant,
}

/// A check that is running.
struct Running {
    image: Image,
    check: Check,
    /// Of an upstream check.
    slot: Option<HostSlot>,
}

impl Reconciler {
    /// Runs the controller until the task is dropped.
    pub async fn run(self) {
        Controller::new(self).run().await;
    }
}

impl Controller {
    pub(super) fn new(ctx: Reconciler) -> Self {
        let now = Instant::now();
        let hosts = ctx.upstream_limits.of_backup();
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            recheck_schedule: RecheckSchedule::new(ctx.interval, now, since_1970),
            ctx,
            images: BTreeMap::new(),
            checks: JoinSet::new(),
            running: HashMap::new(),
            in_flight: ByCheck::default(),
            work_queue: WorkQueue::default(),
            backup_rate: TokenBucket::new(CHECK_SPACING, BURST),
            backup: backup_backoff(),
            hosts,
            changed: BTreeSet::new(),
            sync_at: Some(now),
            report_at: now + REPORT_INTERVAL,
        }
    }

    pub(super) async fn run(mut self) {
        // Their senders live as long as this loop.
        let mut cluster = self.ctx.cluster.subscribe();
        let mut shares = self.ctx.replicas.subscribe();
        let mut attempts = self.ctx.lookup.attempts();
        let mut last_sync = Instant::now();
        loop {
            let now = Instant::now();
            if self.sync_at.is_some_and(|at| at <= now) {
                self.sync_images(now);
                last_sync = now;
            }
            self.begin_checks(now);
            self.publish(now);
            let wake_at = self.wake_at(now);
            tokio::select! {
                Some(ended) = self.checks.join_next_with_id() => self.probe_ended(ended, Instant::now()),
                _ = cluster.changed() => self.sync_at = Some(last_sync + SYNC_INTERVAL),
                _ = shares.changed() => self.sync_at = Some(last_sync + SYNC_INTERVAL),
                ended = attempts.recv() => match ended {
                    Ok(image) => self.update_job(&image, Instant::now()),
                    // The queue still knows the results that were missed.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => self.update_jobs(Instant::now()),
                },
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Starts as many due checks as the limits allow. Checks of the backup do not wait for upstream registries, which
    /// may be anybody's.
    fn begin_checks(&mut self, now: Instant) {
        if self.backup.until(now).is_none() {
            while self.has_slot(Check::Backup) && self.backup_rate.has_token(now.into_std()) {
                let Some(image) = self.work_queue.due_in_backup(now) else {
                    break;
                };
                self.backup_rate.take(now.into_std());
                self.begin(&image, Check::Backup, None);
            }
            while self.has_slot(Check::Parts) {
                let Some(image) = self.work_queue.due_parts(now) else {
                    break;
                };
                self.begin(&image, Check::Parts, None);
            }
        }
        for _ in 0..MAX_CANDIDATES {
            if !self.has_slot(Check::Upstream) || !self.hosts.has_token(now) {
                return;
            }
            let Some(image) = self.work_queue.due_upstream(now) else {
                return;
            };
            let until = match self.permit_upstream_check(&image, now) {
                Ok(UpstreamPermit::Granted(slot)) => {
                    self.hosts.take_token(now);
                    self.begin(&image, Check::Upstream, Some(slot));
                    continue;
                }
                // The check itself reports what is wrong with the name.
                Err(_) => {
                    self.hosts.take_token(now);
                    self.begin(&image, Check::Upstream, None);
                    continue;
                }
                Ok(UpstreamPermit::Busy(until)) => until,
                Ok(UpstreamPermit::Throttled(until)) => {
                    self.ctx.metrics.upstream_checked(UpstreamCheck::Throttled);
                    until
                }
            };
            if let Some(state) = self.images.get_mut(&image) {
                state.postpone_upstream_check(until);
                self.work_queue.set(&image, state);
            }
        }
    }

    /// Returns whether one more check of this kind may be in flight.
    fn has_slot(&self, check: Check) -> bool {
        *self.in_flight.of(check) < max_in_flight(check, self.backup.failures())
    }

    fn permit_upstream_check(
        &self,
        image: &Image,
        now: Instant,
    ) -> Result<UpstreamPermit, SetupError> {
        let registry = self.ctx.lookup.upstream_of(image)?;
        let (limit, is_paused) = (registry.rate_limit(), registry.is_paused());
        Ok(self.hosts.request(image.host(), limit, is_paused, now))
    }

    fn begin(&mut self, image: &Image, check: Check, slot: Option<HostSlot>) {
        let Some(state) = self.images.get_mut(image) else {
            self.work_queue.forget(image);
            return;
        };
        let subject = match (state.owner(), self.ctx.lookup.backup().target(image)) {
            (Owner::Foreign, _) => Subject::Foreign,
            // Without a name for its copy there is nothing to maintain; the check reports that.
            (Owner::Others, _) | (Owner::Ours, Err(_)) => Subject::Others,
            (Owner::Ours, Ok(copy)) => Subject::Ours {
                copy,
                known: state.known().cloned(),
                is_to_restore: state.digest_to_restore().is_some(),
            },
        };
        let clock = self.recheck_schedule.at(Instant::now());
        let request = ProbeRequest {
            image: Arc::clone(image),
            subject,
            check,
            parts: state.parts_plan(clock),
            referrers: state.referrers_plan(clock),
        };
        state.begin(check);
        self.work_queue.set(image, state);
        let task = probe(self.ctx.lookup.clone(), request);
        let id = self.checks.spawn(task).id();
        let image = Arc::clone(image);
        self.running.insert(id, Running { image, check, slot });
        *self.in_flight.of_mut(check) += 1;
    }

    /// Applies the result of a check that ended.
    fn probe_ended(&mut self, ended: Result<(Id, ProbeResult), JoinError>, now: Instant) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Some(result)),
            // A panic in the check: there is no result.
            Err(error) => (error.id(), None),
        };
        let Some(Running { image, check, slot }) = self.running.remove(&id) else {
            return;
        };
        let in_flight = self.in_flight.of_mut(check);
        *in_flight = in_flight.saturating_sub(1);
        let result = result.unwrap_or_else(|| {
            tracing::error!(%image, "check panicked; report this defect");
            ProbeResult::aborted(check)
        });
        match &result {
            ProbeResult::Upstream(upstream, _) => {
                let has_response = !matches!(upstream, Upstream::Unknown { lasting: false, .. });
                if let Some(slot) = slot {
                    slot.ended(has_response, now);
                }
            }
            ProbeResult::Backup(Ok(_)) | ProbeResult::Parts(_, Ok(_), _) => {
                if self.backup.succeed() >= OUTAGE_FAILURES {
                    self.recheck_parts(now);
                }
            }
            ProbeResult::Backup(Err(error)) | ProbeResult::Parts(_, Err(error), _) => {
                if error.is_outage {
                    self.backup.fail(now);
                }
                tracing::debug!(%image, reason = error.reason, "cannot check the copy");
            }
        }
        self.apply(&image, result, now);
        self.changed.insert(image);
    }

    /// Checks the parts of all copies: the backup was unreachable, and may have lost parts of any copy.
    fn recheck_parts(&mut self, now: Instant) {
        let backup = self.ctx.lookup.health().backup();
        tracing::info!(backup, "the backup registry is back; checking all copies");
        for (image, state) in &mut self.images {
            state.recheck_parts(now);
            self.work_queue.set(image, state);
        }
    }

    fn apply(&mut self, image: &Image, result: ProbeResult, now: Instant) {
        let Some(state) = self.images.get_mut(image) else {
            return;
        };
        let clock = self.recheck_schedule.at(now);
        let task = match result {
            ProbeResult::Backup(presence) => {
                let before = state.record();
                state.end(Check::Backup);
                let (result, task) = state.backup_checked(presence, clock);
                self.ctx.metrics.backup_checked(result);
                let backup = self.ctx.lookup.health().backup();
                log_copy(image, backup, &before, state, result);
                task
            }
            ProbeResult::Parts(plan, found, contents) => {
                state.end(Check::Parts);
                state.set_contents(contents.map(Arc::new));
                if let Ok(Completeness::Missing(_)) = &found {
                    self.ctx.metrics.backup_checked(BackupCheck::Incomplete);
                }
                state.parts_checked(plan, found, clock)
            }
            ProbeResult::Upstream(upstream, referrers) => {
                state.end(Check::Upstream);
                if let Upstream::Unknown { reason, .. } = &upstream {
                    tracing::debug!(%image, reason, "cannot check the original");
                }
                let (result, task) = state.upstream_checked(upstream, self.ctx.on_moved_tag, clock);
                self.ctx.metrics.upstream_checked(result);
                if result == UpstreamCheck::Updated {
                    tracing::info!(%image, "tag moved upstream; updating the copy");
                }
                let is_current = result == UpstreamCheck::Current;
                let copy_referrers = || {
                    let task = state.referrers_checked(&referrers);
                    task.inspect(|_| tracing::info!(%image, "found new referrers of the original"))
                };
                task.or_else(|| is_current.then(copy_referrers).flatten())
            }
        };
        if let Some(task) = task {
            match self.ctx.take_budget(image, state.copies(), task, now) {
                Ok(()) => {
                    let namespaces = self.ctx.namespaces(image, state.copies());
                    let status = self.ctx.lookup.copy_in_use(image, task, namespaces);
                    state.job_changed(Some(status), clock);
                }
                Err(until) => state.wait_for_budget(until, clock),
            }
        }
        self.work_queue.set(image, state);
    }

    /// Applies the status of the image's copy job.
    fn update_job(&mut self, image: &ImageRef<'static>, now: Instant) {
        let Some((image, _)) = self.images.get_key_value(image) else {
            return;
        };
        let image = Arc::clone(image);
        if let Some(state) = self.images.get_mut(&image)
            && state.follows_job()
        {
            let job = self.ctx.lookup.job(&image);
            state.job_changed(job, self.recheck_schedule.at(now));
            self.work_queue.set(&image, state);
            self.changed.insert(image);
        }
    }

    fn update_jobs(&mut self, now: Instant) {
        let images: Vec<_> = self.images.keys().map(Arc::clone).collect();
        for image in images {
            self.update_job(&image, now);
        }
    }

    /// Publishes and reports changes, and repeats the reports that still hold.
    fn publish(&mut self, now: Instant) {
        if self.report_at <= now {
            self.report_at = now + REPORT_INTERVAL;
            self.ctx.report_left_out();
            let budgets = self.ctx.lookup.budgets();
            let without = budgets.clean_up(|image| self.images.contains_key(image), now);
            self.ctx.metrics.without_budget(without);
            let images = self.images.iter();
            let reported = images.filter(|(_, state)| state.has_report(now));
            self.changed
                .extend(reported.map(|(image, _)| Arc::clone(image)));
        }
        if self.changed.is_empty() {
            return;
        }
        for image in std::mem::take(&mut self.changed) {
            if let Some(state) = self.images.get(&image) {
                self.ctx.copy_status.set(&image, state.record());
                self.ctx.report(&image, state, now);
            }
        }
        self.ctx.metrics.in_use(self.ctx.copy_status.counts());
    }

    fn wake_at(&self, now: Instant) -> Instant {
        // A check that is due already was held back by a limit. The end of a check wakes the loop anyway.
        let soonest = now + SHORTEST_WAIT;
        let from = |check| match check {
            Check::Backup | Check::Parts => self.backup.until(now).unwrap_or(soonest),
            Check::Upstream => soonest,
        };
        [Check::Backup, Check::Upstream, Check::Parts]
            .into_iter()
            .filter(|check| self.has_slot(*check))
            .filter_map(|check| Some(self.work_queue.next(check)?.max(from(check))))
            .chain(self.sync_at)
            .fold(self.report_at, Instant::min)
    }
}

/// The most checks of one kind in flight after so many `failures` of the backup in a row.
fn max_in_flight(check: Check, failures: u32) -> usize {
    match (check, failures) {
        // More would only wait for the same registry.
        (Check::Backup, 0) => 16,
        // One finds out whether the backup is back.
        (Check::Backup, _) => 1,
        // Many of these registries may hang at a time.
        (Check::Upstream, _) => 8,
        // They are not urgent, and checks of the backup find out whether it is back.
        (Check::Parts, 0) => 4,
        (Check::Parts, _) => 0,
    }
}

/// Logs what an operator should know about a copy.
fn log_copy(
    image: &Image,
    backup: Option<&str>,
    before: &Record,
    state: &ImageState,
    result: BackupCheck,
) {
    let was_there = matches!(before.state, State::Mirrored { .. });
    match result {
        BackupCheck::Missing if was_there => {
            tracing::warn!(%image, backup, "copy is gone from the backup and is restored; find out what deletes it there");
        }
        BackupCheck::Changed => {
            tracing::warn!(%image, backup, "copy in the backup was changed by somebody else; find out who pushes there");
        }
        _ if !was_there && state.record().appeared_late => tracing::warn!(
            %image,
            "the original did not exist when a workload first named it; it is mirrored, but no workload is re-admitted for it"
        ),
        _ => {}
    }
}
