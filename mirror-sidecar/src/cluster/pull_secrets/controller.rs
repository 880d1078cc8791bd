//! Reconciles the Secrets of one name in all namespaces, and creates them on request.
//!
//! Rounds derive everything from the state that the watches deliver, so that no event can be lost. Requests of the policy do
//! not wait for the watches, because a namespace may be newer than that state.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join};
use kube::Resource as _;
use kube::runtime::watcher::Event;
use mirror_contract::Mode;
use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::apply::{Applier, Known};
use super::cache::{Record, SecretObject};
use super::error::PullSecretError;
use super::keyring::CurrentLogins;
use super::metrics::{ManagedSecrets, SecretMetrics};
use super::plan::{Action, Step, action, failure_backoff, renewal, step};
use crate::backoff::Backoff;
use crate::cluster::events::{About, Events, Notice};
use crate::cluster::index::{CURRENT_NAME, NamespaceState};
use crate::cluster::json_filter::Keep;
use crate::cluster::supervision::supervise;
use crate::cluster::watch::stream;
use crate::token_bucket::TokenBucket;

/// Interval between rounds: a first list of the cluster is thousands of changes.
const ROUND_INTERVAL: Duration = Duration::from_millis(250);
/// Interval of rounds without a change, in case one was missed. They cost no request.
const RESYNC_INTERVAL: Duration = Duration::from_hours(1);
/// Interval between reports of a foreign Secret, until an Event is accepted.
const REPORT_INTERVAL: Duration = Duration::from_mins(2);
/// Parallel jobs of rounds: with 10 ms for a write a thousand namespaces take two seconds, and the API server has other
/// clients.
const PARALLEL: usize = 8;
/// Jobs of one round. The findings of a round get stale while they wait.
const BATCH: usize = 256;
/// Limit of running jobs. Policy servers send one request at a time, so more of them mean that the API server hangs, and
/// then another request does not help.
const MAX_JOBS: usize = 64;
/// Interval between requests for namespaces that no watch has delivered. Namespaces are not created by the dozen, and the
/// watch delivers a new one within a second.
const UNKNOWN_INTERVAL: Duration = Duration::from_millis(100);
/// Such requests that may follow each other immediately.
const UNKNOWN_BURST: u32 = 30;

/// Namespaces whose outdated logins are logged. Anybody who may write Secrets can store an outdated login.
const MAX_OUTDATED: usize = 100;

/// Lock order: `jobs` before those of `applier`.
pub(super) struct Controller {
    pub applier: Applier,
    pub events: Events,
    pub jobs: Mutex<Jobs>,
}

pub(super) struct Jobs {
    running: HashMap<(Arc<str>, Job), SharedJob>,
    /// Namespaces in which a round has a job, from its start to its end.
    busy: HashSet<Arc<str>>,
    failures: BTreeMap<Arc<str>, Backoff>,
    unknown_namespaces: TokenBucket,
    /// Namespaces whose outdated logins were logged, at most [`MAX_OUTDATED`].
    outdated: BTreeSet<Arc<str>>,
    managed: ManagedSecrets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Job {
    Apply,
    Peek,
    Remove,
}

type JobResult = Result<(), PullSecretError>;
type SharedJob = Shared<BoxFuture<'static, JobResult>>;

/// The findings in all namespaces.
struct Round {
    jobs: Vec<(Arc<str>, Job)>,
    foreign: Vec<Arc<str>>,
    /// The next round is due then, or after a change.
    next: Instant,
}

impl Controller {
    /// Watches and reconciles in the background, until `stop`.
    pub(super) fn start(self: &Arc<Self>, stop: CancellationToken) {
        let (watching, reconciling) = (Arc::clone(self), Arc::clone(self));
        let parts = join(
            supervise(&["the watch of pull Secrets"], move |_| {
                let lists = Arc::new(Semaphore::new(1));
                let server = watching.applier.api.server.clone();
                stream::watch(server, SecretWatch(Arc::clone(&watching)), lists)
            }),
            supervise(&["the pull Secret controller"], move |_| {
                Arc::clone(&reconciling).reconcile()
            }),
        );
        tokio::spawn(stop.run_until_cancelled_owned(parts));
    }

