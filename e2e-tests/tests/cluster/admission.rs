//! What is stored when a user creates, applies or changes a workload.

use e2e_tests::cluster::{self, FailurePolicy};
use rstest::rstest;
use serde_json::{Value, json};
use testkit::fixtures::images_of;

use crate::manifests::{Kind, pod_spec, renamed, spec_of, template_of};
use crate::stage::{PULL_SECRET, Stage, assert_images_stay};

#[rstest]
#[case::pod(Kind::Pod)]
#[case::deployment(Kind::Deployment)]
#[case::daemon_set(Kind::DaemonSet)]
#[case::stateful_set(Kind::StatefulSet)]
#[case::replica_set(Kind::ReplicaSet)]
#[case::replication_controller(Kind::ReplicationController)]
#[case::job(Kind::Job)]
#[case::cron_job(Kind::CronJob)]
fn a_workload_is_stored_with_the_copies_once_they_are_there(#[case] kind: Kind) {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let mut stage = Stage::start(cluster);
    let (manifest, stock) = stage.manifest(kind, "first", pod_spec());
    let first = stage.namespace.create(&manifest).unwrap();
    assert_images_stay(&first, &manifest);
    stage.world.wait_until_copied(stock.keys());

    let second = renamed(&manifest, "second");
    stage.namespace.create(&second).unwrap();
    stage.world.upstream.stop();
    let stored = stage.namespace.get(&second).unwrap();
    stage.assert_uses_copies(&stored, &manifest, &stock);
    assert_eq!(
        spec_of(&stored)["imagePullSecrets"],
        json!([{ "name": PULL_SECRET }])
    );
    let noted =
        &template_of(&stored)["metadata"]["annotations"]["image-mirror.dev/original-images"];
    assert!(noted.as_str().unwrap().contains("nginx:1.27"), "{noted}");
}

/// What the API server shows must be what it would store, or every diff shows drift.
#[test]
fn a_dry_run_shows_the_same_and_starts_nothing() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (manifest, stock) = stage.manifest(Kind::Deployment, "shop", pod_spec());
    let dry = stage.namespace.dry_run().create(&manifest).unwrap();
    assert_images_stay(&dry, &manifest);
    assert_eq!(
        stage.namespace.list("apps/v1", "Deployment").unwrap(),
        [] as [Value; 0]
    );
    assert_only_peeks(&stage);
    stage.mirror(&manifest, &stock);

    let dry = stage.namespace.dry_run().apply(&manifest).unwrap();
    assert_only_peeks(&stage);
    let real = stage.namespace.apply(&manifest).unwrap();
    assert_eq!(dry["spec"], real["spec"]);
    assert_eq!(
        dry["metadata"]["annotations"],
        real["metadata"]["annotations"]
    );
    stage.assert_uses_copies(&real, &manifest, &stock);
}

/// Asserts that the last request was a dry run, and that the sidecar was asked only what starts nothing.
fn assert_only_peeks(stage: &Stage) {
    let seen = stage.webhook.seen();
    let last = seen.last().unwrap();
    assert_eq!(last.review["request"]["dryRun"], true);
    assert!(!last.evaluation.calls.is_empty());
    for call in &last.evaluation.calls {
        assert!(call.argument.contains("/peek/"), "{call:?}");
    }
}

#[test]
fn the_same_manifest_applied_again_starts_no_rollout() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (manifest, stock) = stage.manifest(Kind::Deployment, "shop", pod_spec());
    stage.mirror(&manifest, &stock);
    let first = stage.namespace.apply(&manifest).unwrap();
    let second = stage.namespace.apply(&manifest).unwrap();
    stage.assert_uses_copies(&first, &manifest, &stock);
    assert_eq!(first["metadata"]["generation"], 1);
    assert_eq!(without_time(second), without_time(first));
}

/// An object without the time of its last apply, which old API servers store even if nothing else is new.
fn without_time(mut object: Value) -> Value {
    let metadata = &mut object["metadata"];
    metadata["resourceVersion"] = Value::Null;
    let managers = metadata["managedFields"].as_array_mut();
    for manager in managers.into_iter().flatten() {
        manager["time"] = Value::Null;
    }
    object
}

/// How a workload that was admitted too early gets its copies: any change lets it pass the policy again.
#[test]
fn an_annotation_lets_a_deployment_pass_again() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (manifest, stock) = stage.manifest(Kind::Deployment, "shop", pod_spec());
    let early = stage.namespace.create(&manifest).unwrap();
    assert_images_stay(&early, &manifest);
    stage.world.wait_until_copied(stock.keys());
    let patch = json!({ "metadata": { "annotations": { "example.com/again": "1" } } });
    let late = stage.namespace.merge(&manifest, &patch).unwrap();
    stage.assert_uses_copies(&late, &manifest, &stock);
    assert_eq!(late["metadata"]["generation"], 2);
}

