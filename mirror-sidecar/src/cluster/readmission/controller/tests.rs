//! The patches, against a scripted API server and with a clock that jumps.

use std::sync::Arc;

use axum::http::Method;
use axum::response::Response;
use mirror_contract::Digest;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::cluster::copy_status::{Details, Record, State};
use crate::cluster::events::EventMetrics;
use crate::cluster::index::Change;
use crate::cluster::index::tests::{deployment, index, namespace, seen};
use crate::cluster::testing::{Log, api_server, found, refusal, target_lookup};
use crate::cluster::workload::Workload;
use crate::cluster::{Readmit, SharedIndex};
use crate::metrics::Metrics;

const NAMESPACE: Kind = Kind::Namespace;
const EVENTS: &str = "/apis/events.k8s.io/";
const COPY: &str = "ghcr.io/acme/docker.io-library-nginx:latest";

/// What the API server answers.
#[derive(Clone, Copy)]
enum Answer {
    Refused(u16),
    /// The workload, with this image after a dry run, and with that one after a patch.
    Image(&'static str, &'static str),
    /// Something else.
    Odd,
}

/// An index of one namespace with a Deployment in it, and what patches it.
struct World {
    cluster: Arc<SharedIndex>,
    metrics: ReadmissionMetrics,
    log: Log,
}

fn mirrored() -> Record {
    let digest = format!("sha256:{}", "a".repeat(64));
    let digest = Digest::parse(&digest).unwrap().into_owned();
    Record {
        state: State::Mirrored { digest },
        is_last_copy: false,
        is_kept: false,
        appeared_late: false,
        is_barred: false,
        details: Details::default(),
    }
}

impl Answer {
    fn to(self, query: &str) -> Response {
        let image = match self {
            Self::Refused(code) => return refusal(code, "no", None),
            Self::Odd => return found(&json!({})),
            Self::Image(dry, _) if query.contains("dryRun=All") => dry,
            Self::Image(_, stored) => stored,
        };
        let stored = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "web"},
            "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
        });
        found(&stored)
    }
}

impl World {
    /// The copy is there, but no list is complete.
    fn start(answer: Answer) -> Self {
        Self::with(deployment("web", &["nginx"]), answer)
    }

    fn with(workload: Workload, answer: Answer) -> Self {
        let (client, log) = api_server(move |asked| {
            Some(if asked.path.starts_with(EVENTS) {
                found(&asked.body)
            } else {
                assert_eq!(asked.method, "PATCH");
                answer.to(&asked.path)
            })
        });
        let world = Self {
            cluster: Arc::new(SharedIndex::new(index([workload]))),
            metrics: ReadmissionMetrics::register(&mut Metrics::new()),
            log,
        };
        let copy_status = CopyStatuses::new();
        world.cluster.read(|index| {
            for used in index.images() {
                copy_status.set(used.image, mirrored());
            }
        });
        let event_metrics = EventMetrics::register(&mut Metrics::new());
        let events = Events::start(client.clone(), None, event_metrics);
        let readmitting = ReadmissionController {
            server: client.into(),
            indexes: Arc::clone(&world.cluster).into(),
            copy_status: ByBackup::new(copy_status),
            targets: target_lookup(),
            replicas: Replicas::alone(),
            events,
            metrics: world.metrics.clone(),
            secrets: Provision::NotNeeded,
            own_namespace: None,
        };
        let readmissions = Readmissions::new(Readmit::On, 1000.try_into().unwrap());
        tokio::spawn(readmitting.run(readmissions));
        world
    }

    fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.cluster.apply(change);
        }
    }

    fn know_namespaces(&self) {
        self.apply([
            Change::Init(NAMESPACE),
            Change::Apply(namespace("shop", false)),
            Change::InitDone(NAMESPACE),
        ]);
    }

    /// The patches of workloads: the path with its query, and the body.
    fn patches(&self) -> Vec<(String, Value)> {
        let patches = self.log.of(&Method::PATCH).into_iter();
        let patches = patches.filter(|asked| !asked.path.starts_with(EVENTS));
        patches.map(|asked| (asked.path, asked.body)).collect()
    }

    /// The reasons of the Events so far, each with the name of its object and its note.
    fn events(&self) -> Vec<[String; 3]> {
        let asked = self.log.all();
        let events = asked.iter().filter(|asked| asked.path.starts_with(EVENTS));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let shown = events.map(|asked| {
            [
                text(&asked.body["reason"]),
                text(&asked.body["regarding"]["name"]),
                text(&asked.body["note"]),
            ]
        });
        shown.collect()
    }

    fn count(&self, outcome: Outcome) -> u64 {
        self.metrics.count(outcome)
    }
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn one_annotation_of_this_object_is_patched_after_a_dry_run() {
    let world = World::start(Answer::Image(COPY, COPY));
    world.know_namespaces();
    seconds(10).await;
    let patches = world.patches();
    let [(dry, tried), (real, sent)] = &patches[..] else {
        panic!("{patches:?}");
    };
    for uri in [dry, real] {
        let path = "/apis/apps/v1/namespaces/shop/deployments/web?";
        assert!(uri.starts_with(path), "{uri}");
        assert!(uri.contains("fieldManager=mirror-sidecar"), "{uri}");
    }
    assert!(dry.contains("dryRun=All") && !real.contains("dryRun"));
    assert_eq!(tried, sent);
    let mark = &sent["metadata"]["annotations"]["image-mirror.dev/readmitted"];
    assert!(
        mark.as_str().unwrap().parse::<Timestamp>().is_ok(),
        "{mark}"
    );
    let annotations = json!({ "image-mirror.dev/readmitted": mark });
    assert_eq!(
        *sent,
        json!({ "metadata": { "uid": "web", "annotations": annotations } })
    );
    assert_eq!(world.count(Outcome::Rewritten), 1);

    world.apply([seen(deployment("web", &[COPY]))]);
    seconds(100_000).await;
    assert_eq!(world.patches().len(), 2);
}

