//! Every kind of object: where its images are, and what a request may change.

use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer, answer_with, changes, create, fixture, pod_of, warnings};
use super::script::{SECRET, Script, TAG_DIGEST, pending};

const ANNOTATION: &str = "image-mirror.dev/original-images";

/// The paths of `lines` as [`changes`] gives them.
fn paths(lines: &[String]) -> Vec<&str> {
    let mut paths: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    paths.sort_unstable();
    paths
}

#[test]
fn a_deployment_with_all_kinds_of_images_is_rewritten_exactly_there() {
    let request = fixture("deployment-create");
    let mut script = Script::new();
    let answer = answer(&request, &mut script);
    let digest = "sha256:4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80";
    let spec = "/spec/template/spec";
    let mut note = json!({
        "backup.test/acme/docker.io-envoyproxy-envoy:v1.31.0": "docker.io/envoyproxy/envoy:v1.31.0",
        "backup.test/acme/docker.io-library-nginx:1.27": "nginx:1.27",
        "backup.test/acme/ghcr.io-acme-migrate:v2": "ghcr.io/acme/migrate:v2",
        "backup.test/acme/quay.io-crio-artifact:v1": "quay.io/crio/artifact:v1",
        format!("backup.test/acme/quay.io-prometheus-node--exporter@{digest}"):
            format!("quay.io/prometheus/node-exporter@{digest}"),
        "imagePullSecret": SECRET,
    });
    note["digests"] = [TAG_DIGEST; 4].join(",").into();
    let mut expected = [
        format!("replace {spec}/containers/0/image backup.test/acme/docker.io-library-nginx:1.27"),
        format!(
            "replace {spec}/containers/1/image backup.test/acme/quay.io-prometheus-node--exporter@{digest}"
        ),
        format!("replace {spec}/initContainers/0/image backup.test/acme/ghcr.io-acme-migrate:v2"),
        format!(
            "replace {spec}/initContainers/1/image backup.test/acme/docker.io-envoyproxy-envoy:v1.31.0"
        ),
        format!(
            "replace {spec}/volumes/0/image/reference backup.test/acme/quay.io-crio-artifact:v1"
        ),
        format!("add {spec}/imagePullSecrets/1 {{\"name\":\"{SECRET}\"}}"),
        format!(
            "add /spec/template/metadata/annotations {}",
            json!({ ANNOTATION: note.to_string() })
        ),
    ];
    let mut actual = changes(&request, &answer);
    expected.sort_unstable();
    actual.sort_unstable();
    assert_eq!(actual, expected);
    assert!(answer.accepted);
    assert_eq!(warnings(&answer), [""; 0]);
    let audit = answer.audit_annotations.unwrap();
    assert!(
        audit["rewritten"]
            .contains("nginx:1.27 -> backup.test/acme/docker.io-library-nginx:1.27 (sha256:1111")
    );
    assert!(!audit.contains_key("not-mirrored"));
    assert_eq!(script.asked.len(), 6);
    let event = &script.logged[0];
    assert_eq!(event["uid"], request["uid"]);
    assert_eq!(
        (&event["level"], &event["kind"]),
        (&json!("info"), &json!("Deployment"))
    );
    assert_eq!(
        (&event["namespace"], &event["name"]),
        (&json!("shop"), &json!("web"))
    );
}

