//! Objects that are not to be touched.

use mirror_contract::PullSecretStatus;
use mirror_contract::owners::SKIPPED_OWNERS;
use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer, answer_with, create, fixture, pod_of, warnings};
use super::script::{Reply, Script, manifest, pending};

#[test]
fn what_is_being_deleted_stays() {
    let mut request = fixture("deployment-update-image");
    request["object"]["metadata"]["deletionTimestamp"] = "2026-11-22T20:13:43Z".into();
    let mut script = Script::new().otherwise(pending());
    let answer = answer_with(&request, &mut script, json!({"whenNotMirrored": "reject"}));
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert_eq!(script.asked, [""; 0]);
}

#[rstest]
#[case::annotation("annotations", true)]
#[case::label("labels", true)]
#[case::annotation_of_the_template("annotations", false)]
#[case::label_of_the_template("labels", false)]
fn opting_out(
    #[case] list: &str,
    #[case] on_object: bool,
    #[values("true", "false", "")] value: &str,
) {
    let mut request = fixture("deployment-create");
    let metadata = if on_object {
        "/object/metadata"
    } else {
        "/object/spec/template/metadata"
    };
    let metadata = request.pointer_mut(metadata).unwrap();
    metadata[list]["image-mirror.dev/skip"] = value.into();
    let mut script = Script::new();
    let answer = answer(&request, &mut script);
    assert_eq!(answer.mutated_object.is_none(), value == "true");
    assert_eq!(script.asked.is_empty(), value == "true");
    // Pods are made of the template: they do not see what is on the object.
    let expected: &[_] = if on_object && value == "true" {
        &[
            "image-mirror: its Pods are still rewritten; set image-mirror.dev/skip on the Pod template",
        ]
    } else {
        &[]
    };
    assert_eq!(warnings(&answer), expected);
}

#[rstest]
fn opting_out_of_a_pod(#[values("annotations", "labels")] list: &str) {
    let mut object = pod_of(&["nginx"]);
    object["metadata"][list] = json!({"image-mirror.dev/skip": "true"});
    let answer = answer(&create(object), &mut Script::new());
    assert!(answer.mutated_object.is_none() && answer.warnings.is_none());
}

#[rstest]
#[case::default_list("kube-system", json!({}), true)]
#[case::not_a_prefix("kube-system-2", json!({}), false)]
#[case::own_list("dev", json!({"excludedNamespaces": ["dev"]}), true)]
#[case::own_list_replaces_the_default("kube-system", json!({"excludedNamespaces": ["dev"]}), false)]
#[case::star("dev-7", json!({"excludedNamespaces": ["dev-*"]}), true)]
#[case::star_is_not_a_substring("my-dev-7", json!({"excludedNamespaces": ["dev-*"]}), false)]
#[case::nothing_excluded("kube-system", json!({"excludedNamespaces": []}), false)]
fn excluded_namespaces(
    #[case] namespace: &str,
    #[case] settings: Value,
    #[case] is_excluded: bool,
) {
    let mut request = fixture("pod-create");
    request["namespace"] = namespace.into();
    let mut script = Script::new();
    let answer = answer_with(&request, &mut script, settings);
    assert_eq!(answer.mutated_object.is_none(), is_excluded);
    assert_eq!(script.asked.is_empty(), is_excluded);
}

fn owned(mut object: Value, api_version: &str, kind: &str, is_controller: bool) -> Value {
    object["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "v1", "kind": "Node", "name": "n"},
        {"apiVersion": api_version, "kind": kind, "name": "o", "controller": is_controller},
    ]);
    create(object)
}

