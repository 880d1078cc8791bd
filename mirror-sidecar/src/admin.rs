//! Health, on a port of its own so that it needs neither TLS nor credentials.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use mirror_copy::Registry;
use moka::future::Cache;
use tokio::time::timeout;

/// How long one look at the backup registry counts: probes come from every node's kubelet and from people.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// Kubelet's default probe timeout is 1 s; the answer must come before.
const PROBE_WITHIN: Duration = Duration::from_millis(800);

#[derive(Clone)]
struct Readiness {
    registry: Registry,
    last: Cache<(), Result<(), String>>,
}

/// `/healthz`: the process runs. `/readyz`: it can answer, because the backup registry answers.
pub fn router(registry: Registry) -> Router {
    let last = Cache::builder()
        .max_capacity(1)
        .time_to_live(FRESH_FOR)
        .build();
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Readiness { registry, last })
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
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
