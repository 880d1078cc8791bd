//! The watches against scripted answers of an API server, with a clock that jumps.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use mirror_contract::{Backup, Naming};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::*;
use crate::cluster::excluded::ExcludedNamespaces;
use crate::cluster::index::{Index, Rules, SyncState};
use crate::cluster::policies::Policy;
use crate::cluster::shared_index::SharedIndex;
use crate::cluster::supervision::RESTART_AFTER;
use crate::cluster::testing::{Log, api_server, refusal};
use crate::cluster::workload_kind::WorkloadKind;

const PODS: &str = "/api/v1/pods";
const CRON_JOBS: &str = "/apis/batch/v1/cronjobs";
const POD: Kind = Kind::Workload(WorkloadKind::Pod);
const CRON_JOB: Kind = Kind::Workload(WorkloadKind::CronJob);

type Answer = Response<Body>;

fn pod(name: &str, image: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "7"},
        "spec": {"containers": [{"image": image}]},
    })
}

/// A page of a list.
fn list(items: &[Value], next: Option<&str>) -> Answer {
    let page = json!({
        "kind": "List", "apiVersion": "v1", "items": items,
        "metadata": {"resourceVersion": "5", "continue": next},
    });
    page.to_string().into_response()
}

/// A watch with these events, in which nothing happens afterwards.
fn events<const N: usize>(events: [(&str, Value); N]) -> Answer {
    let lines = events.map(|(kind, object)| {
        let line = json!({"type": kind, "object": object});
        Ok::<_, std::io::Error>(format!("{line}\n"))
    });
    Body::from_stream(stream::iter(lines).chain(stream::pending())).into_response()
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

/// A cluster that is watched, until the guard goes. The script gets the path, the query, and how many requests for this path
/// there were with this one; `None` stands for an empty list or a silent watch.
fn start(
    script: impl Fn(&str, &str, usize) -> Option<Answer> + Send + Sync + 'static,
) -> (Arc<SharedIndex>, Log, tokio_util::sync::DropGuard) {
    let numbers = Mutex::<HashMap<String, usize>>::default();
    let (client, log) = api_server(move |asked| {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let number = {
            let mut numbers = numbers.lock().unwrap();
            let number = numbers.entry(path.to_owned()).or_default();
            *number += 1;
            *number
        };
        // Kinds that a script does not mention are empty and stay so.
        let idle = || {
            if query.contains("watch=true") {
                events([])
            } else {
                list(&[], None)
            }
        };
        Some(script(path, query, number).unwrap_or_else(idle))
    });
    let cluster = Arc::new(SharedIndex::new(Index::new(Rules {
        backup: Backup::new("ghcr.io", "acme", Naming::Flat).unwrap(),
        former_backups: crate::former_backups::FormerBackups::default(),
        other_backups: crate::backups::OtherBackups::default(),
        excluded_namespaces: ExcludedNamespaces::default(),
        pull_secret: None,
        former_pull_secrets: Vec::new(),
        skip_owners: Vec::new(),
    })));
    let stop = CancellationToken::new();
    tokio::spawn(watch(client, Arc::clone(&cluster), stop.clone()));
    (cluster, log, stop.drop_guard())
}

fn images(index: &Index) -> Vec<String> {
    index
        .images()
        .map(|usage| usage.image.path().to_owned())
        .collect()
}

/// Waits for the index to be like this, without looking at it when nothing was told.
async fn until(cluster: &SharedIndex, what: &str, is_so: impl Fn(&Index) -> bool) {
    let mut changes = cluster.subscribe();
    let wait = async {
        while !cluster.read(&is_so) {
            changes.changed().await.unwrap();
        }
    };
    let in_time = timeout(Duration::from_hours(1), wait).await;
    in_time.unwrap_or_else(|_| panic!("{what}: {:?}", cluster.read(images)));
}

#[tokio::test(start_paused = true)]
async fn pages_and_events_reach_the_model() {
    let (cluster, _, _guard) = start(|path, query, _| match path {
        PODS if query.contains("watch=true") => Some(events([
            (
                "BOOKMARK",
                json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "6"}}),
            ),
            ("ADDED", pod("c", "c")),
            ("MODIFIED", pod("b", "b2")),
            ("DELETED", pod("a", "a")),
        ])),
        PODS if query.contains("continue=more") => Some(list(&[pod("b", "b")], None)),
        PODS => {
            assert!(query.contains("limit="), "{query}");
            Some(list(&[pod("a", "a")], Some("more")))
        }
        _ => None,
    });
    until(&cluster, "the events", |index| {
        images(index) == ["library/b2", "library/c"]
    })
    .await;
    until(&cluster, "all kinds", Index::is_complete).await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_served_stops_nothing_and_is_asked_for_slowly() {
    let started = Instant::now();
    let (cluster, server, _guard) = start(|path, _, number| match path {
        CRON_JOBS if number <= 3 => Some(refusal(404, "NotFound", None)),
        _ => None,
    });
    until(&cluster, "all other kinds", Index::is_complete).await;
    assert_eq!(
        cluster.read(|index| index.sync_state(CRON_JOB)),
        SyncState::NotServed
    );
    assert!(started.elapsed() < Duration::from_secs(1));

    until(&cluster, "it is served", |index| {
        index.sync_state(CRON_JOB) == SyncState::Complete
    })
    .await;
    assert_eq!(
        started.elapsed().as_secs() / 60,
        15,
        "asked every five minutes"
    );
    assert!(server.count(CRON_JOBS) >= 4);
}