#[rstest]
#[case::cloud_native_pg("postgresql.cnpg.io/v1", "Cluster", json!({}), true)]
#[case::zalando("acid.zalan.do/v1", "postgresql", json!({}), true)]
#[case::another_group("cluster.x-k8s.io/v1", "Cluster", json!({}), false)]
#[case::another_kind("postgresql.cnpg.io/v1", "Pooler", json!({}), false)]
#[case::own_list("example.com/v1beta1", "Db", json!({"skipOwners": ["example.com/Db"]}), true)]
#[case::own_list_replaces_the_default("postgresql.cnpg.io/v1", "Cluster", json!({"skipOwners": ["example.com/Db"]}), false)]
#[case::core_group("v1", "ReplicationController", json!({"skipOwners": ["ReplicationController"]}), true)]
#[case::core_group_only("example.com/v1", "ReplicationController", json!({"skipOwners": ["ReplicationController"]}), false)]
#[case::replica_sets("apps/v1", "ReplicaSet", json!({}), false)]
fn pods_of_operators_that_compare_images(
    #[case] api_version: &str,
    #[case] kind: &str,
    #[case] settings: Value,
    #[case] is_skipped: bool,
    #[values(true, false)] is_controller: bool,
) {
    let request = owned(pod_of(&["nginx"]), api_version, kind, is_controller);
    let mut script = Script::new();
    let answer = answer_with(&request, &mut script, settings);
    assert_eq!(answer.mutated_object.is_none(), is_skipped);
    assert_eq!(script.asked.is_empty(), is_skipped);
}

#[rstest]
#[case::zalando("application", "spilo", json!({}), true)]
#[case::another_value("application", "shop", json!({}), false)]
#[case::own_list("example.com/db", "yes", json!({"skipLabels": ["example.com/db=yes"]}), true)]
#[case::empty_value("plain", "", json!({"skipLabels": ["plain="]}), true)]
#[case::nothing_skipped("application", "spilo", json!({"skipLabels": []}), false)]
fn labels_of_operators_that_compare_images(
    #[case] key: &str,
    #[case] value: &str,
    #[case] settings: Value,
    #[case] is_skipped: bool,
    #[values("/object/metadata", "/object/spec/template/metadata")] place: &str,
) {
    let mut request = fixture("statefulset-create");
    request.pointer_mut(place).unwrap()["labels"][key] = value.into();
    let answer = answer_with(&request, &mut Script::new(), settings);
    assert_eq!(answer.mutated_object.is_none(), is_skipped);
}

/// The controller above would change it back; Pods at the end of the chain are rewritten.
#[rstest]
#[case::of_a_controller(true)]
#[case::of_a_mere_owner(false)]
fn what_a_controller_owns_between_workload_and_pod(#[case] is_controller: bool) {
    let object = fixture("statefulset-create")["object"].take();
    let request = owned(
        object,
        "monitoring.coreos.com/v1",
        "Prometheus",
        is_controller,
    );
    let answer = answer(&request, &mut Script::new());
    assert_eq!(answer.mutated_object.is_none(), is_controller);
}

/// The sidecar knows the owners of owners, and workloads whose Pods are replaced again and again.
#[rstest]
#[case::listed("apps/v1", "StatefulSet", "db", "StatefulSet/db", true)]
#[case::among_others(
    "apps/v1",
    "ReplicaSet",
    "web-5d4f",
    "StatefulSet/db,Deployment/web",
    true
)]
#[case::not_listed("apps/v1", "StatefulSet", "db", "StatefulSet/db-2", false)]
#[case::nothing_listed("apps/v1", "StatefulSet", "db", "", false)]
fn pods_of_owners_that_the_sidecar_names(
    #[case] api_version: &str,
    #[case] kind: &str,
    #[case] name: &str,
    #[case] list: &str,
    #[case] is_skipped: bool,
) {
    let mut request = owned(pod_of(&["nginx"]), api_version, kind, true);
    request["object"]["metadata"]["ownerReferences"][1]["name"] = name.into();
    let mut annotations = PullSecretStatus::NotNeeded.annotations();
    annotations.push((SKIPPED_OWNERS, list.to_owned()));
    let reply = Reply::Manifest(manifest(&annotations));
    let question = "pull-secret/shop:latest";
    let mut script = Script::new().reply(question, reply);
    let response = answer(&request, &mut script);
    assert_eq!(response.mutated_object.is_none(), is_skipped);
    let asked = script.asked.iter().filter(|asked| *asked == question);
    assert_eq!(asked.count(), 1);
    // A Pod that stays what it is needs no such question.
    let mut script = Script::new().otherwise(pending());
    answer(&request, &mut script);
    assert!(!script.asked.iter().any(|asked| asked == question));
}