    /// Creates or repairs the Secret of a namespace; with [`Mode::Peek`] only checks whether that would succeed.
    pub(super) async fn request(self: Arc<Self>, namespace: Arc<str>, mode: Mode) -> JobResult {
        let applier = &self.applier;
        let logins = applier.logins();
        let state = applier
            .cluster
            .read(|index| index.namespace_state(&namespace));
        {
            let mut jobs = self.jobs();
            let known = applier.known();
            let stored = known.cache.get(&namespace).map(|record| &record.secret);
            let desired = applier.desired(&known, &namespace, stored, &logins);
            let is_known = stored.is_some() || state != NamespaceState::Unknown;
            let is_leaving = jobs.is_removing(&namespace) || state == NamespaceState::Terminating;
            if step(stored, &desired) == Step::Nothing && !is_leaving {
                drop((known, jobs));
                return applier.check_credentials(&namespace);
            }
            let now = Instant::now().into_std();
            if !is_known && !jobs.unknown_namespaces.try_take(now) {
                return Err(PullSecretError::Busy);
            }
        }
        let job = match mode {
            Mode::Ensure => Job::Apply,
            Mode::Peek => Job::Peek,
        };
        let result = self.run(&namespace, job).await;
        if let (Mode::Ensure, Err(error)) = (mode, &result) {
            if let PullSecretError::Foreign(_) = error {
                self.report_foreign(&namespace);
            }
            self.report_refusal(&namespace, error);
        }
        result?;
        applier.check_credentials(&namespace)
    }

