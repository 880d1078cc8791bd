//! New Pods use originals while the backup is unavailable.

use kubewarden_policy_sdk::response::ValidationResponse;
use mirror_contract::RefusalKind;
use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer, answer_with, changes, create, first_image, pod_of, warnings};
use super::script::{SECRET, Script, TAG_DIGEST, pending, refused};

const ORIGINALS: &str = "image-mirror.dev/original-images";
const NGINX: &str = "backup.test/acme/docker.io-library-nginx:1.27";
const REDIS: &str = "backup.test/acme/docker.io-library-redis:7";
const HEX: &str = "1111111111111111111111111111111111111111111111111111111111111111";

fn pinned(image: &str) -> String {
    format!("docker.io/library/{image}@{TAG_DIGEST}")
}

fn original_query(path: &str) -> String {
    format!("original/digest/docker.io/library/{path}:sha256-{HEX}")
}

fn annotation() -> Value {
    json!({
        NGINX: "nginx:1.27",
        REDIS: "redis:7",
        "digests": format!("{TAG_DIGEST},{TAG_DIGEST}"),
        "imagePullSecret": SECRET,
    })
}

/// A Pod of a rewritten template.
fn pod_with(images: &[&str], annotation: &Value) -> Value {
    let mut pod = pod_of(images);
    pod["metadata"]["annotations"] = json!({ ORIGINALS: annotation.to_string() });
    pod["spec"]["imagePullSecrets"] = json!([{ "name": SECRET }]);
    pod
}

fn new_pod(images: &[&str]) -> Value {
    create(pod_with(images, &annotation()))
}

fn annotation_of(object: &Value) -> Value {
    let text = object["metadata"]["annotations"][ORIGINALS].as_str();
    text.map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
}

fn mutated(answer: &ValidationResponse) -> &Value {
    answer.mutated_object.as_ref().expect("a change")
}

fn unavailable() -> Script {
    Script::new().with_unavailable_backup()
}

#[test]
fn a_new_pod_uses_its_originals_with_the_digests_of_the_copies() {
    let request = new_pod(&[NGINX, REDIS, NGINX]);
    let mut script = unavailable();
    let answer = answer(&request, &mut script);
    let pod = mutated(&answer);
    let images = ["nginx:1.27", "redis:7", "nginx:1.27"].map(pinned);
    for (index, image) in images.iter().enumerate() {
        assert_eq!(pod["spec"]["containers"][index]["image"], **image);
    }
    // The originals may need the Secrets of the ServiceAccount, which the API server adds to an empty list.
    assert_eq!(pod["spec"].get("imagePullSecrets"), None);
    // So that nothing takes them for originals without copies.
    let expected = json!({ pinned("nginx:1.27"): NGINX, pinned("redis:7"): REDIS });
    assert_eq!(annotation_of(pod), expected);
    let asked = [
        "tag/backup.test/acme/docker.io-library-nginx:1.27",
        &original_query("nginx"),
        "tag/backup.test/acme/docker.io-library-redis:7",
        &original_query("redis"),
    ];
    assert_eq!(script.asked, asked);
    assert_eq!(warnings(&answer).len(), 2);
    assert!(warnings(&answer)[0].contains("is replaced by its original"));
    let audit = answer.audit_annotations.as_ref().unwrap();
    let line = format!("{NGINX} -> {}", pinned("nginx:1.27"));
    assert!(audit["failed-over"].contains(&line), "{audit:?}");
    assert_eq!(script.logged[0]["message"], "originals used");
}

#[test]
fn a_second_call_for_the_same_pod_changes_nothing() {
    let mut script = unavailable();
    let first = answer(&new_pod(&[NGINX]), &mut script);
    let mut script = unavailable();
    let strict = json!({ "whenUnavailable": "reject" });
    let second = answer_with(&create(mutated(&first).clone()), &mut script, strict);
    assert!(second.accepted && second.mutated_object.is_none());
    assert!(script.asked.is_empty());
}

