//! Everything in the service that depends on the configuration. When it changes, it is built again while the listeners stay.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mirror_contract::BackupName;
use mirror_copy::Registries;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::args::{ClusterArgs, FacadeLogin, OriginalsArgs, SourceArgs, UsageError, naming_name};
use crate::backoff::Backoff;
use crate::backups::{BackupLocations, ByBackup, OtherBackups};
use crate::cluster::config::Kubernetes;
use crate::cluster::policies::UnusableKind;
use crate::cluster::run::{self, ClusterMetrics, ProcessRecord, Started};
use crate::cluster::shared_index::Indexes;
use crate::cluster::{
    ExcludedNamespaces, Index, Policies, Provision, PullLogins, PullSecrets, Replicas,
};
use crate::config::{BackupConfig, Config};
use crate::copy_queue::CopyMetrics;
use crate::facade::{Facade, FacadeAuth, FacadeMetrics};
use crate::locations::Locations;
use crate::lookup::{Lookup, SharedCopyQueue};
use crate::metrics::BackupSeries;
use crate::namespace_budget::NamespaceBudgets;
use crate::original_lookup::OriginalLookup;
use crate::registry_metrics::RegistryMetrics;
use crate::server::CertificateTrouble;
use crate::status::sources::{ClusterSources, Sources, WallClock};
use crate::target_lookup::{TargetLookup, TargetRegistries};

/// Builds running configurations, with what stays the same for all of them.
pub(super) struct Builder {
    pub(super) sources: SourceArgs,
    pub(super) originals: OriginalsArgs,
    pub(super) cluster: ClusterArgs,
    pub(super) login: Option<FacadeLogin>,
    pub(super) excluded_namespaces: ExcludedNamespaces,
    /// The registries of all backups, without credentials.
    pub(super) targets: Registries,
    pub(super) budgets: NamespaceBudgets,
    pub(super) queue: SharedCopyQueue,
    pub(super) metrics: ServiceMetrics,
    pub(super) certificate: Option<Receiver<Option<CertificateTrouble>>>,
    pub(super) clock: WallClock,
    /// Where other replicas reach the admin port, once it listens.
    pub(super) advertised: OnceLock<SocketAddr>,
    pub(super) stop: CancellationToken,
}

pub(super) struct ServiceMetrics {
    pub(super) facade: FacadeMetrics,
    pub(super) copies: CopyMetrics,
    pub(super) cluster: ClusterMetrics,
    pub(super) registries: RegistryMetrics,
    pub(super) of_backups: BackupSeries,
}

/// The lookups in all backups.
struct Lookups {
    backups: ByBackup<Lookup>,
    made_of: ByBackup<MadeOf>,
    sources: Registries,
}

/// What runs with one configuration. Its tasks end when it is dropped.
pub(super) struct RunningConfig {
    pub(super) backups: ByBackup<Lookup>,
    made_of: ByBackup<MadeOf>,
    /// The registries of originals.
    sources: Registries,
    pub(super) replicas: Replicas,
    /// What the status API shows.
    pub(super) status: Sources,
    pub(super) facade: Arc<Facade>,
    /// The logins that pull Secrets may have, with former ones.
    logins: PullLogins,
    stop: CancellationToken,
    _guard: DropGuard,
}

/// What a lookup was made of.
#[derive(Clone)]
struct MadeOf {
    config: BackupConfig,
    registries: Registries,
}

/// Wait after the configuration could not be used. It may name a file that another one replaces at the same time.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);

