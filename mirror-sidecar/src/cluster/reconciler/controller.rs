//! Puts the parts of the reconciler together: what is in use, when to look, what follows, and who is told.

mod entry;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mirror_contract::ImageRef;
use mirror_copy::Completeness;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Reconciler;
use super::image_state::{Clock, ImageState, Look, Owner};
use super::probe::{Answer, Question, Subject, look as find_out};
use super::rate_limits::{BURST, Hosts, LOOK_EVERY, Leave, Rest};
use super::recheck_schedule::RecheckSchedule;
use super::work_queue::WorkQueue;
use crate::cluster::copy_status::{Record, State};
use crate::cluster::index::Image;
use crate::copy_queue::Task;
use crate::lookup::Upstream;
use crate::metrics::{BackupCheck, UpstreamCheck};
use crate::token_bucket::TokenBucket;
use entry::{Entry, namespaces};

/// Rest between two readings of the whole index: a first list of the cluster is thousands of changes.
const REST: Duration = Duration::from_secs(1);

/// Looks at the backup under way. More would only wait for the same registry.
const MAX_LOOKS: usize = 16;

/// Looks at originals under way. Many of their registries may hang at a time.
const MAX_UPSTREAM_LOOKS: usize = 8;

/// Checks of the parts of copies under way. They wait for their turns, and nobody waits for them.
const MAX_PARTS_LOOKS: usize = 4;

/// Originals for whose registries to see at once whether they may be asked: all images may be of one that may not.
const MAX_TRIES: usize = 64;

/// Shortest time between two tries to begin looks that were held back.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// Between two times that the users of images are told what they must know: what was dropped must be told again, and so
/// must what goes on. It is also the longest sleep.
const TELL_EVERY: Duration = Duration::from_mins(2);

/// Keeps the copies of the images in use.
pub(super) struct Controller {
    with: Reconciler,
    recheck_schedule: RecheckSchedule,
    items: BTreeMap<Image, Entry>,
    looks: JoinSet<Answer>,
    looked_at: HashMap<Id, (Image, Look)>,
    under_way: UnderWay,
    /// When to look at which of the items; each change of one is noted there.
    work_queue: WorkQueue,
    pace: TokenBucket,
    upstream_pace: TokenBucket,
    backup: Rest,
    hosts: Hosts,
    /// Images about which there may be something to say.
    changed: BTreeSet<Image>,
    /// When to read the index, if it changed.
    read_at: Option<Instant>,
    /// When to tell again.
    tell_at: Instant,
}

/// Looks under way, at each sort of registry.
#[derive(Debug, Default)]
struct UnderWay {
    backup: usize,
    upstream: usize,
    parts: usize,
}

