//! What is asked of an API server, scripted here, with a clock that jumps.

use axum::body::Body;
use axum::http::{Method, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::*;
use crate::cluster::replicas::lease::RENEW_INTERVAL;
use crate::cluster::replicas::{LEAVE_TIMEOUT, ReplicaMetrics};
use crate::cluster::testing::{self, api_server, refusal};
use crate::copy_queue::CrashRecord;
use crate::metrics::Metrics;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/home/leases";
const KEY: &str = "image/docker.io/library/nginx:1";

/// A request: method, path below the collection with its query, and body.
type Asked = (Method, String, Value);

struct Log(testing::Log);

impl Log {
    /// The path below the collection and the body of the requests with this method.
    fn of(&self, method: &Method) -> Vec<(String, Value)> {
        let asked = self.0.of(method).into_iter();
        asked
            .map(|asked| (below(&asked.path), asked.body))
            .collect()
    }
}

fn below(path: &str) -> String {
    path.strip_prefix(LEASES).unwrap().to_owned()
}

/// A replica `a` in front of an API server that answers with what `script` says; `None` is no answer at all.
fn join(
    script: impl Fn(&Asked) -> Option<Response> + Send + Sync + 'static,
) -> (Replicas, ReplicaMetrics, Log) {
    join_with(CrashRecord::new(), script)
}

fn join_with(
    record: CrashRecord,
    script: impl Fn(&Asked) -> Option<Response> + Send + Sync + 'static,
) -> (Replicas, ReplicaMetrics, Log) {
    let (client, log) = api_server(move |asked| {
        if asked.method == Method::GET {
            let accepted = asked.headers[header::ACCEPT].to_str().unwrap();
            assert!(accepted.contains(";as=PartialObjectMetadata"), "{accepted}");
        }
        let request = (asked.method.clone(), below(&asked.path), asked.body.clone());
        script(&request)
    });
    let metrics = ReplicaMetrics::register(&mut Metrics::new());
    let group = Group::of(&rules("acme", &[], None), &Filter::default());
    record.persist();
    let replicas = Replicas::join(client, "home", "a", &group, metrics.clone(), record);
    (replicas, metrics, Log(log))
}

fn lease(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": format!("mirror-sidecar-{name}"), "resourceVersion": version },
    })
}

fn list(leases: &[Value]) -> Response {
    let list = json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "items": leases,
        "metadata": { "resourceVersion": "5" },
    });
    list.to_string().into_response()
}

fn silent_watch() -> Response {
    let nothing = stream::empty::<std::io::Result<String>>();
    Body::from_stream(nothing.chain(stream::pending())).into_response()
}

/// Lists and watches show these, and nothing happens to them.
fn look(asked: &Asked, leases: &[Value]) -> Option<Response> {
    let (method, path, _) = asked;
    (method == Method::GET).then(|| {
        if path.contains("watch=true") {
            silent_watch()
        } else {
            list(leases)
        }
    })
}

#[tokio::test(start_paused = true)]
async fn without_a_response_a_replica_owns_everything_and_leaves_in_time() {
    let (replicas, metrics, _) = join(|_| None);
    let mut shares = replicas.subscribe();
    assert!(!replicas.owns(KEY));
    let start = Instant::now();
    shares.changed().await.unwrap();
    assert!(start.elapsed() <= JOIN_TIMEOUT + MOMENT);
    assert!(replicas.owns(KEY));
    sleep(DURATION * 10).await;
    assert!(replicas.owns(KEY));
    assert!(!metrics.is_lease_held());

    let start = Instant::now();
    replicas.leave().await;
    assert!(start.elapsed() <= LEAVE_TIMEOUT + MOMENT);
    assert!(!replicas.owns(KEY));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_replica_takes_over_its_lease() {
    let (replicas, metrics, log) = join(|asked| {
        let (method, _, body) = asked;
        match *method {
            Method::POST => Some(refusal(409, "AlreadyExists", None)),
            Method::PUT => {
                let version = body["metadata"]["resourceVersion"].as_str()?;
                let next = version.parse::<u32>().ok()? + 1;
                Some(lease("a", &next.to_string()).to_string().into_response())
            }
            Method::DELETE => Some(lease("a", "0").to_string().into_response()),
            _ => look(asked, &[lease("a", "9")]),
        }
    });
    sleep(RENEW_INTERVAL * 3 + MOMENT).await;
    assert!(metrics.is_lease_held());
    assert!(replicas.owns(KEY));
    let renewals = log.of(&Method::PUT);
    let versions = renewals
        .iter()
        .map(|(_, lease)| lease["metadata"]["resourceVersion"].clone());
    assert_eq!(versions.collect::<Vec<_>>(), ["9", "10", "11", "12"]);
    assert_eq!(log.of(&Method::POST).len(), 1);
    let (path, lease) = &renewals[0];
    assert!(path.starts_with("/mirror-sidecar-a?"), "{path}");
    assert_eq!(lease["spec"]["holderIdentity"], "a");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);

    replicas.leave().await;
    assert_eq!(log.of(&Method::DELETE).len(), 1);
    assert!(!metrics.is_lease_held());
    let requests = log.0.all().len();
    sleep(DURATION * 10).await;
    assert_eq!(log.0.all().len(), requests, "asked after it left");
}

