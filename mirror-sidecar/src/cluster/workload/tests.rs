//! What is read of real objects, and of any JSON.

use kube::Resource;
use kube::core::{ObjectList, WatchEvent};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::cluster::index::tests::deployment;
use crate::cluster::json_filter::{JsonFilter, Part};
use crate::cluster::workload_kind::Kind;

/// The object of a real API server's request: `e2e-tests/fixtures/admission/<name>.json`.
fn fixture(name: &str) -> Value {
    let path = format!(
        "{}/../e2e-tests/fixtures/admission/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut review: Value = serde_json::from_str(&text).unwrap();
    review["request"]["object"].take()
}

/// The workload in `text`, which is the same without the filter of the watch.
fn read(kind: WorkloadKind, object: &Value) -> Workload {
    let text = object.to_string();
    let mut filter = JsonFilter::new(Watched::KEEP, None);
    let Some(Part::Value(kept)) = filter.next(&mut text.as_bytes()) else {
        panic!("no value: {text}");
    };
    let read = |text: &[u8]| {
        let watched: Watched = serde_json::from_slice(text).unwrap();
        match watched.into_object(Kind::Workload(kind)) {
            Some(Object::Workload(workload)) => *workload,
            other => panic!("not a workload: {other:?}"),
        }
    };
    let workload = read(&kept);
    assert_eq!(workload, read(text.as_bytes()));
    workload
}

#[rstest]
#[case("cronjob-create", WorkloadKind::CronJob, "report", &["python:3.13-slim"])]
#[case("daemonset-create", WorkloadKind::DaemonSet, "agent", &["registry.k8s.io/fluentd-elasticsearch:v2.5.1"])]
#[case("statefulset-create", WorkloadKind::StatefulSet, "db", &["postgres:16.4@sha256:0aafd2ae7e6c391f39fb6b7621632d79f54068faebc726caf469e87bd1d301c0"])]
#[case("replicationcontroller-create-pull-never", WorkloadKind::ReplicationController, "old", &[])]
#[case(
    "deployment-create",
    WorkloadKind::Deployment,
    "web",
    &[
        "docker.io/envoyproxy/envoy:v1.31.0",
        "ghcr.io/acme/migrate:v2",
        "nginx:1.27",
        "quay.io/crio/artifact:v1",
        "quay.io/prometheus/node-exporter@sha256:4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80",
    ]
)]
fn images_of_every_kind_are_found(
    #[case] name: &str,
    #[case] kind: WorkloadKind,
    #[case] object: &str,
    #[case] images: &[&str],
) {
    let mut workload = read(kind, &fixture(name));
    workload.images.sort();
    assert_eq!(workload.images, images);
    assert_eq!(&*workload.key.name, object);
    assert_eq!(&*workload.key.namespace, "shop");
    assert_eq!(workload.life, Life::Active);
    assert!(!workload.is_owned && !workload.is_exempt);
}

#[rstest]
#[case("pod-create-owned-by-replicaset", WorkloadKind::Pod)]
#[case("replicaset-create-owned-by-deployment", WorkloadKind::ReplicaSet)]
#[case("job-create-owned-by-cronjob", WorkloadKind::Job)]
fn owners_are_seen(#[case] name: &str, #[case] kind: WorkloadKind) {
    let mut object = fixture(name);
    // Not named yet when it is admitted.
    object["metadata"]["name"] = json!("made");
    assert!(read(kind, &object).is_owned);
}