impl Builder {
    /// Builds what runs with a configuration, and starts its tasks. The lookups in backups that did not change are those of
    /// `former`, with their copies, health and backoffs.
    ///
    /// # Errors
    /// [`UsageError`] if the configuration cannot be used. Nothing of it remains.
    pub(super) async fn build(
        &self,
        config: &Config,
        former: Option<&RunningConfig>,
    ) -> anyhow::Result<RunningConfig> {
        let mut plan = self.cluster.pull_plan(config)?;
        let before = former.map(|former| former.logins.clone());
        let logins = plan.add_former(&before.unwrap_or_default());
        let pull_secret = plan.name().map(str::to_owned);
        // What can fail or take time comes first: until all of it has succeeded, nothing of the new configuration takes part in
        // copies, in the Lease of this replica, or in the cluster.
        let cluster = match self.cluster.kubernetes {
            Kubernetes::Off => None,
            Kubernetes::Watch | Kubernetes::On => {
                Some(run::prepare(self.cluster.clone().config(plan)).await?)
            }
        };
        let Lookups {
            backups,
            made_of,
            sources,
        } = self.lookups(&config.backups, former)?;
        let hosts = backups.values().map(|lookup| lookup.backup().registry());
        let rewritten = self.sources.rewrite_targets(&self.originals, hosts)?;
        let of_targets = config.targets.iter();
        let of_targets = of_targets.map(|target| (target.location.clone(), target.pull.clone()));
        let rewritten = TargetRegistries::new(rewritten, of_targets);
        let mut sets: Vec<_> = made_of
            .values()
            .map(|made| made.registries.clone())
            .collect();
        sets.push(sources.clone());
        sets.extend(rewritten.sets());
        let images = Arc::clone(backups.of_default().locations());
        let policies = self.excluded_namespaces.policies().clone();
        let targets = TargetLookup::new(rewritten, images, policies);
        let locations = Arc::new(config.locations());
        let stop = self.stop.child_token();
        let guard = stop.clone().drop_guard();
        let (provision, cluster) = match cluster {
            Some(prepared) => {
                let crash_record = self.queue.crash_record();
                let lookups = run::Lookups {
                    backups: &backups,
                    crash_record: match former {
                        Some(_) => ProcessRecord::Running(crash_record),
                        None => ProcessRecord::Starting(crash_record),
                    },
                    targets: targets.clone(),
                    locations: Arc::clone(&locations),
                };
                let (provision, cluster) = self.start_cluster(prepared, lookups, &stop);
                (provision, Some(cluster))
            }
            None => (Provision::given(pull_secret.as_deref()), None),
        };
        let replicas = cluster.as_ref().map(|cluster| cluster.replicas.clone());
        let replicas = replicas.unwrap_or_else(Replicas::alone);
        let status = Sources {
            backups: backups.clone(),
            cluster,
            clock: self.clock,
        };
        let cluster = status.cluster.as_ref();
        let indexes = cluster.map(|cluster| &cluster.indexes);
        let in_use = cluster.map(|cluster| cluster.copy_status.values().cloned().collect());
        if let Some(address) = self.advertised.get() {
            replicas.advertise(*address);
        }
        follow_health(&backups, &stop);
        // Settings of a file are refused instead.
        if self.cluster.selection.policy_settings.is_none() {
            let policies = self.excluded_namespaces.policies().clone();
            let report = report_unusable_rules(policies, locations);
            tokio::spawn(stop.clone().run_until_cancelled_owned(report));
        }
        let hosts = backups.values().map(|lookup| lookup.backup().registry());
        self.metrics.registries.follow(hosts, sets);
        if let Some(indexes) = indexes {
            self.name_used_hosts(indexes.clone());
        }
        let facade = Facade {
            originals: OriginalLookup::new(&backups, in_use.unwrap_or_default()),
            backups: backups.clone(),
            targets,
            auth: self.login.as_ref().map(FacadeAuth::new),
            metrics: self.metrics.facade.clone(),
            cluster: indexes.map(|indexes| Arc::clone(indexes.of_default())),
            pull_secrets: PullSecrets {
                provision,
                excluded_namespaces: self.excluded_namespaces.clone(),
            },
        };
        Ok(RunningConfig {
            backups,
            made_of,
            sources,
            replicas,
            status,
            facade: Arc::new(facade),
            logins,
            stop,
            _guard: guard,
        })
    }

