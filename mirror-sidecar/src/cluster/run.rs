//! Starts the tasks that work with the cluster.

use std::error::Error as _;
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use kube::config::{InferConfigError, KubeconfigError};
use kube::{Client, Config};
use mirror_contract::BackupName;
use tokio::sync::watch::Receiver;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use super::config::{ClusterConfig, Kubernetes, PullPlan};
use super::events::EventMetrics;
use super::index::{Limits, SharedAmounts};
use super::injected::InjectedContainers;
use super::policies::follow::{Followed, KNOWN_WITHIN};
use super::policies::{Fallback, Policy};
use super::policy_events::PolicyEvents;
use super::pull_secrets::{ReadLogins, SecretMetrics, Setup};
use super::readmission::{ReadmissionController, ReadmissionMetrics};
use super::reconciler::{ReconcilerMetrics, UpstreamLimits};
use super::reinvocation::Reinvocation;
use super::replicas::{Group, ReplicaMetrics};
use super::shared_index::Indexes;
use super::supervision::supervise;
use super::target_checks::TargetChecks;
use super::trouble_events::TroubleEvents;
use super::watch::watch;
use super::{
    CopyStatuses, Events, ExcludedNamespaces, Index, ManagedSecrets, Notice, Provision,
    Readmissions, Reconciler, Replicas, Rules, SharedIndex,
};
use crate::backup_health::Trouble;
use crate::backups::{BackupLocations, ByBackup};
use crate::copy_queue::CrashRecord;
use crate::exit::UsageError;
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::server::CertificateTrouble;
use crate::target_lookup::TargetLookup;

/// Longest wait for bytes of the API server. It ends each watch after less than five minutes, so a connection that is silent
/// for longer is lost.
const SILENCE: Duration = Duration::from_mins(6);

/// The metrics of the parts.
#[derive(Clone)]
pub struct ClusterMetrics {
    events: EventMetrics,
    replicas: ReplicaMetrics,
    readmissions: ReadmissionMetrics,
    reconciler: ReconcilerMetrics,
    secrets: SecretMetrics,
}

impl ClusterMetrics {
    #[must_use]
    pub fn register(metrics: &mut Metrics) -> Self {
        Self {
            events: EventMetrics::register(metrics),
            replicas: ReplicaMetrics::register(metrics),
            readmissions: ReadmissionMetrics::register(metrics),
            reconciler: ReconcilerMetrics::register(metrics),
            secrets: SecretMetrics::register(metrics),
        }
    }
}

/// The tasks of the cluster, as others use them.
pub struct Started {
    /// This replica must leave them at the end.
    pub replicas: Replicas,
    /// Of pull Secrets.
    pub provision: Provision,
    pub indexes: Indexes,
    pub copy_status: ByBackup<CopyStatuses>,
}

/// What the tasks share.
struct Shared {
    replicas: Replicas,
    events: Events,
    indexes: Indexes,
    copy_status: ByBackup<CopyStatuses>,
    upstream_limits: UpstreamLimits,
}

/// What the tasks need from outside before they start.
pub struct Prepared {
    config: ClusterConfig,
    server: ApiServer,
    /// `None` if the pull Secret is not managed.
    logins: Option<ReadLogins>,
}

/// The lookups of images.
pub struct Lookups<'l> {
    pub backups: &'l ByBackup<Lookup>,
    pub crash_record: ProcessRecord<'l>,
    pub targets: TargetLookup,
    /// The locations of all backups.
    pub locations: Arc<ByBackup<BackupLocations>>,
}

