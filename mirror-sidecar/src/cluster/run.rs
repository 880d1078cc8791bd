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
use tokio::sync::watch::Receiver;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use super::config::{ClusterConfig, Kubernetes, PullPlan};
use super::events::EventMetrics;
use super::index::Limits;
use super::injected::InjectedContainers;
use super::policies::Policy;
use super::policies::follow::Followed;
use super::policy_events::PolicyEvents;
use super::pull_secrets::{SecretMetrics, Setup};
use super::readmission::{ReadmissionController, ReadmissionMetrics};
use super::reconciler::ReconcilerMetrics;
use super::reinvocation::Reinvocation;
use super::replicas::{Group, ReplicaMetrics};
use super::supervision::supervise;
use super::target_checks::TargetChecks;
use super::trouble_events::TroubleEvents;
use super::watch::watch;
use super::{
    CopyStatuses, Events, ExcludedNamespaces, Index, ManagedSecrets, Notice, Provision,
    Readmissions, Reconciler, Replicas, Rules, SharedIndex,
};
use crate::backup_health::Trouble;
use crate::exit::UsageError;
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::server::CertificateTrouble;
use crate::target_lookup::TargetLookup;

/// Longest wait for bytes of the API server. It ends each watch after less than five minutes, so a connection that is silent
/// for longer is lost.
const SILENCE: Duration = Duration::from_mins(6);

/// Longest wait for the policies before images are copied.
const POLICIES_FIRST: Duration = Duration::from_secs(30);

/// The metrics of the parts.
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

/// Starts the tasks, which end with `stop`. Returns the replicas, which this one must leave at the end, the provider of pull
/// Secrets, and the index.
///
/// # Errors
/// [`UsageError`] if no cluster is configured. An API server that does not respond is no error.
pub async fn start(
    config: ClusterConfig,
    excluded_namespaces: ExcludedNamespaces,
    lookup: Lookup,
    targets: TargetLookup,
    metrics: ClusterMetrics,
    certificate: Option<Receiver<Option<CertificateTrouble>>>,
    stop: CancellationToken,
) -> anyhow::Result<(Replicas, Provision, Arc<SharedIndex>)> {
    let server = connect(config.mode).await?;
    let rules = rules(&config, &excluded_namespaces, &lookup);
    let is_on = config.mode == Kubernetes::On;
    let (replicas, events) = if is_on {
        let replicas = replicas(&config, &server, &rules, &metrics.replicas, &lookup);
        let events = Events::start(server.clone(), config.replica.as_deref(), metrics.events);
        (replicas, events)
    } else {
        metrics.replicas.replicas(1);
        (Replicas::alone(), Events::none())
    };
    let followed = followed(&config, &rules);
    let cluster = shared_index(&config, rules, &lookup);
    let backup_events = TroubleEvents {
        trouble: lookup.health().subscribe(),
        describe: |Trouble { kind, reason }| Notice::BackupTrouble { kind, reason },
        recovered: Notice::BackupRecovered,
        cluster: Arc::clone(&cluster),
        events: events.clone(),
    };
    let certificate_events =
        certificate.map(|trouble| certificate_events(trouble, &cluster, &events));
    let policy_events = PolicyEvents {
        followed: followed.clone(),
        replicas: replicas.clone(),
        events: events.clone(),
    };
    let provision = match config.pull_plan {
        PullPlan::NotNeeded => Provision::given(None),
        PullPlan::Existing { name } => Provision::given(Some(&name)),
        PullPlan::Managed { name, credentials } => {
            let setup = Setup {
                name,
                former_names: config.former_pull_secrets,
                credentials,
                registry: lookup.backup().registry().to_owned(),
                excluded_namespaces,
                cluster: Arc::clone(&cluster),
                replicas: replicas.clone(),
                events: events.clone(),
                metrics: metrics.secrets,
            };
            Provision::Managed(ManagedSecrets::start(setup, server.clone(), stop.clone()).await?)
        }
    };
    let copy_status = CopyStatuses::new();
    let reconciler = Reconciler {
        cluster: Arc::clone(&cluster),
        lookup,
        copy_status: copy_status.clone(),
        replicas: replicas.clone(),
        events: events.clone(),
        metrics: metrics.reconciler,
        interval: config.recheck_interval,
        on_moved_tag: config.on_moved_tag,
    };
    let injected = InjectedContainers {
        cluster: Arc::clone(&cluster),
        copy_status: copy_status.clone(),
        replicas: replicas.clone(),
        events: events.clone(),
    };
    let readmission = ReadmissionController {
        server: server.clone(),
        cluster: Arc::clone(&cluster),
        copy_status,
        targets,
        replicas: replicas.clone(),
        events,
        metrics: metrics.readmissions,
        secrets: provision.clone(),
        own_namespace: config.own_namespace,
    };
    let target_checks = TargetChecks::before(&readmission);
    let reinvocation = config
        .reinvoke_policy
        .map(|policy| Reinvocation::new(server.clone(), replicas.clone(), &policy));
    let tasks = Task::of(is_on, reinvocation.is_some());
    let (mode, rate) = (config.readmit, config.readmit_per_minute);
    let tasks = supervise(tasks, move |task| match task {
        Task::Reconciler => reconciler.clone().run().boxed(),
        Task::BackupEvents => backup_events.clone().run().boxed(),
        Task::PolicyEvents => policy_events.clone().run().boxed(),
        Task::CertificateEvents => or_pending(certificate_events.clone(), TroubleEvents::run),
        Task::ReadmissionController => {
            let readmissions = Readmissions::new(mode, rate);
            readmission.clone().run(readmissions).boxed()
        }
        Task::TargetChecks => target_checks.clone().run().boxed(),
        Task::Injected => injected.clone().run().boxed(),
        Task::Reinvocation => or_pending(reinvocation.clone(), Reinvocation::run),
    });
    start_watches(server, Arc::clone(&cluster), followed, &stop);
    tokio::spawn(stop.run_until_cancelled_owned(tasks));
    Ok((replicas, provision, cluster))
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
    cluster: Arc<SharedIndex>,
    policies: Followed,
    stop: &CancellationToken,
) {
    if policies.is_any() {
        let policies = policies.clone();
        let server = server.clone();
        let follow = supervise(&["policies"], move |_| policies.clone().run(server.clone()));
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow));
    }
    let watches = {
        let stop = stop.clone();
        async move {
            while policies.is_any() && timeout(POLICIES_FIRST, policies.known()).await.is_err() {
                // During an outage there is nothing to copy either.
                if !server.is_away() {
                    tracing::warn!(
                        "cannot read policies, --exclude-namespaces and --skip-owner apply until then; check the API server and \
                         the permissions of mirror-sidecar"
                    );
                    break;
                }
            }
            watch(server, cluster, stop).await;
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
        describe: |CertificateTrouble { kind, reason }| Notice::FacadeCertificate { kind, reason },
        recovered: Notice::FacadeCertificateRenewed,
        cluster: Arc::clone(cluster),
        events: events.clone(),
    }
}

