//! `serve`: the service.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::args::{FacadeLogin, Kubernetes, ServeArgs, Transport, UsageError};
use crate::catalog::Catalog;
use crate::facade::{self, Facade, FacadeAuth, PullSecrets};
use crate::images::Images;
use crate::metrics::Metrics;
use crate::server::{Certificates, Server};

/// How long running requests and copies may take to let go: well below Kubernetes' grace period of 30 s.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// [`UsageError`] for what the user can mend, otherwise what could not be started.
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    // Every flag is taken apart here, so that a new one cannot be forgotten.
    let ServeArgs {
        backup,
        sources,
        facade: facade_args,
        admin_listen,
        parallel_copies,
        kubernetes: Kubernetes::Off,
        pull_secret,
        exclude_namespaces,
    } = args;
    let place = backup.backup()?;
    let credentials = backup.add_login(sources.credentials()?, place.registry())?;
    let targets = sources.registries(credentials)?;
    let sources = sources.registries(sources.credentials()?)?;
    let certificates = match facade_args.transport()? {
        Transport::Tls { certificate, key } => Some(
            Certificates::load(certificate, key).map_err(|error| UsageError(error.to_string()))?,
        ),
        Transport::PlainHttp => {
            tracing::warn!(
                "serving plain HTTP: questions, answers and credentials can be read on the way"
            );
            None
        }
    };
    let login: Option<FacadeLogin> = facade_args.login()?;
    if login.is_none() {
        tracing::warn!(
            "no --facade-username: everybody who reaches the facade can have images copied"
        );
    }

    let images =
        Images::new(place, &targets, sources).map_err(|error| UsageError(error.to_string()))?;
    let metrics = Metrics::new();
    let catalog = Catalog::new(Arc::new(images), parallel_copies, metrics.clone());
    let facade = facade::router(Facade {
        catalog: catalog.clone(),
        auth: login.as_ref().map(FacadeAuth::new),
        pull_secrets: PullSecrets {
            name: pull_secret,
            excluded_namespaces: exclude_namespaces,
        },
    });
    let listen = |address| format!("cannot listen on {address}");
    let facade = Server::bind(facade_args.listen, certificates.as_ref(), facade)
        .await
        .with_context(|| listen(facade_args.listen))?;
    let admin = Server::bind(admin_listen, None, admin::router(catalog.clone(), metrics))
        .await
        .with_context(|| listen(admin_listen))?;
    tracing::info!(address = %facade.address()?, tls = certificates.is_some(), "facade is listening");
    tracing::info!(address = %admin.address()?, "admin is listening");
    if let Some(certificates) = certificates {
        tokio::spawn(certificates.watch());
    }
    serve(facade, admin, &catalog).await;
    Ok(ExitCode::SUCCESS)
}

async fn serve(facade: Server, admin: Server, catalog: &Catalog) {
    let stop = CancellationToken::new();
    let signal = {
        let stop = stop.clone();
        async move {
            stop_signal().await;
            tracing::info!(
                "stopping; what is half copied has no tag and is completed after the next start"
            );
            stop.cancel();
        }
    };
    let servers = async {
        let stopped = async {
            stop.cancelled().await;
            catalog.shutdown().await;
        };
        // Copies stop at once, questions that were already asked are still answered.
        tokio::join!(facade.run(stop.clone()), admin.run(stop.clone()), stopped);
    };
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
        tracing::warn!("some connections did not end in time");
    };
    let work = async { tokio::join!(signal, servers) };
    tokio::select! {
        _ = work => tracing::info!("stopped"),
        () = deadline => {}
    }
}

/// Ends with the first SIGTERM or SIGINT.
pub(super) async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers the signals end the process by themselves, which loses nothing either.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
