//! Images that something else fills in.

use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer_with, changes, fixture, warnings};
use super::script::{Script, pending};

fn deployment(metadata: &Value, containers: &Value) -> Value {
    let mut request = fixture("deployment-create");
    let template = request.pointer_mut("/object/spec/template").unwrap();
    template["metadata"] = metadata.clone();
    template["spec"] = json!({ "containers": containers });
    request
}

fn gateway() -> Value {
    json!([{"name": "istio-proxy", "image": "auto"}])
}

#[rstest]
#[case::gateway(json!({"annotations": {"inject.istio.io/templates": "gateway"}}), gateway())]
#[case::gateway_label(json!({"labels": {"sidecar.istio.io/inject": "true"}}), gateway())]
#[case::other_container(
    json!({"labels": {"sidecar.istio.io/inject": "true"}}), json!([{"name": "proxy", "image": "auto"}])
)]
#[case::namespace_injects(json!({}), gateway())]
#[case::openshift(json!({}), json!([{"name": "app", "image": " "}]))]
fn placeholders_stay_without_a_word(#[case] metadata: Value, #[case] containers: Value) {
    let mut script = Script::new().otherwise(pending());
    let request = deployment(&metadata, &containers);
    let reject = json!({"whenNotMirrored": "reject", "whenUnavailable": "reject"});
    let answer = answer_with(&request, &mut script, reject);
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert!(answer.warnings.is_none() && answer.audit_annotations.is_none());
    assert_eq!(script.asked, [""; 0]);
}

#[test]
fn auto_is_an_image_where_nobody_injects() {
    let containers = json!([{"name": "app", "image": "auto"}]);
    let metadata = json!({"labels": {"sidecar.istio.io/inject": "false"}});
    let mut script = Script::new().otherwise(pending());
    let answer = answer_with(&deployment(&metadata, &containers), &mut script, json!({}));
    assert_eq!(script.asked, ["tag/docker.io/library/auto:latest"]);
    assert_eq!(warnings(&answer).len(), 1);
}

/// The image that replaces the placeholder may need the pull Secrets of the account.
#[test]
fn the_other_images_are_rewritten_in_the_pods() {
    let containers =
        json!([{"name": "app", "image": "nginx"}, {"name": "istio-proxy", "image": "auto"}]);
    let request = deployment(&json!({}), &containers);
    let answer = answer_with(&request, &mut Script::new(), json!({}));
    assert_eq!(changes(&request, &answer), [""; 0]);
    let audit = answer.audit_annotations.unwrap();
    assert!(audit["left-to-pods"].starts_with("nginx -> "), "{audit:?}");
}