/// The record of running copies, of all backups.
#[derive(Clone, Copy)]
pub enum ProcessRecord<'r> {
    /// The process has just started. That of the process before is loaded before any copy starts.
    Starting(&'r CrashRecord),
    /// Copies may be running already.
    Running(&'r CrashRecord),
}

/// Prepares everything that can fail. Nothing of it is visible outside.
///
/// # Errors
/// [`UsageError`] if no cluster is configured, or if there is no login for the default backup. An API server that does not
/// respond is no error.
pub async fn prepare(config: ClusterConfig) -> anyhow::Result<Prepared> {
    let server = connect(|reason| no_cluster_for(config.mode, reason)).await?;
    let logins = match &config.pull_plan {
        PullPlan::NotNeeded | PullPlan::Existing { .. } => None,
        PullPlan::Managed { logins, .. } => Some(ReadLogins::read(logins.clone()).await?),
    };
    Ok(Prepared {
        config,
        server,
        logins,
    })
}

/// Starts the tasks, which end with `stop`.
#[must_use]
pub fn start(
    prepared: Prepared,
    excluded_namespaces: ExcludedNamespaces,
    lookups: Lookups<'_>,
    metrics: ClusterMetrics,
    certificate: Option<Receiver<Option<CertificateTrouble>>>,
    stop: CancellationToken,
) -> Started {
    let Prepared {
        config,
        server,
        logins,
    } = prepared;
    let Lookups {
        backups,
        crash_record,
        targets,
        locations,
    } = lookups;
    let is_on = config.mode == Kubernetes::On;
    let rules = backups.map(|_, lookup| rules(&config, &excluded_namespaces, lookup));
    let replicas = replicas(
        &config,
        &server,
        rules.of_default(),
        &metrics.replicas,
        crash_record,
    );
    let events = if is_on {
        Events::start(server.clone(), config.replica.as_deref(), metrics.events)
    } else {
        Events::none()
    };
    let followed = followed(&config, &rules);
    let shared = Shared {
        replicas,
        events,
        indexes: indexes(&config, &rules, backups),
        copy_status: copy_statuses(backups),
        upstream_limits: UpstreamLimits::default(),
    };
    let Shared {
        replicas,
        events,
        indexes,
        copy_status,
        ..
    } = &shared;
    let certificate_events =
        certificate.map(|trouble| certificate_events(trouble, indexes.of_default(), events));
    let policy_events = PolicyEvents {
        followed: followed.clone(),
        policies: excluded_namespaces.policies().clone(),
        backups: locations,
        replicas: replicas.clone(),
        events: events.clone(),
    };
    shared.start_tasks_of_backups(backups, &metrics.reconciler, &config, &stop);
    let setup = |name, logins| Setup {
        name,
        former_names: config.former_pull_secrets,
        logins,
        followed: config.followed_policies.is_set().then(|| followed.clone()),
        excluded_namespaces,
        cluster: Arc::clone(indexes.of_default()),
        replicas: replicas.clone(),
        events: events.clone(),
        metrics: metrics.secrets,
    };
    let provision = provision(config.pull_plan.name(), logins, setup, &server, &stop);
    let injected = shared.injected_containers();
    let readmission = ReadmissionController {
        server: server.clone(),
        indexes: indexes.clone(),
        copy_status: copy_status.clone(),
        targets,
        replicas: replicas.clone(),
        events: events.clone(),
        metrics: metrics.readmissions,
        secrets: provision.clone(),
        own_namespace: config.own_namespace,
    };
    let target_checks = TargetChecks::before(&readmission);
    let reinvocation = config
        .reinvoke_policy
        .map(|policy| Reinvocation::new(server.clone(), replicas.clone(), &policy));
    let tasks = Task::of(is_on, reinvocation.is_some());
    let tasks = supervise(tasks, move |task| match task {
        Task::PolicyEvents => policy_events.clone().run().boxed(),
        Task::CertificateEvents => or_pending(certificate_events.clone(), TroubleEvents::run),
        Task::ReadmissionController => {
            let readmissions = Readmissions::new(config.readmit, config.readmit_per_minute);
            readmission.clone().run(readmissions).boxed()
        }
        Task::TargetChecks => target_checks.clone().run().boxed(),
        Task::Injected => injected.clone().run().boxed(),
        Task::Reinvocation => or_pending(reinvocation.clone(), Reinvocation::run),
    });
    start_watches(server, indexes.clone(), followed, &stop);
    tokio::spawn(stop.run_until_cancelled_owned(tasks));
    Started {
        replicas: replicas.clone(),
        provision,
        indexes: indexes.clone(),
        copy_status: copy_status.clone(),
    }
}

fn copy_statuses(backups: &ByBackup<Lookup>) -> ByBackup<CopyStatuses> {
    let of_default = CopyStatuses::new();
    backups.map(|name, _| {
        if name.is_default() {
            of_default.clone()
        } else {
            of_default.of_other_backup()
        }
    })
}

fn provision(
    name: Option<&str>,
    logins: Option<ReadLogins>,
    setup: impl FnOnce(String, ReadLogins) -> Setup,
    server: &ApiServer,
    stop: &CancellationToken,
) -> Provision {
    match (name, logins) {
        (Some(name), Some(logins)) => {
            let setup = setup(name.to_owned(), logins);
            Provision::Managed(ManagedSecrets::start(setup, server.clone(), stop.clone()))
        }
        (name, _) => Provision::given(name),
    }
}

impl Shared {
    fn start_tasks_of_backups(
        &self,
        backups: &ByBackup<Lookup>,
        metrics: &ReconcilerMetrics,
        config: &ClusterConfig,
        stop: &CancellationToken,
    ) {
        for (name, lookup) in backups.iter() {
            let metrics = metrics.of_backup(name);
            let is_on = config.mode == Kubernetes::On;
            let tasks = self.tasks_of_backup(lookup, metrics, config, is_on);
            tokio::spawn(stop.clone().run_until_cancelled_owned(tasks));
        }
    }

    fn injected_containers(&self) -> InjectedContainers {
        InjectedContainers {
            indexes: self.indexes.clone(),
            copy_status: self.copy_status.clone(),
            replicas: self.replicas.clone(),
            events: self.events.clone(),
        }
    }

    /// The tasks of one backup: its reconciler and, if the cluster may be changed (`is_on`), the Events about its health.
    fn tasks_of_backup(
        &self,
        lookup: &Lookup,
        metrics: ReconcilerMetrics,
        config: &ClusterConfig,
        is_on: bool,
    ) -> impl Future<Output = ()> + Send + 'static {
        let of_default = self.indexes.of_default();
        let name = lookup.name();
        let cluster = self.indexes.by_backup().get(name).unwrap_or(of_default);
        let copy_status = self.copy_status.get(name);
        let reconciler = Reconciler {
            cluster: Arc::clone(cluster),
            lookup: lookup.clone(),
            copy_status: copy_status.cloned().unwrap_or_default(),
            replicas: self.replicas.clone(),
            events: self.events.clone(),
            metrics,
            upstream_limits: self.upstream_limits.clone(),
            interval: config.recheck_interval,
            on_moved_tag: config.on_moved_tag,
        };
        let health = lookup.health().clone();
        let backup = health.backup().map(str::to_owned);
        let recovered = Notice::BackupRecovered {
            backup: backup.clone(),
        };
        let events = TroubleEvents {
            trouble: health.subscribe(),
            describe: Arc::new(move |Trouble { kind, reason }| Notice::BackupTrouble {
                backup: backup.clone(),
                kind,
                next_step: health.next_step(kind),
                reason,
            }),
            recovered,
            // It knows the own Deployment.
            cluster: Arc::clone(of_default),
            events: self.events.clone(),
        };
        let name = name.clone();
        async move {
            let tasks = [BackupTask::Reconciler, BackupTask::Events];
            let names = tasks.map(|task| TaskOfBackup {
                task,
                backup: &name,
            });
            let names = if is_on { &names[..] } else { &names[..1] };
            supervise(names, |name| match name.task {
                BackupTask::Reconciler => reconciler.clone().run().boxed(),
                BackupTask::Events => events.clone().run().boxed(),
            })
            .await;
        }
    }
}