#[rstest]
#[case::cron_job("cronjob-create", "/spec/jobTemplate/spec/template/spec", 1)]
#[case::cron_job_update("cronjob-update", "/spec/jobTemplate/spec/template/spec", 1)]
#[case::daemon_set("daemonset-create", "/spec/template/spec", 1)]
#[case::server_side_apply("deployment-create-server-side-apply", "/spec/template/spec", 1)]
#[case::deployment_update("deployment-update-image", "/spec/template/spec", 5)]
#[case::re_admission("deployment-update-annotation", "/spec/template/spec", 5)]
#[case::dry_run("deployment-update-dry-run", "/spec/template/spec", 5)]
#[case::job("job-create", "/spec/template/spec", 1)]
#[case::pod("pod-create", "/spec", 1)]
#[case::pod_dry_run("pod-create-dry-run", "/spec", 1)]
#[case::pod_of_a_job("pod-create-owned-by-job", "/spec", 1)]
#[case::pod_of_a_replica_set("pod-create-owned-by-replicaset", "/spec", 5)]
#[case::pod_of_a_stateful_set("pod-create-owned-by-statefulset", "/spec", 1)]
#[case::stateful_set("statefulset-create", "/spec/template/spec", 1)]
fn every_image_of_every_kind_is_rewritten(
    #[case] name: &str,
    #[case] spec: &str,
    #[case] images: usize,
) {
    let request = fixture(name);
    let answer = answer(&request, &mut Script::new());
    assert!(answer.accepted);
    let lines = changes(&request, &answer);
    let (rewritten, others): (Vec<&str>, Vec<&str>) = paths(&lines)
        .into_iter()
        .partition(|path| path.ends_with("/image") || path.ends_with("/reference"));
    assert_eq!(rewritten.len(), images, "{lines:?}");
    assert!(
        rewritten.iter().all(|path| path.starts_with(spec)),
        "{lines:?}"
    );
    // Besides, one pull Secret and one annotation; the containers of both may have been missing.
    assert_eq!(others.len(), 2, "{lines:?}");
    let template = spec.trim_end_matches("/spec");
    assert!(
        others[0].starts_with(&format!("{template}/metadata")),
        "{lines:?}"
    );
    assert!(
        others[1].starts_with(&format!("{spec}/imagePullSecrets")),
        "{lines:?}"
    );
}

#[rstest]
#[case::scale("deployment-scale-update")]
#[case::job_of_a_cron_job("job-create-owned-by-cronjob")]
#[case::replica_set_of_a_deployment("replicaset-create-owned-by-deployment")]
#[case::job_template_is_immutable("job-update")]
#[case::never_pulled("replicationcontroller-create-pull-never")]
#[case::static_pod("pod-create-static-mirror")]
#[case::delete("pod-delete")]
#[case::nothing_of_the_pod_changed("pod-update-label")]
fn what_may_not_or_need_not_change_is_accepted_without_a_question(#[case] name: &str) {
    let mut script = Script::new();
    let answer = answer(&fixture(name), &mut script);
    assert!(answer.accepted);
    assert!(answer.mutated_object.is_none());
    assert_eq!(warnings(&answer), [""; 0]);
    assert_eq!(script.asked, [""; 0]);
}

fn with_secret(mut request: Value) -> Value {
    for object in ["object", "oldObject"] {
        request[object]["spec"]["imagePullSecrets"] = json!([{"name": "other"}, {"name": SECRET}]);
    }
    request
}

#[test]
fn a_pod_update_rewrites_only_the_changed_image_and_annotates_it() {
    let request = with_secret(fixture("pod-update-image"));
    let answer = answer(&request, &mut Script::new());
    let image = "backup.test/acme/docker.io-library-alpine:3.21";
    let lines = changes(&request, &answer);
    let [annotation, replaced] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(
        *replaced,
        format!("replace /spec/containers/0/image {image}")
    );
    assert!(
        annotation.starts_with("add /metadata/annotations"),
        "{annotation}"
    );
    assert!(annotation.contains(image), "{annotation}");
}

#[test]
fn a_new_ephemeral_container_is_rewritten_and_nothing_else() {
    let request = with_secret(fixture("pod-ephemeralcontainers-update"));
    let mut script = Script::new();
    let answer = answer(&request, &mut script);
    let image = "backup.test/acme/docker.io-library-busybox:1.36";
    assert_eq!(
        changes(&request, &answer),
        [format!("replace /spec/ephemeralContainers/0/image {image}")]
    );
    assert_eq!(script.asked, ["tag/docker.io/library/busybox:1.36"]);
}

