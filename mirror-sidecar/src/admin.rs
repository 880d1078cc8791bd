//! Health and metrics, on a port of their own so that they need neither TLS nor credentials.

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

use crate::lookup::Lookup;
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

/// How long encoded metrics are used for other requests. Whoever reaches the port can ask for them at any rate, and without
/// reading them: so encoding takes a bounded part of a processor, and connections share their bytes.
const METRICS_FRESH_FOR: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Figures {
    lookup: Lookup,
    metrics: Metrics,
    last: Cache<(), Result<Bytes, String>>,
}

/// `/healthz`: the process runs. `/readyz`: it can answer, because the backup registry answers, and is not about to end.
/// `/metrics`: what it did.
pub fn router(lookup: Lookup, metrics: Metrics, is_ending: CancellationToken) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Readiness {
            registry: lookup.registry().clone(),
            last: cache(FRESH_FOR),
            is_ending,
        })
        .merge(
            Router::new()
                .route("/metrics", get(figures))
                .with_state(Figures {
                    lookup,
                    metrics,
                    last: cache(METRICS_FRESH_FOR),
                }),
        )
}

/// Keeps one value for a while, and computes it once for all who wait for it.
fn cache<T: Clone + Send + Sync + 'static>(fresh_for: Duration) -> Cache<(), T> {
    let builder = Cache::builder().max_capacity(1);
    builder.time_to_live(fresh_for).build()
}

async fn figures(State(figures): State<Figures>) -> impl IntoResponse {
    let encode = async {
        let encoded = figures.metrics.encode(figures.lookup.jobs());
        encoded.map(Bytes::from).map_err(|error| error.to_string())
    };
    match figures.last.get_with((), encode).await {
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
    let look = async {
        match timeout(PROBE_WITHIN, readiness.registry.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            // The registry may respond fast with errors, after which the request is sent again.
            Err(_) => {
                let failure = readiness
                    .registry
                    .last_failure(Operation::Ping, PROBE_WITHIN);
                Err(failure.map_or_else(
                    || format!("registry {} does not answer", readiness.registry.host()),
                    |failure| failure.detail,
                ))
            }
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