/// Runs an optional task. Without it, the future never ends.
fn or_pending<T, F>(task: Option<T>, run: impl FnOnce(T) -> F) -> BoxFuture<'static, ()>
where
    F: Future<Output = ()> + Send + 'static,
{
    match task {
        Some(task) => run(task).boxed(),
        None => std::future::pending().boxed(),
    }
}

/// Starts the watches of workloads, which begin when the policies are known, if there are any: otherwise images that these keep
/// would be copied.
fn start_watches(
    server: ApiServer,
    indexes: Indexes,
    policies: Followed,
    stop: &CancellationToken,
) {
    policies.begin();
    if policies.is_any() {
        let policies = policies.clone();
        let server = server.clone();
        let follow = supervise(&["policies"], move |_| policies.clone().run(server.clone()));
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow));
    }
    let watches = {
        let stop = stop.clone();
        async move {
            while policies.is_any() && timeout(KNOWN_WITHIN, policies.known()).await.is_err() {
                // During an outage there is nothing to copy either.
                if server.is_away() {
                    continue;
                }
                if policies.copies_nothing() {
                    tracing::warn!(
                        "cannot read policies, so images are copied only when a policy requests them; check the API server and the \
                         permissions of mirror-sidecar"
                    );
                } else {
                    tracing::warn!(
                        "cannot read policies, --exclude-namespaces and --skip-owner apply until then; check the API server and \
                         the permissions of mirror-sidecar"
                    );
                }
                break;
            }
            watch(server, indexes, stop).await;
        }
    };
    tokio::spawn(stop.clone().run_until_cancelled_owned(watches));
}