    /// Runs rounds until the task is dropped.
    async fn reconcile(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(PARALLEL));
        let mut index = self.applier.cluster.subscribe();
        let mut secrets = self.applier.changed.subscribe();
        let mut shares = self.applier.replicas.subscribe();
        let mut logins = self.applier.logins.clone();
        // A previous run may have been aborted between finding a job and starting it.
        self.jobs().busy.clear();
        loop {
            let round = self.round(Instant::now());
            for namespace in &round.foreign {
                self.report_foreign(namespace);
            }
            for (namespace, job) in round.jobs {
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                    return;
                };
                let turn = Turn {
                    controller: Arc::clone(&self),
                    namespace,
                };
                tokio::spawn(async move {
                    let result = turn.controller.run(&turn.namespace, job).await;
                    turn.end(result.err());
                    drop(permit);
                });
            }
            // All senders live at least as long as `self`, but for that of the logins, which ends with the service.
            select! {
                _ = index.changed() => {}
                _ = secrets.changed() => {}
                _ = shares.changed() => {}
                Ok(()) = logins.changed() => {}
                () = sleep_until(round.next) => {}
            }
            sleep(ROUND_INTERVAL).await;
        }
    }

    fn round(&self, now: Instant) -> Round {
        let applier = &self.applier;
        let mut round = Round {
            jobs: Vec::new(),
            foreign: Vec::new(),
            next: now + RESYNC_INTERVAL,
        };
        let shown: Vec<_> = {
            let known = applier.known();
            let written = known.conflicts.namespaces();
            known.cache.namespaces().chain(written).cloned().collect()
        };
        let (needed, terminating, knows_all) = applier.cluster.read(|index| {
            let needed = index.namespaces_naming(applier.name_index).map(Arc::from);
            let terminating = shown.iter().filter(|namespace| {
                index.namespace_state(namespace) == NamespaceState::Terminating
            });
            let terminating = terminating.cloned().collect::<HashSet<Arc<str>>>();
            (
                needed.collect::<BTreeSet<Arc<str>>>(),
                terminating,
                index.is_complete(),
            )
        });
        let logins = applier.logins();
        let jobs = &mut *self.jobs();
        let known = &mut *applier.known();
        let count = known.cache.count_ours();
        jobs.managed.set(count);
        // Before the first list, every Secret that exists would be created again.
        if !known.cache.is_listed() {
            return round;
        }
        if knows_all {
            known.cache.record_needs(&needed, now);
        } else {
            known.cache.doubt_needs();
        }
        known
            .conflicts
            .prune(now, |namespace| terminating.contains(namespace));
        let all: BTreeSet<_> = needed
            .iter()
            .chain(known.cache.namespaces())
            .cloned()
            .collect();
        jobs.failures.retain(|namespace, _| all.contains(namespace));
        for namespace in all {
            applier.observe(known, &namespace, now);
            if !applier.owns(&namespace)
                || terminating.contains(&namespace)
                || jobs.busy.contains(&namespace)
            {
                continue;
            }
            jobs.report_outdated(applier, known, &namespace);
            let needs = (needed.contains(&namespace), knows_all);
            let barred_until = known.cache.get(&namespace).and_then(Record::barred_until);
            if let Some(until) = barred_until.filter(|until| *until > now) {
                round.next = round.next.min(until);
            }
            let job = match self.action(known, &namespace, &logins, needs, now) {
                Action::Nothing => continue,
                // Somebody else may have created the Secret of a former name before image-mirror created any.
                Action::ReportForeign if applier.name_index != CURRENT_NAME => continue,
                Action::ReportForeign => {
                    round.foreign.push(namespace);
                    round.next = round.next.min(now + REPORT_INTERVAL);
                    continue;
                }
                Action::After(from) => {
                    round.next = round.next.min(from);
                    continue;
                }
                Action::Apply => Job::Apply,
                Action::Remove => Job::Remove,
            };
            if let Some(until) = jobs.backoff_until(&namespace, now) {
                round.next = round.next.min(until);
            } else if round.jobs.len() < BATCH {
                jobs.busy.insert(Arc::clone(&namespace));
                round.jobs.push((namespace, job));
            } else {
                round.next = now;
            }
        }
        round
    }

    fn action(
        &self,
        known: &Known,
        namespace: &str,
        logins: &CurrentLogins,
        (is_needed, knows_all): (bool, bool),
        now: Instant,
    ) -> Action {
        let applier = &self.applier;
        let record = known.cache.get(namespace);
        let stored = record.map(|record| &record.secret);
        let desired = applier.desired(known, namespace, stored, logins);
        let action = if applier.is_excluded(namespace) {
            match renewal(stored, &desired) {
                Step::Write(_) => Action::Apply,
                Step::Nothing | Step::Wait | Step::LeaveAlone => Action::Nothing,
            }
        } else {
            action(is_needed, record, &desired, knows_all, now)
        };
        match (
            action,
            applier.conflict_until(known, namespace, stored, now),
        ) {
            (Action::Apply | Action::Nothing, Some(until)) => Action::After(until),
            (Action::After(from), Some(until)) => Action::After(from.min(until)),
            (action, _) => action,
        }
    }

    /// Runs a job once for all callers that wait for it, after a running opposite one. The job continues when no caller
    /// waits any more.
    async fn run(self: &Arc<Self>, namespace: &Arc<str>, job: Job) -> JobResult {
        loop {
            let (is_wanted, running) = self.find_or_start(namespace, job)?;
            let result = running.await;
            if is_wanted {
                return result;
            }
        }
    }

    /// Returns the job and `true`, or a running opposite one and `false`.
    fn find_or_start(
        self: &Arc<Self>,
        namespace: &Arc<str>,
        job: Job,
    ) -> Result<(bool, SharedJob), PullSecretError> {
        let opposite = match job {
            Job::Apply | Job::Peek => Job::Remove,
            Job::Remove => Job::Apply,
        };
        let key = (Arc::clone(namespace), job);
        let mut jobs = self.jobs();
        if let Some(opposite) = jobs.running.get(&(Arc::clone(namespace), opposite)) {
            return Ok((false, opposite.clone()));
        }
        if let Some(running) = jobs.running.get(&key) {
            return Ok((true, running.clone()));
        }
        if jobs.running.len() >= MAX_JOBS {
            return Err(PullSecretError::Busy);
        }
        let running = RunningJob {
            controller: Arc::clone(self),
            key: key.clone(),
        };
        let task = tokio::spawn(running.run());
        let result = async { task.await.unwrap_or(Err(PullSecretError::Aborted)) };
        let running = result.boxed().shared();
        jobs.running.insert(key, running.clone());
        Ok((true, running))
    }

    fn report_foreign(&self, namespace: &str) {
        let uid = {
            let known = self.applier.known();
            known.cache.foreign(namespace).map(str::to_owned)
        };
        let Some(uid) = uid else { return };
        if self.report(namespace, uid, Notice::ForeignSecret) {
            tracing::warn!(
                namespace,
                name = self.applier.api.name,
                "cannot create pull secret: a Secret of this name that image-mirror does not manage exists, and Pods cannot \
                 pull copies; delete it, or remove what creates it"
            );
        }
    }

    /// Reports a refusal by a quota or an admission policy to the users of the namespace.
    fn report_refusal(&self, namespace: &str, error: &PullSecretError) {
        let PullSecretError::Refused { reason, .. } = error else {
            return;
        };
        let notice = Notice::SecretRefused {
            reason: reason.clone(),
        };
        // There is no Secret, so there is no uid.
        if self.report(namespace, String::new(), notice) {
            tracing::warn!(
                namespace,
                name = self.applier.api.name,
                reason,
                "the API server refuses the pull secret; raise the quota of the namespace or change the admission policy"
            );
        }
    }

    /// Writes an Event about the Secret; returns whether it is news.
    fn report(&self, namespace: &str, uid: String, notice: Notice) -> bool {
        let secret = About {
            api_version: "v1".into(),
            kind: "Secret".into(),
            namespace: namespace.into(),
            name: self.applier.api.name.as_str().into(),
            uid,
        };
        self.events.report(secret, notice)
    }

    pub(super) fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jobs {
    pub(super) fn new(metrics: &SecretMetrics) -> Self {
        Self {
            running: HashMap::new(),
            busy: HashSet::new(),
            failures: BTreeMap::new(),
            unknown_namespaces: TokenBucket::new(UNKNOWN_INTERVAL, UNKNOWN_BURST),
            outdated: BTreeSet::new(),
            managed: metrics.managed_secrets(),
        }
    }

    pub(super) fn is_removing(&self, namespace: &Arc<str>) -> bool {
        let key = (Arc::clone(namespace), Job::Remove);
        self.running.contains_key(&key)
    }

    /// The numbers of running jobs and of namespaces with failures.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.running.len(), self.failures.len())
    }

    /// Logs once for a namespace that a login in its Secret is not renewed.
    fn report_outdated(&mut self, applier: &Applier, known: &Known, namespace: &Arc<str>) {
        if self.outdated.len() >= MAX_OUTDATED || self.outdated.contains(namespace) {
            return;
        }
        if let Some(login) = applier.outdated(known, namespace) {
            self.outdated.insert(Arc::clone(namespace));
            tracing::warn!(
                %namespace,
                name = applier.api.name,
                %login,
                "a login in this pull secret is out of date, and is not renewed because no rule allows it in this namespace; \
                 let a rule use its backup or target there, or change the images of the workloads that still use it"
            );
        }
    }

    fn backoff_until(&self, namespace: &str, now: Instant) -> Option<Instant> {
        self.failures.get(namespace)?.until(now)
    }

    /// Records the end of a job of a round; returns the number of failures in a row.
    fn record_end(&mut self, namespace: &Arc<str>, is_failure: bool, now: Instant) -> u32 {
        if !is_failure {
            self.failures.remove(namespace);
            return 0;
        }
        let failures = self.failures.entry(Arc::clone(namespace));
        let failures = failures.or_insert_with(failure_backoff);
        failures.fail(now);
        failures.failures()
    }
}