#[test]
fn a_copy_with_a_digest_needs_no_record() {
    let copy = format!("backup.test/acme/docker.io-library-nginx:1.27@{TAG_DIGEST}");
    let written = pinned("nginx:1.27");
    let pod = pod_with(&[&copy], &json!({ copy.as_str(): written }));
    let answer = answer(&create(pod), &mut unavailable());
    assert_eq!(first_image(&answer), Some(&*written));
}

/// An original with an entry of another copy is an image like others.
#[rstest]
#[case::of_another_original(REDIS)]
#[case::in_no_backup("elsewhere.test/acme/docker.io-library-nginx:1.27")]
#[case::no_image("")]
fn a_forged_entry_of_an_original_does_not_count(#[case] copy: &str) {
    let pod = pod_with(
        &[&pinned("nginx:1.27")],
        &json!({ pinned("nginx:1.27"): copy }),
    );
    let mut script = Script::new();
    let answer = answer(&create(pod), &mut script);
    assert_eq!(
        script.asked,
        [format!("digest/docker.io/library/nginx:sha256-{HEX}")]
    );
    assert!(first_image(&answer).unwrap().starts_with(NGINX));
}

#[rstest]
#[case::the_registry_of_the_original_is_gone(refused(RefusalKind::Unavailable, "no response"))]
#[case::the_digest_is_gone(refused(RefusalKind::Failed, "no such image"))]
#[case::the_backup_is_back(refused(RefusalKind::Failed, "the backup registry responds"))]
fn a_copy_stays_without_an_original(#[case] reply: super::script::Reply) {
    let mut script = unavailable().reply(&original_query("nginx"), reply);
    let answer = answer(&new_pod(&[NGINX]), &mut script);
    assert!(answer.accepted && answer.mutated_object.is_none());
}

/// A Pod with a copy and an original keeps the Secret of the copy.
#[test]
fn each_image_is_decided_alone() {
    let reply = refused(RefusalKind::Failed, "no such image");
    let mut script = unavailable().reply(&original_query("redis"), reply);
    let request = new_pod(&[NGINX, REDIS]);
    let pod = mutated(&answer(&request, &mut script)).clone();
    assert_eq!(pod["spec"]["containers"][0]["image"], pinned("nginx:1.27"));
    assert_eq!(pod["spec"]["containers"][1]["image"], REDIS);
    assert_eq!(pod["spec"]["imagePullSecrets"], json!([{ "name": SECRET }]));
    let mut expected = annotation();
    let entries = expected.as_object_mut().unwrap();
    entries.remove(NGINX);
    entries.insert("digests".into(), TAG_DIGEST.into());
    entries.insert(pinned("nginx:1.27"), NGINX.into());
    assert_eq!(annotation_of(&pod), expected);
}

#[test]
fn a_pending_original_is_requested_once_more() {
    let mut script = unavailable().reply(&original_query("nginx"), pending());
    let answer = answer(&new_pod(&[NGINX, NGINX]), &mut script);
    assert!(answer.mutated_object.is_none());
    let originals = script
        .asked
        .iter()
        .filter(|asked| asked.starts_with("original/"));
    assert_eq!(originals.count(), 2);
}

/// Cases in which no original is requested.
#[rstest]
#[case::the_setting(new_pod(&[NGINX]), json!({ "whenBackupUnavailable": "copy" }))]
#[case::no_recorded_digest(create(pod_with(&[NGINX], &json!({ NGINX: "nginx:1.27" }))), json!({}))]
#[case::an_invalid_digest(
    create(pod_with(&[NGINX], &json!({ NGINX: "nginx:1.27", "digests": "sha256:1" }))),
    json!({})
)]
#[case::other_digests_than_copies(
    create(pod_with(&[NGINX], &json!({ NGINX: "nginx:1.27", "digests": format!("{TAG_DIGEST},") }))),
    json!({})
)]
#[case::a_forged_original(
    create(pod_with(&[NGINX], &json!({ NGINX: "evil.example/x:1.27", "digests": TAG_DIGEST }))),
    json!({})
)]
#[case::no_annotation(create(pod_of(&[NGINX])), json!({}))]
fn a_copy_stays(#[case] request: Value, #[case] settings: Value) {
    let mut script = unavailable();
    let answer = answer_with(&request, &mut script, settings);
    let images = answer
        .mutated_object
        .as_ref()
        .map(|pod| &pod["spec"]["containers"]);
    assert!(images.is_none_or(|images| images[0]["image"] == NGINX));
    assert!(
        !script
            .asked
            .iter()
            .any(|asked| asked.starts_with("original/"))
    );
}