#[test]
fn other_fields_are_read() {
    let workload = read(
        WorkloadKind::Deployment,
        &json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u-1",
                "creationTimestamp": "2026-11-23T01:02:03Z",
                "annotations": {"image-mirror.dev/original-images": "{}"},
            },
            "spec": {"template": {"spec": {
                "containers": [{"image": "a"}, {"image": "a"}, {"image": ""}, {}],
                "ephemeralContainers": [{"image": "e"}],
                "volumes": [
                    {"image": {"reference": "v"}}, {"image": {"reference": "n", "pullPolicy": "Never"}},
                    {"emptyDir": {}},
                ],
                "imagePullSecrets": [{"name": "one"}, {"name": "two"}, {}],
            }}},
        }),
    );
    let expected = Workload {
        uid: "u-1".into(),
        created: Some("2026-11-23T01:02:03Z".parse().unwrap()),
        is_annotated: true,
        images: vec!["a".into(), "a".into(), "e".into(), "v".into()],
        never_pulled: vec!["n".into()],
        containers: vec![(String::new(), "a".into()), (String::new(), "a".into())],
        pull_secrets: vec!["one".into(), "two".into(), String::new()],
        ..deployment("web", &[])
    };
    assert_eq!(workload, expected);
}

#[rstest]
#[case(WorkloadKind::Deployment, json!({"metadata": {"annotations": {"image-mirror.dev/skip": "true"}}}), true)]
#[case(WorkloadKind::Deployment, json!({"metadata": {"labels": {"image-mirror.dev/skip": "true"}}}), true)]
#[case(WorkloadKind::Deployment, json!({"metadata": {"labels": {"image-mirror.dev/skip": "false"}}}), false)]
#[case(WorkloadKind::Deployment, json!({"metadata": {"labels": {"image-mirror.dev/skip": true}}}), false)]
#[case(
    WorkloadKind::Deployment,
    json!({"spec": {"template": {"metadata": {"labels": {"image-mirror.dev/skip": "true"}}}}}),
    true
)]
#[case(
    WorkloadKind::CronJob,
    json!({"spec": {"jobTemplate": {"spec": {"template": {"metadata": {"annotations": {"image-mirror.dev/skip": "true"}}}}}}}),
    true
)]
// A Pod has no template; what looks like one is nothing.
#[case(
    WorkloadKind::Pod,
    json!({"spec": {"template": {"metadata": {"labels": {"image-mirror.dev/skip": "true"}}}}}),
    false
)]
#[case(WorkloadKind::Pod, json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "0a"}}}), true)]
#[case(WorkloadKind::Pod, json!({"metadata": {"labels": {"kubernetes.io/config.mirror": "0a"}}}), false)]
fn exemptions_are_those_of_the_policy(
    #[case] kind: WorkloadKind,
    #[case] mut object: Value,
    #[case] is_exempt: bool,
) {
    object["metadata"]["name"] = json!("web");
    object["metadata"]["namespace"] = json!("shop");
    assert_eq!(read(kind, &object).is_exempt, is_exempt);
}

/// Nothing is called `docker.io/library/auto`, or nothing at all.
#[rstest]
#[case(json!({"annotations": {"inject.istio.io/templates": "gateway"}}), json!({"image": "auto"}), true)]
#[case(json!({"labels": {"sidecar.istio.io/inject": "true"}}), json!({"image": "auto"}), true)]
#[case(json!({"labels": {"sidecar.istio.io/inject": "false"}}), json!({"image": "auto"}), false)]
#[case(json!({}), json!({"name": "istio-proxy", "image": "auto"}), true)]
#[case(json!({}), json!({"image": "auto"}), false)]
#[case(json!({}), json!({"image": " "}), true)]
fn placeholders_are_no_images(
    #[values(WorkloadKind::Deployment, WorkloadKind::Pod)] kind: WorkloadKind,
    #[case] mut metadata: Value,
    #[case] container: Value,
    #[case] is_placeholder: bool,
) {
    let spec = json!({ "containers": [container, {"image": "a"}] });
    let mut object = if kind == WorkloadKind::Pod {
        json!({ "metadata": metadata.take(), "spec": spec })
    } else {
        json!({ "metadata": {}, "spec": { "template": { "metadata": metadata.take(), "spec": spec } } })
    };
    object["metadata"]["name"] = json!("web");
    object["metadata"]["namespace"] = json!("shop");
    let images = read(kind, &object).images;
    assert_eq!(
        images.len(),
        if is_placeholder { 1 } else { 2 },
        "{images:?}"
    );
}