/// What the policy leaves alone is never changed.
#[tokio::test(start_paused = true)]
async fn a_patch_without_effect_is_not_sent() {
    let world = World::start(Answer::Image("nginx", COPY));
    world.know_namespaces();
    seconds(8 * 3600).await;
    // Immediately, after half a minute, and after 1, 2, 4, 8, 16, 32, 64 and 128 minutes more.
    assert_eq!(world.count(Outcome::Unchanged), 10);
    let patches = world.patches();
    assert_eq!(patches.len(), 10);
    assert!(patches.iter().all(|(uri, _)| uri.contains("dryRun=All")));
}

/// Somebody undoes what the dry run showed.
#[tokio::test(start_paused = true)]
async fn a_rewrite_that_is_reverted_is_repeated_with_backoff() {
    let world = World::start(Answer::Image(COPY, "nginx"));
    world.know_namespaces();
    seconds(8 * 3600).await;
    assert_eq!(world.count(Outcome::Unchanged), 10);
    assert_eq!(world.patches().len(), 20);
}

/// No list of any kind of workload is complete here: one that may not be listed must not hold up the others.
#[tokio::test(start_paused = true)]
async fn only_the_list_of_namespaces_must_be_complete() {
    let world = World::start(Answer::Image(COPY, COPY));
    world.apply([Change::Init(NAMESPACE)]);
    seconds(100).await;
    assert_eq!(world.patches(), []);
    world.apply([
        Change::Apply(namespace("shop", true)),
        Change::InitDone(NAMESPACE),
    ]);
    seconds(100).await;
    assert_eq!(world.patches(), [], "it is being deleted");
    world.apply([Change::Apply(namespace("shop", false))]);
    seconds(10).await;
    assert_eq!(world.count(Outcome::Rewritten), 1);
}

#[rstest]
#[case(Answer::Refused(404), Outcome::Outdated, false)]
#[case(Answer::Refused(409), Outcome::Outdated, false)]
#[case(Answer::Refused(422), Outcome::Failed, true)]
#[case(Answer::Refused(403), Outcome::Failed, true)]
#[case(Answer::Refused(500), Outcome::Failed, false)]
#[case(Answer::Odd, Outcome::Failed, false)]
#[tokio::test(start_paused = true)]
async fn failures_are_retried_with_backoff(
    #[case] answer: Answer,
    #[case] result: Outcome,
    #[case] is_reported: bool,
) {
    let world = World::start(answer);
    world.know_namespaces();
    seconds(30).await;
    assert_eq!(world.count(result), 1);
    let events = world.events();
    assert_eq!(events.len(), usize::from(is_reported), "{events:?}");
    if let Some([reason, name, note]) = events.first() {
        assert_eq!((&**reason, &**name), ("ReadmissionRefused", "web"));
        assert!(note.contains("is refused: no."), "{note}");
    }
    // After 1, 2, 4, 8, 16, 32, 64, 128 and 256 minutes.
    seconds(10 * 3600).await;
    assert_eq!(world.count(result), 10);
    assert_eq!(world.patches().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_of_another_installation_is_reported_each_hour_and_skipped() {
    let copy = "other.example/x/docker.io-library-redis:1";
    let workload = Workload {
        originals: vec![(copy.to_owned(), "redis:1".to_owned())],
        ..deployment("web", &[copy, "nginx"])
    };
    let world = World::with(workload, Answer::Image(COPY, COPY));
    world.know_namespaces();
    seconds(30).await;
    let events = world.events();
    assert_eq!(events.len(), 1, "{events:?}");
    let [reason, name, note] = &events[0];
    assert_eq!((&**reason, &**name), ("OtherInstallation", "web"));
    assert!(note.contains(copy), "{note}");
    seconds(3600 + 300).await;
    assert_eq!(world.events().len(), 2);
    assert_eq!(world.patches(), []);
}
