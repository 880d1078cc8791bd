//! Health and metrics, on a port of their own so that they need neither TLS nor credentials.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use mirror_copy::Registry;
use moka::future::Cache;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::metrics::{MEDIA_TYPE, Metrics};

/// How long one look at the backup registry counts: probes come from every node's kubelet and from people.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// Kubelet's default probe timeout is 1 s; the answer must come before.
const PROBE_WITHIN: Duration = Duration::from_millis(800);

#[derive(Clone)]
struct Readiness {
    registry: Registry,
    last: Cache<(), Result<(), String>>,
    is_ending: CancellationToken,
}

#[derive(Clone)]
struct Figures {
    catalog: Catalog,
    metrics: Metrics,
}

/// `/healthz`: the process runs. `/readyz`: it can answer, because the backup registry answers, and is not about to end.
/// `/metrics`: what it did.
pub fn router(catalog: Catalog, metrics: Metrics, is_ending: CancellationToken) -> Router {
    let last = Cache::builder()
        .max_capacity(1)
        .time_to_live(FRESH_FOR)
        .build();
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Readiness {
            registry: catalog.registry().clone(),
            last,
            is_ending,
        })
        .merge(
            Router::new()
                .route("/metrics", get(figures))
                .with_state(Figures { catalog, metrics }),
        )
}

async fn figures(State(figures): State<Figures>) -> impl IntoResponse {
    match figures.metrics.encode(figures.catalog.jobs()) {
        Ok(body) => Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], body)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    if readiness.is_ending.is_cancelled() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: stopping\n".into(),
        );
    }
    let look = async {
        match timeout(PROBE_WITHIN, readiness.registry.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!(
                "registry {} does not answer",
                readiness.registry.host()
            )),
        }
    };
    // Single-flight: many probes at once are one request to the registry.
    match readiness.last.get_with((), look).await {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
    }
}