#[rstest]
#[case(WorkloadKind::Pod, json!({"status": {"phase": "Running"}}), Life::Active)]
#[case(WorkloadKind::Pod, json!({"status": {"phase": "Succeeded"}}), Life::Done)]
#[case(WorkloadKind::Pod, json!({"status": {"phase": "Failed"}}), Life::Done)]
#[case(WorkloadKind::Pod, json!({"metadata": {"deletionTimestamp": "2026-11-23T01:02:03Z"}}), Life::Done)]
#[case(WorkloadKind::Pod, json!({"metadata": {"deletionTimestamp": null}}), Life::Active)]
#[case(WorkloadKind::Job, json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}}), Life::Done)]
#[case(WorkloadKind::Job, json!({"status": {"conditions": [{"type": "Failed", "status": "False"}]}}), Life::Active)]
#[case(WorkloadKind::Job, json!({"status": {"conditions": [{"type": "Suspended", "status": "True"}]}}), Life::Active)]
#[case(WorkloadKind::Deployment, json!({"spec": {"paused": true}}), Life::Paused)]
#[case(WorkloadKind::CronJob, json!({"spec": {"suspend": true}}), Life::Paused)]
#[case(WorkloadKind::CronJob, json!({"spec": {"paused": true}}), Life::Active)]
#[case(WorkloadKind::Deployment, json!({"spec": {"replicas": 0}}), Life::Active)]
#[case(WorkloadKind::ReplicaSet, json!({"spec": {"replicas": 0}}), Life::Active)]
#[case(
    WorkloadKind::ReplicaSet,
    json!({"metadata": {"ownerReferences": [{"controller": true}]}, "spec": {"replicas": 0}}),
    Life::Done
)]
#[case(
    WorkloadKind::ReplicaSet,
    json!({"metadata": {"ownerReferences": [{"controller": true}]}, "spec": {"replicas": 1}}),
    Life::Active
)]
fn life_is_known(#[case] kind: WorkloadKind, #[case] mut object: Value, #[case] life: Life) {
    object["metadata"]["name"] = json!("web");
    object["metadata"]["namespace"] = json!("shop");
    assert_eq!(read(kind, &object).life, life);
}

#[rstest]
#[case(json!({"metadata": {"name": "shop"}}), false)]
#[case(json!({"metadata": {"name": "shop"}, "status": {"phase": "Active"}}), false)]
#[case(json!({"metadata": {"name": "shop"}, "status": {"phase": "Terminating"}}), true)]
#[case(json!({"metadata": {"name": "shop", "deletionTimestamp": "2026-11-23T01:02:03Z"}}), true)]
fn namespaces_are_read(#[case] object: Value, #[case] is_terminating: bool) {
    let watched: Watched = serde_json::from_value(object).unwrap();
    let expected = Object::Namespace(NamespaceObject {
        name: "shop".into(),
        labels: Labels::new(),
        created: None,
        is_terminating,
    });
    assert_eq!(watched.into_object(Kind::Namespace), Some(expected));
}

#[rstest]
#[case(json!({}))]
#[case(json!([{"metadata": {"name": "web"}}]))]
#[case(json!({"metadata": {"name": "web"}}))]
#[case(json!({"metadata": {"name": 7, "namespace": "shop"}}))]
fn an_object_without_a_name_is_none(#[case] object: Value) {
    let watched: Watched = serde_json::from_value(object).unwrap();
    let kind = Kind::Workload(WorkloadKind::Deployment);
    assert_eq!(watched.into_object(kind), None);
}

/// The last of equal names counts, as for the API server.
#[test]
fn a_name_may_be_given_twice() {
    let text = r#"{"metadata": {"name": "a", "name": "b", "namespace": "\u00fc\ud83d\ude00"}, "metadata": {"name": "c"}}"#;
    let watched: Watched = serde_json::from_str(text).unwrap();
    assert_eq!(watched.meta().name.as_deref(), Some("c"));
}

