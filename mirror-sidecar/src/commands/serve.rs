//! `serve`: runs the service.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::args::{
    BackupArgs, ClusterArgs, FacadeArgs, FacadeLogin, ServeArgs, Transport, UsageError,
};
use crate::cluster::Index;
use crate::cluster::config::Kubernetes;
use crate::cluster::policies::file::SettingsFile;
use crate::cluster::run::{self, ClusterMetrics};
use crate::cluster::{ExcludedNamespaces, Policies, Provision, PullSecrets, Replicas};
use crate::copy_queue::CopyMetrics;
use crate::exit::stop_signal;
use crate::facade::{self, Facade, FacadeAuth, FacadeMetrics};
use crate::former_backups::FormerBackups;
use crate::locations::Locations;
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::namespace_budget::{BudgetMetrics, NamespaceBudgets};
use crate::registry_metrics::RegistryMetrics;
use crate::server::{Certificates, Limits, Server};
use crate::target_lookup::TargetLookup;

/// Timeout for running requests and copies at the end: well below the default grace period of a Pod, 30 s.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT.
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    // Destructured, so that a new flag cannot be forgotten.
    let ServeArgs {
        backup,
        sources,
        originals,
        facade: facade_args,
        admin_listen,
        shutdown_delay,
        parallel_copies,
        cluster: cluster_args,
    } = args;
    let place = backup.backup()?;
    log_start(&backup, cluster_args.kubernetes);
    let credentials = backup.add_login(sources.credentials()?, place.registry())?;
    let targets = sources.registries(credentials)?;
    let rewritten = sources.rewrite_targets(&originals, place.registry())?;
    let sources = sources.originals(&originals, place.registry())?;
    let certificates = certificates(facade_args.transport()?)?;
    let login = facade_login(&facade_args)?;

    let mut metrics = Metrics::new();
    let facade_metrics = FacadeMetrics::register(&mut metrics);
    let copy_metrics = CopyMetrics::register(&mut metrics);
    let cluster_metrics = ClusterMetrics::register(&mut metrics);
    let budgets = NamespaceBudgets::new(BudgetMetrics::register(&mut metrics));
    budgets.set(cluster_args.daily_budget());
    let registry_metrics = RegistryMetrics::register(&mut metrics);
    let sets = vec![targets.clone(), sources.clone(), rewritten.clone()];
    registry_metrics.follow(place.registry(), sets);
    let former_backups = FormerBackups::new(&place, cluster_args.former_backups.clone());
    let images = Locations::new(place, &targets, sources)
        .map_err(|error| UsageError(format!("--registry: {error}")))?
        .with_former_backups(former_backups)
        .with_max_bytes(originals.max_image_size.0);
    let (stop, is_ending) = (CancellationToken::new(), CancellationToken::new());
    let excluded_namespaces = excluded_namespaces(&cluster_args, &stop)?;
    let images = Arc::new(images);
    let policies = excluded_namespaces.policies().clone();
    let targets = TargetLookup::new(rewritten, Arc::clone(&images), policies);
    let lookup = Lookup::new(images, parallel_copies, budgets, copy_metrics);
    let observed = lookup.clone();
    metrics.before_encoding(move || observed.update_metrics());
    let plan = cluster_args.pull_plan(lookup.backup().registry())?;
    let (replicas, provision, cluster) = if cluster_args.kubernetes == Kubernetes::Off {
        (Replicas::alone(), Provision::given(plan.name()), None)
    } else {
        let (replicas, provision, cluster) = run::start(
            cluster_args.config(plan),
            excluded_namespaces.clone(),
            lookup.clone(),
            targets.clone(),
            cluster_metrics,
            certificates.as_ref().map(Certificates::subscribe),
            stop.clone(),
        )
        .await?;
        let used = Arc::clone(&cluster);
        registry_metrics.name_used_hosts(move || used.read(Index::hosts));
        (replicas, provision, Some(cluster))
    };
    let health = lookup.health().clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(health.run()));
    let facade = facade::router(Facade {
        lookup: lookup.clone(),
        targets,
        auth: login.as_ref().map(FacadeAuth::new),
        metrics: facade_metrics,
        cluster,
        pull_secrets: PullSecrets {
            provision,
            excluded_namespaces,
        },
    });
    let listen = |flag, address| format!("{flag} {address}: cannot listen");
    let facade = Server::bind(
        facade_args.listen,
        certificates.as_ref(),
        facade,
        Limits::facade(),
    )
    .with_context(|| listen("--listen", facade_args.listen))?;
    let admin = Server::bind(
        admin_listen,
        None,
        admin::router(lookup.registry().clone(), metrics, is_ending.clone()),
        Limits::admin(),
    )
    .with_context(|| listen("--admin-listen", admin_listen))?;
    tracing::info!(address = %facade.address()?, tls = certificates.is_some(), "facade is listening");
    tracing::info!(address = %admin.address()?, "admin is listening");
    if let Some(certificates) = certificates {
        tokio::spawn(certificates.watch());
    }
    let end = Shutdown {
        stop,
        is_ending,
        delay: shutdown_delay,
    };
    serve(facade, admin, &lookup, &replicas, end).await;
    Ok(ExitCode::SUCCESS)
}