fn certificate_events(
    trouble: Receiver<Option<CertificateTrouble>>,
    cluster: &Arc<SharedIndex>,
    events: &Events,
) -> TroubleEvents<CertificateTrouble> {
    TroubleEvents {
        trouble,
        describe: Arc::new(
            |CertificateTrouble { kind, reason }| Notice::FacadeCertificate { kind, reason },
        ),
        recovered: Notice::FacadeCertificateRenewed,
        cluster: Arc::clone(cluster),
        events: events.clone(),
    }
}

fn followed(config: &ClusterConfig, rules: &ByBackup<Rules>) -> Followed {
    let fallback = Fallback::of(rules);
    let rules = rules.of_default();
    let excluded = &rules.excluded_namespaces;
    let fallback = Policy::of_flags(excluded.patterns(), &rules.skip_owners, fallback);
    let policies = excluded.policies().clone();
    Followed::new(config.followed_policies.clone(), fallback, policies)
}

/// Creates the indexes, which share the limits of the cluster. The limits also hold for the queues of copies.
fn indexes(config: &ClusterConfig, rules: &ByBackup<Rules>, backups: &ByBackup<Lookup>) -> Indexes {
    let limits = Limits::of(config.max_workloads);
    let amounts = SharedAmounts::default();
    for lookup in backups.values() {
        lookup.limit_in_use(limits.namespace.images, limits.cluster.images);
    }
    let index = |rules: &Rules| {
        Index::new(rules.clone())
            .with_limits(limits)
            .with_shared_amounts(&amounts)
    };
    let of_default = SharedIndex::new(index(rules.of_default()));
    let of_default = Arc::new(match (&config.own_namespace, &config.replica) {
        (Some(namespace), Some(pod)) => of_default.within_pod(namespace, pod),
        _ => of_default,
    });
    let mut indexes = ByBackup::new(Arc::clone(&of_default));
    for (name, rules) in rules.named() {
        indexes.insert(name.clone(), Arc::new(of_default.beside(index(rules))));
    }
    Indexes::new(indexes)
}

fn rules(
    config: &ClusterConfig,
    excluded_namespaces: &ExcludedNamespaces,
    lookup: &Lookup,
) -> Rules {
    Rules {
        backup: lookup.backup().clone(),
        former_backups: lookup.locations().former_backups().clone(),
        other_backups: lookup.locations().other_backups().clone(),
        excluded_namespaces: excluded_namespaces.clone(),
        pull_secret: config.pull_plan.name().map(str::to_owned),
        former_pull_secrets: config.former_pull_secrets.clone(),
        skip_owners: config.skip_owners.clone(),
    }
}

/// The tasks besides the watches and those of each backup.
#[derive(Clone, Copy)]
enum Task {
    ReadmissionController,
    TargetChecks,
    Injected,
    Reinvocation,
    CertificateEvents,
    PolicyEvents,
}