#[test]
fn an_old_ephemeral_container_stays() {
    let mut request = with_secret(fixture("pod-ephemeralcontainers-update"));
    request["oldObject"]["spec"]["ephemeralContainers"] =
        request["object"]["spec"]["ephemeralContainers"].clone();
    let answer = answer(&request, &mut Script::new());
    assert!(answer.mutated_object.is_none());
}

#[rstest]
#[case("pod-update-image", "alpine:3.21")]
#[case("pod-ephemeralcontainers-update", "busybox:1.36")]
fn a_running_pod_without_the_pull_secret_keeps_its_upstream(
    #[case] name: &str,
    #[case] image: &str,
) {
    let request = fixture(name);
    let kept = answer(&request, &mut Script::new());
    assert!(kept.accepted && kept.mutated_object.is_none());
    assert_eq!(
        warnings(&kept),
        [format!(
            "image-mirror: {image} has a copy, but no pull Secret for it: image-mirror-pull cannot be added to an existing Pod"
        )]
    );
    let strict = json!({"whenNotMirrored": "reject"});
    assert!(!answer_with(&request, &mut Script::new(), strict).accepted);
}

#[test]
fn a_pod_update_without_the_old_pod_changes_nothing() {
    let mut request = with_secret(fixture("pod-update-image"));
    request.as_object_mut().unwrap().remove("oldObject");
    assert!(
        answer(&request, &mut Script::new())
            .mutated_object
            .is_none()
    );
}

#[rstest]
#[case::rollout("argoproj.io/v1alpha1", "Rollout", "/spec/template")]
#[case::clone_set("apps.kruise.io/v1alpha1", "CloneSet", "/spec/template")]
#[case::pod_template("v1", "PodTemplate", "/template")]
#[case::replication_controller("v1", "ReplicationController", "/spec/template")]
#[case::replica_set_without_owner("apps/v1", "ReplicaSet", "/spec/template")]
fn other_kinds_with_a_pod_template(
    #[case] version: &str,
    #[case] kind: &str,
    #[case] template: &str,
) {
    let template_value = json!({"spec": {"containers": [{"name": "a", "image": "nginx"}]}});
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {}});
    match template {
        "/template" => object["template"] = template_value,
        _ => object["spec"] = json!({"template": template_value}),
    }
    let request = create(object);
    let answer = answer(&request, &mut Script::new());
    let image = format!("{template}/spec/containers/0/image");
    assert_eq!(
        answer.mutated_object.unwrap().pointer(&image).unwrap(),
        "backup.test/acme/docker.io-library-nginx:latest"
    );
}

#[rstest]
#[case::service(json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": []}}))]
#[case::list(json!({"apiVersion": "v1", "kind": "List", "items": [pod_of(&["nginx"])]}))]
#[case::pod_of_another_group(json!({"apiVersion": "example.com/v1", "kind": "Pod", "spec": {"containers": [{"image": "nginx"}]}}))]
#[case::no_containers(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {}}}}))]
#[case::no_spec(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}}))]
fn unknown_shapes_are_accepted_and_logged(#[case] object: Value) {
    let mut script = Script::new();
    let answer = answer(&create(object), &mut script);
    assert!(answer.accepted && answer.mutated_object.is_none() && answer.warnings.is_none());
    assert_eq!(script.logged[0]["level"], "debug");
    assert_eq!(script.asked, [""; 0]);
}

#[test]
fn a_dry_run_only_looks_and_shows_what_the_real_request_does() {
    let mut request = fixture("pod-create");
    let real = answer(&request, &mut Script::new());
    request["dryRun"] = true.into();
    let mut script = Script::new();
    let dry = answer(&request, &mut script);
    assert_eq!(changes(&request, &dry), changes(&request, &real));
    assert_eq!(
        script.asked,
        [
            "peek/tag/docker.io/library/alpine:3.20",
            "peek/pull-secret/shop:latest"
        ]
    );
    // Nothing is asked for that starts a copy.
    let mut script = Script::new().otherwise(pending());
    let dry = answer(&request, &mut script);
    assert!(dry.accepted && dry.mutated_object.is_none());
    assert!(
        script
            .asked
            .iter()
            .all(|question| question.starts_with("peek/"))
    );
}