/// A proxy that has no way to the API server says 404 too. Were that believed, an unknown cluster would seem empty.
#[tokio::test(start_paused = true)]
async fn pods_are_always_served() {
    let started = Instant::now();
    let (cluster, _, _guard) = start(|path, _, number| match path {
        PODS if number <= 3 => Some(refusal(404, "NotFound", None)),
        PODS if number == 4 => Some(list(&[pod("a", "a")], None)),
        _ => None,
    });
    until(&cluster, "all kinds", Index::is_complete).await;
    assert!(started.elapsed() < Duration::from_mins(1));
    assert_eq!(cluster.read(images), ["library/a"]);
}

/// A page of a list may be large, so kinds are listed one after the other; one that is refused waits without the others.
#[tokio::test(start_paused = true)]
async fn one_kind_is_listed_at_a_time() {
    let listing = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (cluster, server, _guard) = {
        let (listing, most) = (Arc::clone(&listing), Arc::clone(&most));
        start(move |path, query, number| {
            if query.contains("watch=true") {
                return None;
            }
            if path == PODS && number <= 3 {
                return Some(refusal(403, "Forbidden", None));
            }
            let now = listing.fetch_add(1, Ordering::Relaxed) + 1;
            most.fetch_max(now, Ordering::Relaxed);
            let listing = Arc::clone(&listing);
            let page = stream::once(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                listing.fetch_sub(1, Ordering::Relaxed);
                let page = json!({"kind": "List", "apiVersion": "v1", "items": [], "metadata": {"resourceVersion": "5"}});
                Ok::<_, std::io::Error>(page.to_string())
            });
            Some(Body::from_stream(page).into_response())
        })
    };
    until(&cluster, "all kinds", Index::is_complete).await;
    assert_eq!(most.load(Ordering::Relaxed), 1);
    assert!(server.count(PODS) >= 4);
}

/// What is in no list may exist while a watch fails, and nobody says when a silent one works again.
#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_makes_the_model_incomplete_for_a_while() {
    let (cluster, _, _guard) = start(|path, query, number| match path {
        PODS if query.contains("watch=true") && number < 6 => Some(refusal(500, "broken", None)),
        _ => None,
    });
    until(&cluster, "the trouble", |index| {
        index.sync_state(POD) == SyncState::Complete && !index.is_complete()
    })
    .await;
    let since = Instant::now();
    until(&cluster, "its end", Index::is_complete).await;
    assert!(since.elapsed() >= Duration::from_mins(10));
}

/// The API server forgot what happened since: it says so in the stream, or instead of it.
#[rstest]
#[case::in_the_stream(true)]
#[case::at_once(false)]
#[tokio::test(start_paused = true)]
async fn a_watch_from_too_long_ago_begins_with_a_new_list(#[case] in_stream: bool) {
    let (cluster, _, _guard) = start(move |path, query, number| match path {
        PODS if query.contains("watch=true") && number == 2 => Some(if in_stream {
            events([("ERROR", status(410, "Expired"))])
        } else {
            refusal(410, "Expired", None)
        }),
        PODS if query.contains("watch=true") => None,
        PODS if number == 1 => Some(list(&[pod("a", "a"), pod("b", "b")], None)),
        PODS => Some(list(&[pod("b", "b"), pod("c", "c")], None)),
        _ => None,
    });
    until(&cluster, "the second list", |index| {
        images(index) == ["library/b", "library/c"]
    })
    .await;
}