impl Task {
    /// Returns the tasks for a cluster that may be changed (`is_on`) or not. Reinvocation rewrites injected images, so that
    /// there is nothing to report about them.
    const fn of(is_on: bool, has_reinvocation: bool) -> &'static [Self] {
        match (is_on, has_reinvocation) {
            (false, _) => &[],
            (true, false) => &[
                Self::ReadmissionController,
                Self::TargetChecks,
                Self::Injected,
                Self::CertificateEvents,
                Self::PolicyEvents,
            ],
            (true, true) => &[
                Self::ReadmissionController,
                Self::TargetChecks,
                Self::Reinvocation,
                Self::CertificateEvents,
                Self::PolicyEvents,
            ],
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadmissionController => "readmission",
            Self::TargetChecks => "target checks",
            Self::Injected => "injected containers",
            Self::Reinvocation => "reinvocation",
            Self::CertificateEvents => "certificate events",
            Self::PolicyEvents => "policy events",
        })
    }
}

#[derive(Clone, Copy)]
enum BackupTask {
    Reconciler,
    Events,
}

#[derive(Clone, Copy)]
struct TaskOfBackup<'n> {
    task: BackupTask,
    backup: &'n BackupName<'static>,
}

impl fmt::Display for TaskOfBackup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.task {
            BackupTask::Reconciler => "reconciler",
            BackupTask::Events => "backup events",
        })?;
        if self.backup.is_default() {
            return Ok(());
        }
        write!(f, " of backup {}", self.backup)
    }
}

fn no_cluster_for(mode: Kubernetes, reason: &str) -> String {
    let mode = mode.as_str();
    format!(
        "cannot find a cluster for --kubernetes={mode}: {reason}; set KUBECONFIG, or use --kubernetes=off"
    )
}

fn no_cluster(error: &InferConfigError) -> String {
    let kubeconfig = error.source().and_then(|source| source.downcast_ref());
    match kubeconfig {
        Some(KubeconfigError::ReadConfig(cause, file)) if cause.kind() == ErrorKind::NotFound => {
            format!("no ServiceAccount, and {} does not exist", file.display())
        }
        Some(KubeconfigError::FindPath) => "no ServiceAccount, and no kubeconfig".to_owned(),
        _ => error.to_string(),
    }
}

/// Connects to the cluster that this Pod runs in, or to that of KUBECONFIG.
///
/// # Errors
/// [`UsageError`] with the text of `message` for the reason if no cluster is configured.
pub(crate) async fn connect(message: impl FnOnce(&str) -> String) -> anyhow::Result<ApiServer> {
    let inferred = Config::infer().await;
    let mut config = inferred.map_err(|error| UsageError(message(&no_cluster(&error))))?;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    tracing::info!(server = %config.cluster_url, "connected to cluster");
    let address = config.cluster_url.to_string();
    let client = Client::try_from(config).context("cannot create a client for the API server")?;
    Ok(ApiServer::new(client, &address))
}

fn replicas(
    config: &ClusterConfig,
    server: &ApiServer,
    rules: &Rules,
    metrics: &ReplicaMetrics,
    crash_record: ProcessRecord<'_>,
) -> Replicas {
    if config.mode != Kubernetes::On {
        metrics.replicas(1);
        return Replicas::alone();
    }
    let (Some(name), Some(namespace)) = (&config.replica, &config.own_namespace) else {
        tracing::info!(
            "not sharing work with other replicas: --replica and --own-namespace (POD_NAME, POD_NAMESPACE) are not set"
        );
        metrics.replicas(1);
        return Replicas::alone();
    };
    let group = Group::of(rules, &config.followed_policies);
    let crash_record = match crash_record {
        ProcessRecord::Starting(record) => {
            record.persist();
            record
        }
        ProcessRecord::Running(record) => record,
    };
    Replicas::join(
        server.clone(),
        namespace,
        name,
        &group,
        metrics.clone(),
        crash_record.clone(),
    )
}