/// The watch reads objects inside of these, and continues from the resource version.
#[test]
fn lists_and_events_of_the_client_hold_objects() {
    let text = r#"{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"},
        "items": [{"metadata": {"name": "a", "namespace": "n", "resourceVersion": "8"}}, 7, null]}"#;
    let list: ObjectList<Watched> = serde_json::from_str(text).unwrap();
    let names = list.items.iter().map(|item| item.meta().name.as_deref());
    assert_eq!(names.collect::<Vec<_>>(), [Some("a"), None, None]);

    for text in [
        r#"{"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "8"}}}"#,
        r#"{"object": {"metadata": {"name": "a", "resourceVersion": "8"}}, "type": "ADDED"}"#,
    ] {
        let WatchEvent::Added(object) = serde_json::from_str::<WatchEvent<Watched>>(text).unwrap()
        else {
            panic!("not an addition: {text}");
        };
        assert_eq!(object.meta().resource_version.as_deref(), Some("8"));
    }
}

/// The URL of each kind.
#[rstest]
#[case(Kind::Namespace, "/api/v1/namespaces")]
#[case(Kind::Workload(WorkloadKind::Pod), "/api/v1/pods")]
#[case(
    Kind::Workload(WorkloadKind::ReplicationController),
    "/api/v1/replicationcontrollers"
)]
#[case(Kind::Workload(WorkloadKind::Deployment), "/apis/apps/v1/deployments")]
#[case(
    Kind::Workload(WorkloadKind::StatefulSet),
    "/apis/apps/v1/statefulsets"
)]
#[case(Kind::Workload(WorkloadKind::DaemonSet), "/apis/apps/v1/daemonsets")]
#[case(Kind::Workload(WorkloadKind::ReplicaSet), "/apis/apps/v1/replicasets")]
#[case(Kind::Workload(WorkloadKind::Job), "/apis/batch/v1/jobs")]
#[case(Kind::Workload(WorkloadKind::CronJob), "/apis/batch/v1/cronjobs")]
fn kinds_have_paths(#[case] kind: Kind, #[case] path: &str) {
    assert_eq!(Watched::url_path(&kind, None), path);
}

fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("metadata"),
        Just("spec"),
        Just("status"),
        Just("template"),
        Just("jobTemplate"),
        Just("containers"),
        Just("volumes"),
        Just("image"),
        Just("name"),
        Just("namespace"),
        Just("annotations"),
        Just("imagePullSecrets"),
        Just("ownerReferences"),
        Just("conditions"),
        Just("generation"),
        Just("odd \u{202e}\u{0}"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|fields| fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

/// Every place within a value.
fn places(value: &Value, here: &str, all: &mut Vec<String>) {
    all.push(here.to_owned());
    match value {
        Value::Array(list) => {
            for (index, element) in list.iter().enumerate() {
                places(element, &format!("{here}/{index}"), all);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(field, &format!("{here}/{name}"), all);
            }
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn no_json_is_too_odd(value in any_json()) {
        let text = value.to_string();
        let from_text: Watched = serde_json::from_str(&text).unwrap();
        let from_value: Watched = serde_json::from_value(value).unwrap();
        for kind in Kind::ALL {
            prop_assert_eq!(from_text.clone().into_object(kind), from_value.clone().into_object(kind));
        }
    }

    /// Something else in one place of a real object takes nothing away elsewhere.
    #[test]
    fn an_odd_field_hides_itself_only(place in any::<prop::sample::Index>(), odd in any_json()) {
        let mut object = fixture("deployment-create");
        let whole = read(WorkloadKind::Deployment, &object);
        let mut all = Vec::new();
        places(&object["spec"]["template"]["spec"]["containers"], "/spec/template/spec/containers", &mut all);
        let place: &String = place.get(&all);
        *object.pointer_mut(place).unwrap() = odd;
        let rest = read(WorkloadKind::Deployment, &object);
        for image in ["ghcr.io/acme/migrate:v2", "docker.io/envoyproxy/envoy:v1.31.0", "quay.io/crio/artifact:v1"] {
            prop_assert!(rest.images.iter().any(|found| found == image));
        }
        prop_assert_eq!(rest.key, whole.key);
        prop_assert_eq!(rest.pull_secrets, whole.pull_secrets);
    }
}