/// Its template is immutable: what differs from it would make the user's update fail.
#[rstest]
#[case::applied_once_more(|_: &mut Value| {}, true)]
#[case::replaced(|template: &mut Value| {
    template["metadata"] = json!({});
    template["spec"].as_object_mut().unwrap().remove("imagePullSecrets");
}, true)]
#[case::really_changed(|template: &mut Value| template["spec"]["containers"][0]["image"] = "other:1".into(), false)]
fn a_job_that_is_applied_once_more(#[case] change: fn(&mut Value), #[case] is_the_same: bool) {
    let create = fixture("job-create");
    let stored = answer(&create, &mut Script::new()).mutated_object.unwrap();
    let mut request = create.clone();
    request["operation"] = "UPDATE".into();
    request["oldObject"] = stored.clone();
    request["object"] = stored.clone();
    let template = &mut request["object"]["spec"]["template"];
    template["spec"]["containers"] =
        create["object"]["spec"]["template"]["spec"]["containers"].clone();
    change(template);
    let mut script = Script::new();
    let answer = answer(&request, &mut script);
    assert_eq!(script.asked, [""; 0]);
    if is_the_same {
        assert_eq!(answer.mutated_object.unwrap(), stored);
    } else {
        assert!(answer.accepted && answer.mutated_object.is_none());
    }
}

/// Of the template of a suspended Job, the API server lets more change. It gets what is there, and judges the rest.
#[rstest]
#[case::scheduling("/spec/nodeSelector", json!({"pool": "batch"}))]
#[case::tolerations("/spec/tolerations", json!([{"key": "batch"}]))]
#[case::labels("/metadata/labels", json!({"queue": "a"}))]
#[case::gates("/spec/schedulingGates", json!([{"name": "a"}]))]
#[case::what_it_refuses("/spec/restartPolicy", json!("Always"))]
fn a_job_whose_template_changes_elsewhere_keeps_its_copies(
    #[case] place: &str,
    #[case] value: Value,
) {
    let create = fixture("job-create");
    let stored = answer(&create, &mut Script::new()).mutated_object.unwrap();
    let (parent, key) = place.rsplit_once('/').unwrap();
    let change = |object: &mut Value| {
        let template = object["spec"]["template"].pointer_mut(parent).unwrap();
        template[key] = value.clone();
    };
    let mut request = create.clone();
    request["operation"] = "UPDATE".into();
    request["oldObject"] = stored.clone();
    change(&mut request["object"]);
    let mut expected = stored;
    change(&mut expected);
    let mut script = Script::new();
    let mutated = answer(&request, &mut script).mutated_object.unwrap();
    assert_eq!(mutated["spec"], expected["spec"]);
    assert_eq!(script.asked, [""; 0]);
}

/// The volumes of a Pod are immutable too.
#[test]
fn a_pod_with_an_image_volume_that_is_applied_once_more() {
    let mut object = pod_of(&["nginx"]);
    object["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "quay.io/a/model:1"}}]);
    let stored = answer(&create(object.clone()), &mut Script::new())
        .mutated_object
        .unwrap();
    let mut request = create(stored.clone());
    request["operation"] = "UPDATE".into();
    request["oldObject"] = stored.clone();
    for list in ["containers", "volumes"] {
        request["object"]["spec"][list] = object["spec"][list].clone();
    }
    for mut script in [Script::new(), Script::new().otherwise(pending())] {
        let answer = answer(&request, &mut script);
        let mutated = answer.mutated_object.unwrap();
        assert_eq!(mutated["spec"]["volumes"], stored["spec"]["volumes"]);
    }
}