impl Controller {
    pub(super) fn new(with: Reconciler) -> Self {
        let now = Instant::now();
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            recheck_schedule: RecheckSchedule::new(with.interval, now, since_1970),
            with,
            items: BTreeMap::new(),
            looks: JoinSet::new(),
            looked_at: HashMap::new(),
            under_way: UnderWay::default(),
            work_queue: WorkQueue::default(),
            pace: TokenBucket::new(LOOK_EVERY, BURST),
            upstream_pace: TokenBucket::new(LOOK_EVERY, BURST),
            backup: Rest::of_backup(),
            hosts: Hosts::default(),
            changed: BTreeSet::new(),
            read_at: Some(now),
            tell_at: now + TELL_EVERY,
        }
    }

    pub(super) async fn run(mut self) {
        // Their senders live as long as this does.
        let mut cluster = self.with.cluster.subscribe();
        let mut shares = self.with.replicas.subscribe();
        let mut attempts = self.with.lookup.attempts();
        let mut last_read = Instant::now();
        loop {
            let now = Instant::now();
            if self.read_at.is_some_and(|at| at <= now) {
                self.read_model(now);
                last_read = now;
            }
            self.begin_looks(now);
            self.publish(now);
            let wake_at = self.wake_at(now);
            tokio::select! {
                Some(ended) = self.looks.join_next_with_id() => self.take(ended, Instant::now()),
                _ = cluster.changed() => self.read_at = Some(last_read + REST),
                _ = shares.changed() => self.read_at = Some(last_read + REST),
                ended = attempts.recv() => match ended {
                    Ok(image) => self.follow_job(&image, Instant::now()),
                    // What was missed is there to be seen.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => self.follow_jobs(Instant::now()),
                },
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Begins the looks that are due, as many as may be. Those at the backup do not wait for originals, whose registries
    /// may be anybody's.
    fn begin_looks(&mut self, now: Instant) {
        if self.backup.until(now).is_none() {
            while self.under_way.backup < self.most_in_backup()
                && self.pace.has_token(now.into_std())
            {
                let Some(image) = self.work_queue.due_in_backup(now) else {
                    break;
                };
                self.pace.take(now.into_std());
                self.begin(&image, Look::Backup);
            }
            while self.under_way.parts < MAX_PARTS_LOOKS && !self.backup.is_in_doubt() {
                let Some(image) = self.work_queue.due_parts(now) else {
                    break;
                };
                self.begin(&image, Look::Parts);
            }
        }
        for _ in 0..MAX_TRIES {
            if self.under_way.upstream >= MAX_UPSTREAM_LOOKS
                || !self.upstream_pace.has_token(now.into_std())
            {
                return;
            }
            let Some(image) = self.work_queue.due_upstream(now) else {
                return;
            };
            let until = match self.leave_to_ask(&image, now) {
                Leave::Ask => {
                    self.upstream_pace.take(now.into_std());
                    self.begin(&image, Look::Upstream);
                    continue;
                }
                Leave::Busy(until) => until,
                Leave::Spared(until) => {
                    self.with.metrics.upstream_checked(UpstreamCheck::Throttled);
                    until
                }
            };
            if let Some(entry) = self.items.get_mut(&image) {
                entry.item.spare(until);
                self.work_queue.note(&image, &entry.item);
            }
        }
    }

    /// Looks at the backup that may be under way now.
    fn most_in_backup(&self) -> usize {
        if self.backup.is_in_doubt() {
            1
        } else {
            MAX_LOOKS
        }
    }

    fn leave_to_ask(&mut self, image: &Image, now: Instant) -> Leave {
        match self.with.lookup.upstream_of(image) {
            Ok(registry) => {
                let (limit, is_paused) = (registry.rate_limit(), registry.is_paused());
                self.hosts.ask(image.host(), limit, is_paused, now)
            }
            // The look itself will say what is wrong with the name.
            Err(_) => Leave::Ask,
        }
    }

    /// Begins a look.
    fn begin(&mut self, image: &Image, look: Look) {
        let Some(entry) = self.items.get_mut(image) else {
            self.work_queue.forget(image);
            return;
        };
        let item = &mut entry.item;
        let subject = match (item.owner(), self.with.lookup.backup().target(image)) {
            (Owner::Foreign, _) => Subject::Foreign,
            // Without a name for its copy there is nothing to keep; the look says so.
            (Owner::Others, _) | (Owner::Ours, Err(_)) => Subject::Others,
            (Owner::Ours, Ok(copy)) => Subject::Ours {
                copy,
                known: item.known().cloned(),
                is_to_put_back: item.to_put_back().is_some(),
            },
        };
        let plan = item.parts_plan(Clock {
            recheck_schedule: &self.recheck_schedule,
            now: Instant::now(),
        });
        let known_referrers = item.known_referrers();
        item.begin(look);
        self.work_queue.note(image, item);
        let question = Question {
            image: Arc::clone(image),
            subject,
            look,
            plan,
            known_referrers,
        };
        let task = find_out(self.with.lookup.clone(), question);
        let id = self.looks.spawn(task).id();
        self.looked_at.insert(id, (Arc::clone(image), look));
        *self.under_way.of(look) += 1;
    }

    /// Draws the conclusions of a look that ended.
    fn take(&mut self, ended: Result<(Id, Answer), JoinError>, now: Instant) {
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, Some(answer)),
            // A defect. It counts as having seen nothing.
            Err(error) => (error.id(), None),
        };
        let Some((image, look)) = self.looked_at.remove(&id) else {
            return;
        };
        let under_way = self.under_way.of(look);
        *under_way = under_way.saturating_sub(1);
        let answer = answer.unwrap_or_else(|| {
            tracing::error!(%image, "a look broke off");
            Answer::of_nothing(look)
        });
        match &answer {
            Answer::Upstream(upstream, _) => {
                let answered = !matches!(upstream, Upstream::Unknown { lasting: false, .. });
                self.hosts.asked(image.host(), answered, now);
            }
            Answer::Backup(Ok(_)) | Answer::Parts(_, Ok(_)) => {
                if self.backup.answered() {
                    self.recheck_parts(now);
                }
            }
            Answer::Backup(Err(blind)) | Answer::Parts(_, Err(blind)) => {
                if blind.is_outage {
                    self.backup.failed(now);
                }
                tracing::debug!(%image, reason = blind.reason, "cannot look for the copy");
            }
        }
        self.conclude(&image, answer, now);
        self.changed.insert(image);
    }

    /// The backup was away, and may have lost parts of any copy.
    fn recheck_parts(&mut self, now: Instant) {
        tracing::info!("the backup registry is back; checking all copies");
        for (image, entry) in &mut self.items {
            entry.item.recheck_parts(now);
            self.work_queue.note(image, &entry.item);
        }
    }

    fn conclude(&mut self, image: &Image, answer: Answer, now: Instant) {
        let Some(entry) = self.items.get_mut(image) else {
            return;
        };
        let clock = Clock {
            recheck_schedule: &self.recheck_schedule,
            now,
        };
        let item = &mut entry.item;
        let before = item.record();
        let task = match answer {
            Answer::Backup(presence) => {
                item.end(Look::Backup);
                let (result, task) = item.found(presence, clock);
                self.with.metrics.backup_checked(result);
                log_copy(image, &before, item, result);
                task
            }
            Answer::Parts(plan, found) => {
                item.end(Look::Parts);
                if let Ok(Completeness::Missing(part)) = &found {
                    self.with.metrics.backup_checked(BackupCheck::Incomplete);
                    tracing::warn!(
                        %image, %part,
                        "the copy in the backup lacks parts and is restored; find out what deletes there"
                    );
                }
                item.parts_seen(plan, found, clock)
            }
            Answer::Upstream(upstream, referrers) => {
                item.end(Look::Upstream);
                if let Upstream::Unknown { reason, .. } = &upstream {
                    tracing::debug!(%image, reason, "cannot look at the original");
                }
                let (result, task) = item.asked(upstream, self.with.on_moved_tag, clock);
                self.with.metrics.upstream_checked(result);
                log_original(image, item, result);
                let referrers = referrers.filter(|_| result == UpstreamCheck::Current);
                let bring = || {
                    let task = item.referrers_seen(referrers?);
                    task.inspect(|_| tracing::info!(%image, "found new referrers of the original"))
                };
                task.or_else(bring)
            }
        };
        if let Some(task) = task {
            let allowed = match task {
                // What was there once is put back whoever pays.
                Task::Restore => Ok(()),
                Task::Copy | Task::Update => {
                    let is_update = task == Task::Update;
                    self.with.take_budget(image, &entry.copies, is_update, now)
                }
            };
            match allowed {
                Ok(()) => {
                    let namespaces = namespaces(&self.with, image, &entry.copies);
                    let status = self.with.lookup.copy_in_use(image, task, namespaces);
                    item.follow(Some(status), clock);
                }
                Err(opens_at) => item.hold_back(opens_at, clock),
            }
        }
        self.work_queue.note(image, item);
    }

    /// Sees what became of the copy of an image that was being made.
    fn follow_job(&mut self, image: &ImageRef<'static>, now: Instant) {
        let clock = Clock {
            recheck_schedule: &self.recheck_schedule,
            now,
        };
        let found = self.items.get_key_value(image);
        let Some(image) = found.map(|(image, _)| Arc::clone(image)) else {
            return;
        };
        if let Some(entry) = self.items.get_mut(&image)
            && entry.item.follows_a_job()
        {
            let job = self.with.lookup.job(&image);
            entry.item.follow(job, clock);
            self.work_queue.note(&image, &entry.item);
            self.changed.insert(image);
        }
    }

    /// Sees what became of all copies that were being made.
    fn follow_jobs(&mut self, now: Instant) {
        let images: Vec<_> = self.items.keys().map(Arc::clone).collect();
        for image in images {
            self.follow_job(&image, now);
        }
    }

    /// Tells what changed, and from time to time what still holds.
    fn publish(&mut self, now: Instant) {
        if self.tell_at <= now {
            self.tell_at = now + TELL_EVERY;
            self.with.report_left_out();
            let budgets = self.with.lookup.budgets();
            let without = budgets.tidy(|image| self.items.contains_key(image), now);
            self.with.metrics.without_budget(without);
            let items = self.items.iter();
            let told = items.filter(|(_, entry)| entry.has_something_to_tell(now));
            self.changed
                .extend(told.map(|(image, _)| Arc::clone(image)));
        }
        if self.changed.is_empty() {
            return;
        }
        for image in std::mem::take(&mut self.changed) {
            if let Some(entry) = self.items.get(&image) {
                self.with.copy_status.set(&image, entry.item.record());
                entry.tell(&self.with, &image, now);
            }
        }
        self.with.metrics.in_use(self.with.copy_status.counts());
    }

    fn wake_at(&self, now: Instant) -> Instant {
        // What is due already was held back by the pace. For one of the looks under way to end nobody need wake up.
        let soonest = now + SHORTEST_WAIT;
        let in_backup = self
            .work_queue
            .next(Look::Backup)
            .filter(|_| self.under_way.backup < self.most_in_backup())
            .map(|next| next.max(self.backup.until(now).unwrap_or(soonest)));
        let upstream = self
            .work_queue
            .next(Look::Upstream)
            .filter(|_| self.under_way.upstream < MAX_UPSTREAM_LOOKS)
            .map(|next| next.max(soonest));
        let parts = self
            .work_queue
            .next(Look::Parts)
            .filter(|_| self.under_way.parts < MAX_PARTS_LOOKS && !self.backup.is_in_doubt())
            .map(|next| next.max(self.backup.until(now).unwrap_or(soonest)));
        let others = [in_backup, upstream, parts, self.read_at];
        others
            .into_iter()
            .flatten()
            .fold(self.tell_at, Instant::min)
    }
}

impl UnderWay {
    fn of(&mut self, look: Look) -> &mut usize {
        match look {
            Look::Backup => &mut self.backup,
            Look::Upstream => &mut self.upstream,
            Look::Parts => &mut self.parts,
        }
    }
}

/// Tells the operator what somebody should look into about a copy.
fn log_copy(image: &Image, before: &Record, item: &ImageState, result: BackupCheck) {
    let was_there = matches!(before.state, State::Mirrored { .. });
    match result {
        BackupCheck::Missing if was_there => {
            tracing::warn!(%image, "its copy is gone from the backup");
        }
        BackupCheck::Changed => {
            tracing::warn!(%image, "its copy in the backup was changed by somebody else");
        }
        _ if !was_there && item.record().appeared_late => tracing::warn!(
            %image,
            "its original did not exist when a workload named it first; it is mirrored, but nothing is re-admitted for it"
        ),
        _ => {}
    }
}

/// Tells the operator what follows from what the original is.
fn log_original(image: &Image, item: &ImageState, result: UpstreamCheck) {
    if result == UpstreamCheck::Updated {
        tracing::info!(%image, "its tag moved; the copy follows");
    }
    if item.to_put_back().is_some() {
        tracing::warn!(%image, "what its copy was before is put back");
    }
}