    /// Starts the tasks of the cluster.
    fn start_cluster(
        &self,
        prepared: run::Prepared,
        lookups: run::Lookups<'_>,
        stop: &CancellationToken,
    ) -> (Provision, ClusterSources) {
        let Started {
            replicas,
            provision,
            indexes,
            copy_status,
        } = run::start(
            prepared,
            self.excluded_namespaces.clone(),
            lookups,
            self.metrics.cluster.clone(),
            self.certificate.clone(),
            stop.clone(),
        );
        let cluster = ClusterSources {
            indexes,
            copy_status,
            excluded: self.excluded_namespaces.clone(),
            replicas,
        };
        (provision, cluster)
    }

    /// Returns the lookups. Each backup has its own credentials. Connections, memory and the limits of hosts are shared, and
    /// so are the registries of originals.
    fn lookups(
        &self,
        configs: &ByBackup<BackupConfig>,
        former: Option<&RunningConfig>,
    ) -> Result<Lookups, UsageError> {
        // Each lookup knows the locations of all backups.
        let former = former.filter(|former| former.has_locations_of(configs));
        let locations = configs.map(|_, config| config.locations());
        let sources = if let Some(former) = former {
            former.sources.clone()
        } else {
            self.sources
                .originals(&self.originals, locations.values())?
        };
        let unchanged = |name: &BackupName<'_>, config: &BackupConfig| {
            former.and_then(|former| former.unchanged(name, config))
        };
        let made_of = configs.try_map(|name, config| {
            if let Some((_, made)) = unchanged(name, config) {
                return Ok(made.clone());
            }
            let push = config.push.clone();
            let credentials = self.sources.backup_credentials(push, &config.locations())?;
            Ok::<_, UsageError>(MadeOf {
                config: config.clone(),
                registries: self.targets.with_credentials(credentials),
            })
        })?;
        let backups = configs.try_map(|name, config| {
            if let Some((lookup, _)) = unchanged(name, config) {
                return Ok(lookup.clone());
            }
            let registries = made_of
                .get(name)
                .map_or(&self.targets, |made| &made.registries);
            let images = Locations::new(config.backup.clone(), registries, sources.clone());
            let images = images
                .map_err(|error| UsageError(format!("{}: {error}", config.origin.registry())))?;
            let images = images
                .with_former_backups(config.locations().former().clone())
                .with_other_backups(OtherBackups::of(name, &locations))
                .with_max_bytes(config.max_image_size);
            Ok::<_, UsageError>(Lookup::of_backup(
                Arc::new(images),
                config.origin.clone(),
                Some(config.parallel_copies),
                &self.queue,
                &self.budgets,
                &self.metrics.copies,
            ))
        })?;
        Ok(Lookups {
            backups,
            made_of,
            sources,
        })
    }

    /// Publishes the address of the admin port for the other replicas, now and with each later configuration.
    pub(super) fn advertise(&self, running: &RunningConfig, port: u16) {
        if let Some(ip) = self.cluster.pod_ip {
            let address = self.advertised.get_or_init(|| SocketAddr::new(ip, port));
            running.replicas.advertise(*address);
        }
    }

    fn name_used_hosts(&self, indexes: Indexes) {
        let used = move || {
            let of_backups = indexes.by_backup().values();
            of_backups
                .flat_map(|index| index.read(Index::hosts))
                .collect()
        };
        self.metrics.registries.name_used_hosts(used);
    }

    /// Replaces what runs whenever the configuration changes. It stays while the new configuration cannot be used.
    pub(super) async fn follow(
        self,
        mut config: Receiver<Arc<Config>>,
        running: Sender<Arc<RunningConfig>>,
        facade: Sender<Arc<Facade>>,
    ) {
        while config.changed().await.is_ok() {
            let mut backoff = Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF);
            let mut reported = None;
            loop {
                let new = Arc::clone(&config.borrow_and_update());
                let former = Arc::clone(&running.borrow());
                let error = match self.build(&new, Some(&former)).await {
                    Ok(built) => {
                        let built = Arc::new(built);
                        facade.send_replace(Arc::clone(&built.facade));
                        log_backups(&new);
                        running.send_replace(Arc::clone(&built));
                        former.retire(&built).await;
                        let name = |name: &str| {
                            built
                                .backups
                                .iter()
                                .any(|(known, _)| known.as_str() == name)
                        };
                        self.metrics.of_backups.retain(name);
                        break;
                    }
                    Err(error) => format!("{error:#}"),
                };
                backoff.fail(Instant::now());
                if reported.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "cannot use the new configuration, the former one stays in force until a retry succeeds; correct the \
                         file of --config, or the files that it names"
                    );
                    reported = Some(error);
                }
                let retry = backoff.until(Instant::now()).unwrap_or_else(Instant::now);
                tokio::select! {
                    () = sleep_until(retry) => {}
                    changed = config.changed() => if changed.is_err() {
                        return;
                    },
                }
            }
        }
    }
}