/// Returns the excluded namespaces with the policies, and follows the file of settings until `stop`, if there is one.
fn facade_login(args: &FacadeArgs) -> Result<Option<FacadeLogin>, UsageError> {
    let login = args.login()?;
    if login.is_none() {
        tracing::warn!(
            "facade has no authentication: anyone who can connect can request copies; set --facade-username and \
             --facade-password-file"
        );
    }
    Ok(login)
}

fn excluded_namespaces(
    args: &ClusterArgs,
    stop: &CancellationToken,
) -> Result<ExcludedNamespaces, UsageError> {
    let policies = Policies::default();
    if let Some(path) = args.policy_settings.clone() {
        let file = SettingsFile::load(path, policies.clone())?;
        tokio::spawn(stop.clone().run_until_cancelled_owned(file.follow()));
    }
    let flags = args.exclude_namespaces.iter().cloned();
    let flags: ExcludedNamespaces = flags.collect();
    Ok(flags.with_policies(policies))
}

fn log_start(backup: &BackupArgs, kubernetes: Kubernetes) {
    let (place, naming) = backup.describe();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        backup = place,
        naming,
        kubernetes = kubernetes.as_str(),
        "starting mirror-sidecar"
    );
}

fn certificates(transport: Transport) -> anyhow::Result<Option<Certificates>> {
    let Transport::Tls { certificate, key } = transport else {
        tracing::warn!(
            "serving plain HTTP: requests and credentials are not encrypted; set --tls-cert and --tls-key"
        );
        return Ok(None);
    };
    let certificates = Certificates::load(certificate, key)
        .map_err(|error| UsageError(format!("--tls-cert and --tls-key: {error}")))?;
    Ok(Some(certificates))
}

struct Shutdown {
    /// Cancelled by the signal.
    is_ending: CancellationToken,
    /// Cancelled after `delay`: ends everything.
    stop: CancellationToken,
    delay: Duration,
}

async fn serve(facade: Server, admin: Server, lookup: &Lookup, replicas: &Replicas, end: Shutdown) {
    let Shutdown {
        stop,
        is_ending,
        delay,
    } = end;
    let signal = {
        let (stop, is_ending) = (stop.clone(), is_ending.clone());
        async move {
            stop_signal().await;
            tracing::info!("shutting down; unfinished copies are resumed after restart");
            is_ending.cancel();
            // Clients must see the failing readiness first.
            tokio::time::sleep(delay).await;
            stop.cancel();
        }
    };
    let servers = async {
        let stopped = async {
            is_ending.cancelled().await;
            // The other replicas take over the work.
            replicas.leave().await;
            stop.cancelled().await;
            lookup.shutdown().await;
        };
        // Copies stop; running requests still get a response.
        tokio::join!(facade.run(stop.clone()), admin.run(stop.clone()), stopped);
    };
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
        tracing::warn!("closing connections that did not end in time; check for slow clients");
    };
    let work = async { tokio::join!(signal, servers) };
    tokio::select! {
        _ = work => tracing::info!("stopped"),
        () = deadline => {}
    }
}