#[test]
fn templates_and_updates_keep_their_copies() {
    let template = pod_with(&[NGINX], &annotation());
    let deployment = create(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "spec": { "template": { "metadata": template["metadata"], "spec": template["spec"] } },
    }));
    let mut update = create(template.clone());
    update["operation"] = "UPDATE".into();
    update["oldObject"] = pod_with(&["nginx:1.27"], &json!({}));
    for request in [deployment, update] {
        let mut script = unavailable();
        let answer = answer(&request, &mut script);
        assert!(answer.mutated_object.is_none());
        assert!(
            !script
                .asked
                .iter()
                .any(|asked| asked.starts_with("original/"))
        );
    }
}

fn deployment(image: &str, annotation: Option<&Value>) -> Value {
    let mut metadata = json!({});
    if let Some(annotation) = annotation {
        metadata["annotations"] = json!({ ORIGINALS: annotation.to_string() });
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "spec": { "template": {
            "metadata": metadata,
            "spec": { "containers": [{ "name": "c", "image": image }] },
        } },
    })
}

#[test]
fn digests_are_recorded_with_new_copies() {
    let request = create(deployment("nginx:1.27", None));
    let answer = answer(&request, &mut Script::new());
    let mut expected = annotation();
    let entries = expected.as_object_mut().unwrap();
    entries.remove(REDIS);
    entries.insert("digests".into(), TAG_DIGEST.into());
    assert_eq!(
        annotation_of(&mutated(&answer)["spec"]["template"]),
        expected
    );
}

/// Anyone who may edit a workload may forge the entry that a Pod has after its second call.
#[test]
fn a_template_with_the_entry_of_a_pod_gets_its_copy() {
    let written = pinned("nginx:1.27");
    let forged = json!({ written.as_str(): NGINX });
    let request = create(deployment(&written, Some(&forged)));
    let answer = answer(&request, &mut Script::new());
    let copy = format!("{NGINX}@{TAG_DIGEST}");
    let template = &mutated(&answer)["spec"]["template"];
    assert_eq!(template["spec"]["containers"][0]["image"], copy);
    assert_eq!(annotation_of(template)[&copy], written);
}

/// A digest that is new or has changed must not start a rollout.
#[rstest]
#[case::of_an_earlier_version(json!({ NGINX: "nginx:1.27", "imagePullSecret": SECRET }))]
#[case::of_another_image(json!({
    NGINX: "nginx:1.27", "digests": TAG_DIGEST.replace('1', "2"), "imagePullSecret": SECRET,
}))]
fn applied_again(#[case] annotation: Value, #[values(true, false)] keeps_annotation: bool) {
    let mut old = deployment(NGINX, Some(&annotation));
    old["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{ "name": SECRET }]);
    let mut new = deployment("nginx:1.27", keeps_annotation.then_some(&annotation));
    new["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{ "name": SECRET }]);
    let mut request = create(new);
    request["operation"] = "UPDATE".into();
    request["oldObject"] = old.clone();
    let answer = answer(&request, &mut Script::new());
    let template = &mutated(&answer)["spec"]["template"];
    assert_eq!(annotation_of(template), annotation);
    assert_eq!(
        template["spec"],
        old["spec"]["template"]["spec"],
        "{:?}",
        changes(&request, &answer)
    );
}
