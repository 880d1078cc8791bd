//! `serve`: runs the service.

mod running_config;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use mirror_contract::Backup;
use mirror_copy::Credentials;
use tokio::sync::watch::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::args::{
    BackupFlags, ClusterArgs, FacadeArgs, FacadeLogin, ServeArgs, Transport, UsageError,
    naming_name,
};
use crate::cluster::config::Kubernetes;
use crate::cluster::policies::file::SettingsFile;
use crate::cluster::run::ClusterMetrics;
use crate::cluster::{ExcludedNamespaces, Policies};
use crate::config::Config;
use crate::copy_queue::CopyMetrics;
use crate::exit::stop_signal;
use crate::facade::{self, FacadeMetrics};
use crate::lookup::SharedCopyQueue;
use crate::metrics::Metrics;
use crate::namespace_budget::{BudgetMetrics, NamespaceBudgets};
use crate::registry_metrics::RegistryMetrics;
use crate::server::{Certificates, Limits, Server};
use crate::status::endpoints::StatusEndpoints;
use crate::status::sources::WallClock;
use running_config::{Builder, RunningConfig, ServiceMetrics, log_backups};

/// Timeout for running requests and copies at the end: well below the default grace period of a Pod, 30 s.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT.
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    // Destructured, so that a new flag cannot be forgotten.
    let ServeArgs {
        config,
        backup,
        sources,
        originals,
        facade: facade_args,
        admin_listen,
        status_endpoints,
        shutdown_delay,
        parallel_copies,
        cluster: cluster_args,
    } = args;
    let config = config.load(&BackupFlags {
        backup: &backup,
        sources: &sources,
        cluster: Some(&cluster_args),
        max_image_size: originals.max_image_size,
        parallel_copies,
    })?;
    let first = Arc::clone(&config.current.borrow());
    log_start(&first.backups.of_default().backup, cluster_args.kubernetes);
    log_backups(&first);
    let targets = sources.registries(Credentials::anonymous())?;
    let certificates = certificates(facade_args.transport()?)?;
    let login = facade_login(&facade_args)?;

    let mut metrics = Metrics::new();
    let facade_metrics = FacadeMetrics::register(&mut metrics);
    let copy_metrics = CopyMetrics::register(&mut metrics);
    let cluster_metrics = ClusterMetrics::register(&mut metrics);
    let budgets = NamespaceBudgets::new(BudgetMetrics::register(&mut metrics));
    budgets.set(cluster_args.daily_budget());
    let registry_metrics = RegistryMetrics::register(&mut metrics);
    let (stop, is_ending) = (CancellationToken::new(), CancellationToken::new());
    if let Some(file) = config.file {
        tokio::spawn(stop.clone().run_until_cancelled_owned(file.follow()));
    }
    let excluded_namespaces = excluded_namespaces(&cluster_args, &config.current, &stop)?;
    let builder = Builder {
        sources,
        originals,
        cluster: cluster_args,
        login,
        excluded_namespaces,
        targets,
        budgets,
        queue: SharedCopyQueue::new(parallel_copies),
        metrics: ServiceMetrics {
            facade: facade_metrics,
            copies: copy_metrics,
            cluster: cluster_metrics,
            registries: registry_metrics,
            of_backups: metrics.of_backups(),
        },
        certificate: certificates.as_ref().map(Certificates::subscribe),
        clock: WallClock::now(),
        advertised: OnceLock::new(),
        stop: stop.clone(),
    };
    let built = builder.build(&first, None).await?;
    let facade_sender = Sender::new(Arc::clone(&built.facade));
    let facade = facade::router(facade_sender.subscribe());
    let running = Sender::new(Arc::new(built));
    let observed = running.subscribe();
    metrics.before_encoding(move || {
        for lookup in observed.borrow().backups.values() {
            lookup.update_metrics();
        }
    });
    let admin = admin_router(&running, metrics, status_endpoints, is_ending.clone());
    let listen = |flag, address| format!("{flag} {address}: cannot listen");
    let facade = Server::bind(
        facade_args.listen,
        certificates.as_ref(),
        facade,
        Limits::facade(),
    )
    .with_context(|| listen("--listen", facade_args.listen))?;
    let admin = Server::bind(admin_listen, None, admin, Limits::admin())
        .with_context(|| listen("--admin-listen", admin_listen))?;
    tracing::info!(address = %facade.address()?, tls = certificates.is_some(), "facade is listening");
    tracing::info!(address = %admin.address()?, "admin is listening");
    builder.advertise(&running.borrow(), admin.address()?.port());
    if let Some(certificates) = certificates {
        tokio::spawn(certificates.watch());
    }
    let current = running.subscribe();
    let follow = builder.follow(config.current, running, facade_sender);
    tokio::spawn(is_ending.clone().run_until_cancelled_owned(follow));
    let end = Shutdown {
        stop,
        is_ending,
        delay: shutdown_delay,
    };
    serve(facade, admin, current, end).await;
    Ok(ExitCode::SUCCESS)
}

fn admin_router(
    running: &Sender<Arc<RunningConfig>>,
    metrics: Metrics,
    status_endpoints: StatusEndpoints,
    is_ending: CancellationToken,
) -> Router {
    let (ready, status) = (running.subscribe(), running.subscribe());
    let registry = move || ready.borrow().backups.of_default().registry().clone();
    let status = move || status.borrow().status.clone();
    admin::router(registry, metrics, status, status_endpoints, is_ending)
}

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

/// Returns the excluded namespaces with the policies, and follows the file of settings until `stop`, if there is one.
fn excluded_namespaces(
    args: &ClusterArgs,
    config: &Receiver<Arc<Config>>,
    stop: &CancellationToken,
) -> Result<ExcludedNamespaces, UsageError> {
    let policies = Policies::default();
    if let Some(path) = args.selection.policy_settings.clone() {
        let file = SettingsFile::load(path, policies.clone(), config.clone())?;
        tokio::spawn(stop.clone().run_until_cancelled_owned(file.follow()));
    }
    let flags = args.selection.exclude_namespaces.iter().cloned();
    let flags: ExcludedNamespaces = flags.collect();
    Ok(flags.with_policies(policies))
}

fn log_start(backup: &Backup, kubernetes: Kubernetes) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        backup = backup.location(),
        naming = naming_name(backup.naming()),
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

async fn serve(
    facade: Server,
    admin: Server,
    running: Receiver<Arc<RunningConfig>>,
    end: Shutdown,
) {
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
            let running = Arc::clone(&running.borrow());
            // The other replicas take over the work.
            running.replicas.leave().await;
            stop.cancelled().await;
            running.shutdown().await;
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