/// Removes the job from the running ones at its end, also if it is aborted.
struct RunningJob {
    controller: Arc<Controller>,
    key: (Arc<str>, Job),
}

impl RunningJob {
    async fn run(self) -> JobResult {
        let (namespace, job) = &self.key;
        let applier = &self.controller.applier;
        match job {
            Job::Apply => applier.apply(namespace, Mode::Ensure).await,
            Job::Peek => applier.apply(namespace, Mode::Peek).await,
            Job::Remove => applier.remove(namespace).await,
        }
    }
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        let job = self.controller.jobs().running.remove(&self.key);
        // It may hold the last handle of the task, which must not be dropped under the lock.
        drop(job);
    }
}

/// The turn of a namespace in a round. Ends also if its job is aborted.
struct Turn {
    controller: Arc<Controller>,
    namespace: Arc<str>,
}

impl Turn {
    fn end(&self, error: Option<PullSecretError>) {
        // A foreign Secret is no reason for a retry, and the next round reports it.
        let error = error.filter(|error| !matches!(error, PullSecretError::Foreign(_)));
        let (controller, namespace) = (&self.controller, &self.namespace);
        let now = Instant::now();
        let failures = controller
            .jobs()
            .record_end(namespace, error.is_some(), now);
        let Some(error) = error else { return };
        controller.report_refusal(namespace, &error);
        // The first failure may be the beginning of an outage of the API server, which is logged as such.
        let (reported_at, is_explained) = match error {
            PullSecretError::Unreachable { .. } => (2, controller.applier.api.server.is_away()),
            // Reported above.
            PullSecretError::Refused { .. } => (1, true),
            _ => (1, false),
        };
        if failures == reported_at && !is_explained {
            tracing::warn!(%namespace, reason = %error, "cannot update pull secret; retrying with backoff");
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.controller.jobs().busy.remove(&self.namespace);
        self.controller.applier.changed.send_replace(());
    }
}

struct SecretWatch(Arc<Controller>);

impl stream::Subject for SecretWatch {
    type Object = SecretObject;

    fn kind(&self) -> &'static str {
        "Secret"
    }

    fn path(&self) -> String {
        SecretObject::url_path(&(), None)
    }

    fn keep(&self) -> Keep {
        SecretObject::KEEP
    }

    /// The RBAC roles allow no watch of other Secrets.
    fn field_selector(&self) -> Option<String> {
        Some(format!("metadata.name={}", self.0.applier.api.name))
    }

    fn take(&self, event: Event<SecretObject>) {
        let applier = &self.0.applier;
        {
            let cache = &mut applier.known().cache;
            match event {
                Event::Init => cache.begin(),
                Event::InitDone => cache.end(),
                Event::InitApply(object) | Event::Apply(object) => {
                    if let Some((namespace, secret)) = object.into_stored() {
                        cache.insert(namespace, secret);
                    }
                }
                Event::Delete(object) => {
                    if let Some((namespace, secret)) = object.into_stored() {
                        cache.remove(&namespace, &secret.version.uid);
                    }
                }
            }
        }
        applier.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests;