/// A Pod is immutable but for its images, and a replaced image restarts the container.
#[test]
fn a_label_of_a_running_pod_can_be_changed() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (manifest, stock) = stage.manifest(Kind::Pod, "early", pod_spec());
    let late = renamed(&manifest, "late");
    stage.namespace.create(&manifest).unwrap();
    stage.world.wait_until_copied(stock.keys());
    stage.namespace.create(&late).unwrap();
    for pod in [&manifest, &late] {
        let running = json!({ "phase": "Running" });
        let before = stage.namespace.merge_status(pod, &running).unwrap();
        let label = json!({ "metadata": { "labels": { "tier": "web" } } });
        let after = stage.namespace.merge(pod, &label).unwrap();
        assert_eq!(after["metadata"]["labels"]["tier"], "web");
        assert_eq!(after["status"]["phase"], "Running");
        assert_eq!(after["spec"], before["spec"]);
    }
    assert_images_stay(&stage.namespace.get(&manifest).unwrap(), &manifest);
    stage.assert_uses_copies(&stage.namespace.get(&late).unwrap(), &late, &stock);
}

#[test]
fn an_image_of_a_running_pod_is_replaced_when_it_is_changed() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (manifest, stock) = stage.manifest(Kind::Pod, "pod", pod_spec());
    stage.mirror(&manifest, &stock);
    let before = stage.namespace.create(&manifest).unwrap();
    stage.assert_uses_copies(&before, &manifest, &stock);
    let mut changed = before["spec"].clone();
    let proxy = spec_of(&manifest)["containers"][1]["image"].clone();
    changed["containers"][0]["image"] = proxy;
    let patch = json!({ "spec": { "containers": changed["containers"] } });
    let after = stage.namespace.merge(&manifest, &patch).unwrap();
    let containers = &after["spec"]["containers"];
    assert_eq!(containers[0]["image"], containers[1]["image"]);
    assert_eq!(
        containers[1]["image"],
        before["spec"]["containers"][1]["image"]
    );
}

#[test]
fn an_opted_out_workload_is_stored_as_it_came() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (mut manifest, stock) = stage.manifest(Kind::Deployment, "shop", pod_spec());
    stage.mirror(&manifest, &stock);
    manifest["metadata"]["annotations"] = json!({ "image-mirror.dev/skip": "true" });
    let stored = stage.namespace.create(&manifest).unwrap();
    assert_images_stay(&stored, &manifest);
    assert_eq!(
        stored["metadata"]["annotations"],
        manifest["metadata"]["annotations"]
    );
    assert_eq!(template_of(&stored)["metadata"].get("annotations"), None);
    assert_eq!(spec_of(&stored).get("imagePullSecrets"), None);
}

#[test]
fn a_refusal_reaches_the_user() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let settings = json!({ "whenNotMirrored": "reject" });
    let stage = Stage::with(cluster, settings, FailurePolicy::Fail);
    let (manifest, stock) = stage.manifest(Kind::Deployment, "shop", pod_spec());
    let refusal = stage.namespace.create(&manifest).unwrap_err().to_string();
    for image in stock.keys() {
        assert!(refusal.contains(image.as_str()), "{refusal} lacks {image}");
    }
    stage.world.wait_until_copied(stock.keys());
    let stored = stage.namespace.create(&manifest).unwrap();
    stage.assert_uses_copies(&stored, &manifest, &stock);
}

#[rstest]
#[case::ignore(FailurePolicy::Ignore)]
#[case::fail(FailurePolicy::Fail)]
fn the_failure_policy_decides_when_the_webhook_is_down(#[case] failure_policy: FailurePolicy) {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let mut stage = Stage::with(cluster, json!({}), failure_policy);
    let (manifest, stock) = stage.manifest(Kind::Deployment, "shop", pod_spec());
    stage.mirror(&manifest, &stock);
    stage.webhook.go_down();
    match (failure_policy, stage.namespace.create(&manifest)) {
        (FailurePolicy::Ignore, Ok(stored)) => {
            assert_eq!(images_of(&stored["spec"]), images_of(&manifest["spec"]));
        }
        (FailurePolicy::Fail, Err(error)) => {
            assert!(
                error.to_string().contains("failed calling webhook"),
                "{error}"
            );
        }
        (_, result) => panic!("{result:?}"),
    }
}
