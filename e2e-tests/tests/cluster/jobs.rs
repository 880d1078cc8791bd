//! Updates of Jobs: the policy restores the copies and the pull Secret of their templates, and the API server judges the
//! rest. It allows more while a Job is suspended, since Kubernetes 1.23; before that it refuses each other change.

use e2e_tests::cluster;
use rstest::rstest;
use serde_json::{Value, json};
use testkit::fixtures::images_of;

use crate::manifests::{Kind, pod_spec, spec_of, template_of};
use crate::stage::Stage;

/// A Job that is stored with copies, and its manifest, which names the originals.
fn stored_job(stage: &Stage) -> (Value, Value) {
    let (mut manifest, stock) = stage.manifest(Kind::Job, "job", pod_spec());
    stage.mirror(&manifest, &stock);
    let mut suspended = manifest.clone();
    suspended["spec"]["suspend"] = json!(true);
    let stored = stage.namespace.create(&suspended).unwrap();
    stage.assert_uses_copies(&stored, &manifest, &stock);
    // Before 1.21 there are no suspended Jobs, and nobody may apply a field that is not known.
    if stored["spec"]["suspend"] == true {
        manifest = suspended;
    }
    (stored, manifest)
}

/// What the policy made of the last request.
fn mutated(stage: &Stage) -> Value {
    let seen = stage.webhook.seen().pop().unwrap();
    assert!(seen.evaluation.response.allowed);
    seen.evaluation.mutated.unwrap()
}

#[rstest]
fn a_job_that_is_applied_again_may_change_beside_its_template(
    #[values(false, true)] replace: bool,
) {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (before, mut manifest) = stored_job(&stage);
    manifest["metadata"]["labels"]["queue"] = json!("a");
    manifest["metadata"]["annotations"] = json!({ "team": "batch" });
    manifest["spec"]["parallelism"] = json!(3);
    let after = if replace {
        // Its selector and the labels of its template are immutable, too.
        let mut object = before.clone();
        for field in ["labels", "annotations"] {
            object["metadata"][field] = manifest["metadata"][field].clone();
        }
        object["spec"]["parallelism"] = json!(3);
        let template = &mut object["spec"]["template"];
        template["metadata"]["annotations"] = Value::Null;
        template["spec"]["imagePullSecrets"] = Value::Null;
        for list in ["initContainers", "containers"] {
            template["spec"][list] = spec_of(&manifest)[list].clone();
        }
        stage.namespace.replace(&object).unwrap()
    } else {
        stage.namespace.apply(&manifest).unwrap()
    };
    assert_eq!(after["metadata"]["labels"]["queue"], "a");
    assert_eq!(after["metadata"]["annotations"]["team"], "batch");
    assert_eq!(after["spec"]["parallelism"], 3);
    assert_eq!(template_of(&after), template_of(&before));
}

/// Queues of Jobs change these before a Job starts.
#[rstest]
#[case::node_selector("/spec/nodeSelector", json!({ "pool": "batch" }))]
#[case::tolerations("/spec/tolerations", json!([{ "key": "batch", "operator": "Exists" }]))]
#[case::annotations("/metadata/annotations", json!({ "queue": "a" }))]
fn the_api_server_judges_what_of_a_suspended_job_may_change(
    #[case] place: &str,
    #[case] value: Value,
) {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (before, mut manifest) = stored_job(&stage);
    let (parent, key) = place.rsplit_once('/').unwrap();
    let template = manifest["spec"]["template"].pointer_mut(parent);
    template.unwrap()[key] = value.clone();
    let result = stage.namespace.apply(&manifest);

    let has_value = |object: &Value| {
        let found = template_of(object).pointer(place).unwrap();
        match value.as_object() {
            Some(fields) => fields.iter().all(|(key, value)| found[key] == *value),
            None => *found == value,
        }
    };
    let passed = mutated(&stage);
    assert!(has_value(&passed));
    assert_eq!(images_of(spec_of(&passed)), images_of(spec_of(&before)));
    let secrets = "imagePullSecrets";
    assert_eq!(spec_of(&passed)[secrets], spec_of(&before)[secrets]);
    match result {
        Ok(stored) => {
            assert!(has_value(&stored));
            assert_eq!(images_of(spec_of(&stored)), images_of(spec_of(&before)));
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("spec.template: Invalid value"), "{error}");
            assert!(error.contains("field is immutable"), "{error}");
            assert!(!error.contains("admission webhook"), "{error}");
            assert_eq!(
                template_of(&stage.namespace.get(&manifest).unwrap()),
                template_of(&before)
            );
        }
    }
}

/// Another image is a change that no API server accepts.
#[test]
fn another_image_of_a_job_is_refused_by_the_api_server() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (before, mut manifest) = stored_job(&stage);
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other:1");
    let error = stage.namespace.apply(&manifest).unwrap_err().to_string();
    assert!(error.contains("field is immutable"), "{error}");
    assert!(!error.contains("admission webhook"), "{error}");
    assert_eq!(
        stage.namespace.get(&manifest).unwrap()["spec"],
        before["spec"]
    );
}
