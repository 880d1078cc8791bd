//! Health, metrics and the status, on a port of their own without TLS and credentials.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use mirror_copy::{Operation, Registry};
use moka::future::Cache;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::{MEDIA_TYPE, Metrics};
use crate::status::endpoints::{self, StatusEndpoints};
use crate::status::sources::Sources;

/// How long a probe of the backup registry is reused for other requests.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// Less than the default timeout of kubelet's probes, 1 s.
const PROBE_WITHIN: Duration = Duration::from_millis(800);

#[derive(Clone)]
struct Readiness {
    registry: Arc<dyn Fn() -> Registry + Send + Sync>,
    last: Cache<(), Result<(), String>>,
    is_ending: CancellationToken,
}

/// How long encoded metrics are reused for other requests. Clients can request them at any rate without reading the
/// response, so encoding takes a bounded part of a core, and responses share their bytes.
const METRICS_FRESH_FOR: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Encoded {
    metrics: Arc<Metrics>,
    last: Cache<(), Result<Bytes, String>>,
}

/// Serves `/healthz`, `/metrics`, the status, and `/readyz`, which fails while the registry of the default backup does not
/// respond and during shutdown.
pub fn router(
    registry: impl Fn() -> Registry + Send + Sync + 'static,
    metrics: Metrics,
    status: impl Fn() -> Sources + Send + Sync + 'static,
    status_endpoints: StatusEndpoints,
    is_ending: CancellationToken,
) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Readiness {
            registry: Arc::new(registry),
            last: cache(FRESH_FOR),
            is_ending,
        })
        .merge(
            Router::new()
                .route("/metrics", get(encoded))
                .with_state(Encoded {
                    metrics: Arc::new(metrics),
                    last: cache(METRICS_FRESH_FOR),
                }),
        )
        .merge(endpoints::router(status_endpoints, status))
}

/// Caches one value, which concurrent requests compute once.
fn cache<T: Clone + Send + Sync + 'static>(fresh_for: Duration) -> Cache<(), T> {
    let builder = Cache::builder().max_capacity(1);
    builder.time_to_live(fresh_for).build()
}

async fn encoded(State(encoded): State<Encoded>) -> impl IntoResponse {
    let encode = async {
        let text = encoded.metrics.encode();
        text.map(Bytes::from).map_err(|error| error.to_string())
    };
    match encoded.last.get_with((), encode).await {
        Ok(body) => Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], body)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error)),
    }
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    if readiness.is_ending.is_cancelled() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: stopping\n".into(),
        );
    }
    let registry = (readiness.registry)();
    let probe = async {
        match timeout(PROBE_WITHIN, registry.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            // The registry may respond fast with errors, which are retried until the timeout.
            Err(_) => {
                let failure = registry.last_failure(Operation::Ping, PROBE_WITHIN);
                Err(failure.map_or_else(
                    || format!("registry {} does not respond", registry.host()),
                    |failure| failure.detail,
                ))
            }
        }
    };
    match readiness.last.get_with((), probe).await {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
    }
}