#[tokio::test(start_paused = true)]
async fn a_contended_lease_does_not_change_the_rate_of_requests() {
    let (replicas, metrics, log) = join(|asked| match asked.0 {
        Method::POST | Method::PUT => Some(refusal(409, "AlreadyExists", None)),
        _ => look(asked, &[lease("a", "9")]),
    });
    sleep(RENEW_INTERVAL * 10).await;
    assert!(!metrics.is_lease_held());
    assert!(replicas.owns(KEY));
    let writes = log.of(&Method::POST).len() + log.of(&Method::PUT).len();
    assert!(writes <= 11 * 3, "{writes} writes");
}

#[tokio::test(start_paused = true)]
async fn refused_watches_are_retried_with_backoff() {
    let (replicas, _, log) = join(|asked| match asked.0 {
        Method::GET => Some(refusal(403, "Forbidden", None)),
        _ => Some(lease("a", "1").to_string().into_response()),
    });
    sleep(Duration::from_mins(10)).await;
    assert!(replicas.owns(KEY));
    let looks = log.of(&Method::GET).len();
    assert!((15..=30).contains(&looks), "{looks} looks");
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_dead_replica_is_deleted_unless_it_changed() {
    let (replicas, _, log) = join(|asked| {
        let (method, path, _) = asked;
        match *method {
            Method::DELETE if path.starts_with("/mirror-sidecar-b") => {
                Some(refusal(409, "AlreadyExists", None))
            }
            Method::GET => look(asked, &[lease("a", "9"), lease("b", "3")]),
            _ => Some(lease("a", "10").to_string().into_response()),
        }
    });
    sleep(DEAD_AFTER.saturating_sub(Duration::from_secs(1))).await;
    assert_eq!(log.of(&Method::DELETE), []);
    assert!(replicas.owns(KEY));
    // The stream is silent, so it is opened anew all the time; the dead Lease is looked at then.
    sleep(DURATION * 3).await;
    let deletions = log.of(&Method::DELETE);
    assert_eq!(deletions.len(), 1);
    let (path, options) = &deletions[0];
    assert!(path.starts_with("/mirror-sidecar-b"), "{path}");
    assert_eq!(options["preconditions"], json!({ "resourceVersion": "3" }));
}

const ANNOTATION: &str = "image-mirror.dev/copies";

fn lease_with(name: &str, version: &str, record: &Value) -> Value {
    let mut lease = lease(name, version);
    lease["metadata"]["annotations"] = json!({ ANNOTATION: record.to_string() });
    lease
}

/// The record that a write of the Lease carries.
fn record_in((_, lease): &(String, Value)) -> Value {
    let text = lease["metadata"]["annotations"][ANNOTATION]
        .as_str()
        .unwrap();
    serde_json::from_str(text).unwrap()
}

/// The Lease of this name is there although no process of this name is: it died. Its record is read before it is
/// overwritten, and a write does not wait for the next renewal then.
#[tokio::test(start_paused = true)]
async fn the_record_of_a_process_that_died_is_taken_over() {
    let left = json!({ "process": "before", "running": ["evil.io/x:1"] });
    let stored = lease_with("a", "9", &left);
    let record = CrashRecord::new();
    let (replicas, _, log) = join_with(record.clone(), move |asked| match asked.0 {
        Method::POST => Some(refusal(409, "AlreadyExists", None)),
        Method::PUT => Some(lease("a", "10").to_string().into_response()),
        _ => look(asked, std::slice::from_ref(&stored)),
    });
    sleep(MOMENT).await;
    assert_eq!(record.isolated(), 1);
    let first = record_in(&log.of(&Method::PUT)[0]);
    assert_eq!(first["isolated"][0]["image"], "evil.io/x:1");
    assert_eq!(first["isolated"][0]["crashes"], 1);
    assert_eq!(first["running"], json!([]));

    let start = Instant::now();
    record.start(1, "other.io/x:1").await;
    assert!(start.elapsed() < Duration::from_secs(1));
    let writes = log.of(&Method::PUT);
    assert_eq!(
        record_in(writes.last().unwrap())["running"],
        json!(["other.io/x:1"])
    );
    record.end(1);
    sleep(RENEW_INTERVAL).await;
    let writes = log.of(&Method::PUT);
    assert_eq!(record_in(writes.last().unwrap())["running"], json!([]));
    replicas.leave().await;
}

/// What runs in a healthy replica costs no write of its own.
#[tokio::test(start_paused = true)]
async fn a_healthy_replica_stores_its_record_with_its_renewals() {
    let record = CrashRecord::new();
    let (_replicas, _, log) = join_with(record.clone(), |asked| match asked.0 {
        Method::POST | Method::PUT => Some(lease("a", "1").to_string().into_response()),
        _ => look(asked, &[lease("a", "1")]),
    });
    sleep(MOMENT).await;
    for id in 0..100 {
        record.start(id, "good.io/x:1").await;
        record.end(id);
    }
    record.start(100, "good.io/y:1").await;
    sleep(RENEW_INTERVAL).await;
    let renewals = log.of(&Method::PUT);
    assert_eq!(renewals.len(), 1);
    assert_eq!(record_in(&renewals[0])["running"], json!(["good.io/y:1"]));
}

#[tokio::test(start_paused = true)]
async fn the_record_of_another_replica_counts_when_its_lease_expires() {
    let record = CrashRecord::new();
    let left = json!({ "process": "b", "running": ["evil.io/x:1"] });
    let other = lease_with("b", "3", &left);
    let (_replicas, _, _log) = join_with(record.clone(), move |asked| match asked.0 {
        Method::POST | Method::PUT => Some(lease("a", "1").to_string().into_response()),
        _ => look(asked, &[lease("a", "1"), other.clone()]),
    });
    sleep(ALMOST).await;
    assert_eq!(record.isolated(), 0);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(record.isolated(), 1);
}