#[rstest]
#[case(403, "Forbidden")]
#[case(429, "TooManyRequests")]
#[case(500, "InternalError")]
#[tokio::test(start_paused = true)]
async fn errors_are_survived(#[case] code: u16, #[case] reason: &'static str) {
    let (cluster, server, _guard) = start(move |path, query, number| match (path, number) {
        (PODS, 1..=3) => Some(refusal(code, reason, None)),
        (PODS, 5) if query.contains("watch=true") => Some(refusal(code, reason, None)),
        (PODS, _) if query.contains("watch=true") => Some(events([("ADDED", pod("b", "b"))])),
        (PODS, _) => Some(list(&[pod("a", "a")], None)),
        _ => None,
    });
    let others = |index: &Index| {
        let mut kinds = Kind::ALL.into_iter().filter(|kind| kind.name() != "Pod");
        kinds.all(|kind| index.sync_state(kind) == SyncState::Complete)
    };
    until(&cluster, "the other kinds", others).await;
    assert!(server.count(PODS) <= 3, "with pauses");
    until(&cluster, "everything", |index| {
        images(index) == ["library/a", "library/b"]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn odd_objects_do_not_break_the_stream() {
    let odd = json!({"metadata": {"name": ["a"], "resourceVersion": "8"}, "spec": 7});
    let odd_too = odd.clone();
    let (cluster, server, _guard) = start(move |path, query, _| match path {
        PODS if query.contains("watch=true") => Some(events([
            ("ADDED", odd.clone()),
            ("DELETED", odd.clone()),
            ("ADDED", pod("b", "b")),
        ])),
        PODS => Some(list(
            &[odd_too.clone(), json!(null), json!(1), pod("a", "a")],
            None,
        )),
        _ => None,
    });
    until(&cluster, "what follows them", |index| {
        images(index) == ["library/a", "library/b"]
    })
    .await;
    assert_eq!(server.count(PODS), 2, "neither listed nor watched again");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_breaks_off_is_started_again() {
    let runs = Arc::new(AtomicUsize::new(0));
    let third = Arc::new(Notify::new());
    let supervised = {
        let (runs, third) = (Arc::clone(&runs), Arc::clone(&third));
        supervise(&[CRON_JOB, Kind::Namespace], move |kind| {
            let (runs, third) = (Arc::clone(&runs), Arc::clone(&third));
            async move {
                if kind == Kind::Namespace {
                    return std::future::pending().await;
                }
                match runs.fetch_add(1, Ordering::Relaxed) {
                    0 => panic!("a defect"),
                    1 => {}
                    _ => {
                        third.notify_one();
                        std::future::pending::<()>().await;
                    }
                }
            }
        })
    };
    let started = Instant::now();
    tokio::select! {
        () = supervised => panic!("the supervision ended"),
        () = third.notified() => {}
    }
    assert_eq!(started.elapsed(), 2 * RESTART_AFTER);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_every_task() {
    let (cluster, _, guard) = start(|_, _, _| None);
    until(&cluster, "all kinds", Index::is_complete).await;
    drop(guard);
    // The tasks hold the cluster.
    let wait = async {
        while Arc::strong_count(&cluster) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_mins(1), wait).await.unwrap();
}

/// A `ReplicaSet` with an environment variable of so many bytes.
fn large(number: usize, bytes: usize) -> Value {
    let env = json!([{"name": "A", "value": "x".repeat(bytes)}]);
    json!({
        "metadata": {
            "name": format!("large-{number}"), "namespace": "shop", "uid": number.to_string(), "resourceVersion": "7",
            "managedFields": [{"fieldsV1": {"f:metadata": {}}}],
        },
        "spec": {"template": {"spec": {"containers": [{"env": env, "image": format!("large:{number}")}]}}},
    })
}

/// Pages have as many objects as fit: many small ones, few large ones, also where the large ones come without a warning.
#[rstest]
#[case::small(2_000, 1_000, usize::MAX)]
#[case::large(50, 1_400_000, 0)]
#[case::large_ones_behind_small_ones(200, 1_400_000, 160)]
#[tokio::test(start_paused = true)]
async fn pages_are_bounded_in_bytes(
    #[case] count: usize,
    #[case] bytes: usize,
    #[case] large_from: usize,
) {
    const REPLICA_SETS: &str = "/apis/apps/v1/replicasets";
    let pages = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&pages);
    let (cluster, _, _guard) = start(move |path, query, _| {
        if path != REPLICA_SETS || query.contains("watch=true") {
            return None;
        }
        let number = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name));
            value.map(|value| value.parse::<usize>().unwrap())
        };
        let (from, limit) = (number("continue=").unwrap_or(0), number("limit=").unwrap());
        let end = (from + limit).min(count);
        let size = move |number: usize| if number < large_from { 1_000 } else { bytes };
        // As it is sent: in pieces, the next of which is made when the last one was taken.
        let head = format!(
            r#"{{"metadata":{{"resourceVersion":"5","continue":"{}"}},"items":["#,
            if end < count {
                end.to_string()
            } else {
                String::new()
            }
        );
        asked.lock().unwrap().push(0);
        let sent = Arc::clone(&asked);
        let objects = (from..end).map(move |number| {
            let comma = if number > from { "," } else { "" };
            let object = format!("{comma}{}", large(number, size(number)));
            *sent.lock().unwrap().last_mut().unwrap() += object.len();
            object
        });
        let pieces = std::iter::once(head)
            .chain(objects)
            .chain(["]}".to_owned()]);
        let pieces = stream::iter(pieces.map(Ok::<_, std::io::Error>));
        Some(Body::from_stream(pieces).into_response())
    });
    until(&cluster, "all of them", |index| {
        index.is_complete() && index.len() == count
    })
    .await;
    let pages = pages.lock().unwrap();
    if bytes == 1_000 {
        assert!(pages.len() < 15, "{} pages", pages.len());
    } else {
        let most = usize::try_from(page_size::MAX_BYTES).unwrap() + 2 * bytes;
        assert!(pages.iter().all(|sent| *sent <= most), "{pages:?}");
        let given_up = pages.iter().filter(|sent| **sent > most / 2).count();
        assert!(given_up <= 3, "{pages:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_policies_list_everything_again() {
    let (cluster, _, _guard) = start(|path, query, _| match path {
        PODS if !query.contains("watch=true") => {
            Some(list(&[pod("a", "kept"), pod("b", "mirrored")], None))
        }
        _ => None,
    });
    until(&cluster, "both", |index| images(index).len() == 2).await;
    let policies = cluster.read(|index| index.policies().clone());
    let policy = Policy::of_settings(&json!({
        "sidecar": "a.b:1", "rules": [{"images": ["*/kept"], "action": "keep"}],
    }));
    policies.publish(vec![Arc::new(policy.unwrap())]);
    until(&cluster, "one", |index| {
        images(index) == ["library/mirrored"]
    })
    .await;
    policies.publish(Vec::new());
    until(&cluster, "both again", |index| images(index).len() == 2).await;
    until(&cluster, "complete", Index::is_complete).await;
}

/// Tenants may change labels, and each list costs the API server something.
#[tokio::test(start_paused = true)]
async fn labels_that_keep_changing_list_everything_less_often() {
    let namespace = |number: usize| {
        let env = if number.is_multiple_of(2) { "a" } else { "b" };
        let metadata = json!({"name": "shop", "resourceVersion": "7", "labels": {"env": env}});
        json!({ "metadata": metadata })
    };
    let (cluster, log, _guard) = start(move |path, query, _| {
        (path == "/api/v1/namespaces" && query.contains("watch=true")).then(|| {
            let changes = stream::unfold(0, move |number| async move {
                tokio::time::sleep(Duration::from_secs(20)).await;
                let line = json!({"type": "MODIFIED", "object": namespace(number)});
                Some((Ok::<_, std::io::Error>(format!("{line}\n")), number + 1))
            });
            Body::from_stream(changes).into_response()
        })
    });
    let policy = Policy::parse(&json!({
        "settings": {"sidecar": "a.b:1"},
        "namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "In", "values": ["a"]}]},
    }));
    let policies = cluster.read(|index| index.policies().clone());
    policies.publish(vec![Arc::new(policy.unwrap())]);
    tokio::time::sleep(Duration::from_hours(4)).await;
    let requests = log.all().into_iter();
    let is_list = |path: &str| path.starts_with(PODS) && !path.contains("watch=true");
    let lists = requests.filter(|request| is_list(&request.path)).count();
    assert!((10..25).contains(&lists), "{lists}");
}