fn followed(config: &ClusterConfig, rules: &Rules) -> Followed {
    let excluded = &rules.excluded_namespaces;
    let fallback = Policy::of_flags(excluded.patterns(), &rules.skip_owners);
    let policies = excluded.policies().clone();
    Followed::new(config.followed_policies.clone(), fallback, policies)
}

/// Creates the index with the limits of namespaces and of the cluster, which also hold for the lookup.
fn shared_index(config: &ClusterConfig, rules: Rules, lookup: &Lookup) -> Arc<SharedIndex> {
    let limits = Limits::of(config.max_workloads);
    lookup.limit_in_use(limits.namespace.images, limits.cluster.images);
    let index = SharedIndex::new(Index::new(rules).with_limits(limits));
    Arc::new(match (&config.own_namespace, &config.replica) {
        (Some(namespace), Some(pod)) => index.within_pod(namespace, pod),
        _ => index,
    })
}

fn rules(
    config: &ClusterConfig,
    excluded_namespaces: &ExcludedNamespaces,
    lookup: &Lookup,
) -> Rules {
    Rules {
        backup: lookup.backup().clone(),
        former_backups: lookup.locations().former_backups().clone(),
        excluded_namespaces: excluded_namespaces.clone(),
        pull_secret: config.pull_plan.name().map(str::to_owned),
        former_pull_secrets: config.former_pull_secrets.clone(),
        skip_owners: config.skip_owners.clone(),
    }
}

/// The tasks besides the watches.
#[derive(Clone, Copy)]
enum Task {
    Reconciler,
    ReadmissionController,
    TargetChecks,
    Injected,
    Reinvocation,
    BackupEvents,
    CertificateEvents,
    PolicyEvents,
}

impl Task {
    /// Returns the tasks for a cluster that may be changed (`is_on`) or not. Reinvocation rewrites injected images, so that
    /// there is nothing to report about them.
    const fn of(is_on: bool, has_reinvocation: bool) -> &'static [Self] {
        match (is_on, has_reinvocation) {
            (false, _) => &[Self::Reconciler],
            (true, false) => &[
                Self::Reconciler,
                Self::ReadmissionController,
                Self::TargetChecks,
                Self::Injected,
                Self::BackupEvents,
                Self::CertificateEvents,
                Self::PolicyEvents,
            ],
            (true, true) => &[
                Self::Reconciler,
                Self::ReadmissionController,
                Self::TargetChecks,
                Self::Reinvocation,
                Self::BackupEvents,
                Self::CertificateEvents,
                Self::PolicyEvents,
            ],
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reconciler => "reconciler",
            Self::ReadmissionController => "readmission",
            Self::TargetChecks => "target checks",
            Self::Injected => "injected containers",
            Self::Reinvocation => "reinvocation",
            Self::BackupEvents => "backup events",
            Self::CertificateEvents => "certificate events",
            Self::PolicyEvents => "policy events",
        })
    }
}

fn no_cluster(mode: Kubernetes, error: &InferConfigError) -> String {
    let mode = mode.as_str();
    let kubeconfig = error.source().and_then(|source| source.downcast_ref());
    let reason = match kubeconfig {
        Some(KubeconfigError::ReadConfig(cause, file)) if cause.kind() == ErrorKind::NotFound => {
            format!("no ServiceAccount, and {} does not exist", file.display())
        }
        Some(KubeconfigError::FindPath) => "no ServiceAccount, and no kubeconfig".to_owned(),
        _ => error.to_string(),
    };
    format!(
        "cannot find a cluster for --kubernetes={mode}: {reason}; set KUBECONFIG, or use --kubernetes=off"
    )
}

async fn connect(mode: Kubernetes) -> anyhow::Result<ApiServer> {
    let inferred = Config::infer().await;
    let mut config = inferred.map_err(|error| UsageError(no_cluster(mode, &error)))?;
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
    lookup: &Lookup,
) -> Replicas {
    let (Some(name), Some(namespace)) = (&config.replica, &config.own_namespace) else {
        tracing::info!(
            "not sharing work with other replicas: --replica and --own-namespace (POD_NAME, POD_NAMESPACE) are not set"
        );
        metrics.replicas(1);
        return Replicas::alone();
    };
    let group = Group::of(rules, &config.followed_policies);
    let record = lookup.crash_record().clone();
    Replicas::join(
        server.clone(),
        namespace,
        name,
        &group,
        metrics.clone(),
        record,
    )
}