impl RunningConfig {
    /// Returns whether all backups are where they are in `configs`, with the same former locations.
    fn has_locations_of(&self, configs: &ByBackup<BackupConfig>) -> bool {
        let here = self.made_of.iter().map(|(name, made)| (name, &made.config));
        let there = configs.iter();
        let location = |(name, config): (&BackupName<'static>, &BackupConfig)| {
            (name.clone(), config.backup.clone(), config.former.clone())
        };
        here.map(location).eq(there.map(location))
    }

    /// Returns the lookup in a backup whose configuration is the same as here.
    fn unchanged(
        &self,
        name: &BackupName<'_>,
        config: &BackupConfig,
    ) -> Option<(&Lookup, &MadeOf)> {
        let made = self.made_of.get(name)?;
        let is_same = made.config.definition == config.definition;
        is_same.then_some((self.backups.get(name)?, made))
    }

    /// Stops everything that `successor` has not taken over.
    async fn retire(&self, successor: &Self) {
        self.stop.cancel();
        self.replicas.retire();
        for (name, lookup) in self.backups.iter() {
            let new = successor.backups.get(name);
            if !new.is_some_and(|new| Arc::ptr_eq(new.locations(), lookup.locations())) {
                lookup.shutdown().await;
            }
        }
    }

    /// Stops all copies.
    pub(super) async fn shutdown(&self) {
        for lookup in self.backups.values() {
            lookup.shutdown().await;
        }
    }
}

/// Probes the registries of all backups until `stop`.
fn follow_health(backups: &ByBackup<Lookup>, stop: &CancellationToken) {
    for lookup in backups.values() {
        let health = lookup.health().clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(health.run()));
    }
}

/// Logs rules that cannot be followed, each once for as long as it stays so, until it is dropped.
async fn report_unusable_rules(policies: Policies, backups: Arc<ByBackup<BackupLocations>>) {
    let mut changed = policies.subscribe();
    let mut reported = Vec::new();
    loop {
        let unusable = changed.borrow_and_update().unusable_rules(&backups);
        for rule in unusable.iter().filter(|rule| !reported.contains(*rule)) {
            let policy = rule.policy.as_ref().map(|policy| &*policy.name);
            let reason = &*rule.reason;
            match rule.kind {
                UnusableKind::BackupUnknown => tracing::warn!(
                    policy,
                    reason,
                    "a rule names a backup that is not defined, so its images are not copied; define the backup, or correct the \
                     rule"
                ),
                UnusableKind::Conflict => {
                    tracing::warn!(policy, reason, "a rule cannot be followed; correct it");
                }
            }
        }
        reported = unusable;
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Logs the backups that requests name.
pub(super) fn log_backups(config: &Config) {
    for (name, BackupConfig { backup, .. }) in config.backups.named() {
        tracing::info!(
            backup = %name,
            location = backup.location(),
            naming = naming_name(backup.naming()),
            "using backup"
        );
    }
}
