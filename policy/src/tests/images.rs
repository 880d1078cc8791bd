//! How a copy is written, which images are asked about, and what is noted.

use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer, answer_with, changes, create, first_image, pod, pod_of, warnings};
use super::script::{
    SECRET, Script, TAG_DIGEST, down, excluded, mirrored, pending, secret_not_needed,
};

const DIGEST: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
const NGINX: &str = "backup.test/acme/docker.io-library-nginx";

#[rstest]
#[case::nothing("nginx", format!("{NGINX}:latest"), format!("{NGINX}:latest@{TAG_DIGEST}"))]
#[case::tag("docker.io/nginx:1.27", format!("{NGINX}:1.27"), format!("{NGINX}:1.27@{TAG_DIGEST}"))]
#[case::digest(&format!("nginx@{DIGEST}"), format!("{NGINX}@{DIGEST}"), format!("{NGINX}@{DIGEST}"))]
#[case::both(&format!("nginx:1.27@{DIGEST}"), format!("{NGINX}:1.27@{DIGEST}"), format!("{NGINX}:1.27@{DIGEST}"))]
fn tag_and_digest_stay(#[case] image: &str, #[case] copy: String, #[case] pinned: String) {
    let request = create(pod_of(&[image]));
    assert_eq!(
        first_image(&answer(&request, &mut Script::new())),
        Some(copy.as_str())
    );
    let pin = json!({"pinDigest": true});
    assert_eq!(
        first_image(&answer_with(&request, &mut Script::new(), pin)),
        Some(pinned.as_str())
    );
}

#[test]
fn an_image_is_asked_about_once_however_it_is_written() {
    let names = [
        "nginx",
        "nginx:latest",
        "docker.io/library/nginx",
        "index.docker.io/nginx",
    ];
    let request = create(pod_of(&names));
    let mut script = Script::new();
    let answer = answer(&request, &mut script);
    assert_eq!(
        script.asked,
        [
            "tag/docker.io/library/nginx:latest",
            "pull-secret/shop:latest"
        ]
    );
    let containers = &answer.mutated_object.unwrap()["spec"]["containers"];
    for container in containers.as_array().unwrap() {
        assert_eq!(container["image"], format!("{NGINX}:latest"));
    }
}

#[test]
fn a_refused_image_is_asked_about_once_too() {
    let request = create(pod_of(&["nginx", "nginx", "nginx:latest"]));
    let mut script = Script::new().otherwise(pending());
    assert_eq!(warnings(&answer(&request, &mut script)).len(), 2);
    assert_eq!(script.asked.len(), 1);
}

#[test]
fn images_that_are_copies_already_stay_without_a_word() {
    let request = create(pod_of(&[&format!("{NGINX}:1.27")]));
    let mut script = Script::new();
    let answer = answer(&request, &mut script);
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert!(answer.warnings.is_none() && answer.audit_annotations.is_none());
    assert_eq!(script.asked.len(), 1);
    assert_eq!(script.logged, [Value::Null; 0]);
}

#[test]
fn each_image_goes_its_own_way() {
    let request = create(pod_of(&["a", "b", "c"]));
    let mut script = Script::new()
        .reply("tag/docker.io/library/a:latest", excluded())
        .reply("tag/docker.io/library/c:latest", pending());
    let answer = answer(&request, &mut script);
    assert_eq!(
        changes(&request, &answer),
        [
            r#"add /metadata/annotations {"image-mirror.dev/original-images":"{\"backup.test/acme/docker.io-library-b:latest\":\"b\"}"}"#,
            "replace /spec/containers/1/image backup.test/acme/docker.io-library-b:latest",
            r#"add /spec/imagePullSecrets [{"name":"image-mirror-pull"}]"#,
        ]
    );
    assert_eq!(
        warnings(&answer),
        ["image-mirror: c is not mirrored yet: copying"]
    );
    let audit = answer.audit_annotations.unwrap();
    assert_eq!(audit["not-mirrored"], "c is not mirrored yet: copying");
}

#[rstest]
#[case::other_digest(mirrored("backup.test/acme/x", TAG_DIGEST))]
#[case::tag_and_other_digest(mirrored("backup.test/acme/x:1", TAG_DIGEST))]
fn an_answer_about_another_digest_is_not_believed(#[case] reply: super::script::Reply) {
    let request = create(pod_of(&[&format!("nginx@{DIGEST}")]));
    let mut script = Script::new().otherwise(reply);
    let kept = answer_with(&request, &mut script, json!({"whenNotMirrored": "reject"}));
    assert!(kept.accepted && kept.mutated_object.is_none());
    assert!(warnings(&kept)[0].ends_with("the sidecar's answer makes no sense"));
    let mut script = Script::new().otherwise(mirrored("backup.test/acme/x", TAG_DIGEST));
    assert!(!answer_with(&request, &mut script, json!({"whenUnavailable": "reject"})).accepted);
}

#[test]
fn a_copy_without_the_tag_that_was_asked_for_is_not_believed() {
    let request = create(pod_of(&["nginx:1"]));
    let mut script = Script::new().otherwise(mirrored("backup.test/acme/x", DIGEST));
    assert!(answer(&request, &mut script).mutated_object.is_none());
}

#[rstest]
#[case::missing(json!(null), json!([{"name": SECRET}]))]
#[case::empty(json!([]), json!([{"name": SECRET}]))]
#[case::others_stay_in_order(json!([{"name": "b"}, {"name": "a", "x": 1}]), json!([{"name": "b"}, {"name": "a", "x": 1}, {"name": SECRET}]))]
#[case::present(json!([{"name": SECRET}, {"name": "a"}]), json!([{"name": SECRET}, {"name": "a"}]))]
#[case::odd_entries_stay(json!([7, {"name": null}]), json!([7, {"name": null}, {"name": SECRET}]))]
fn the_pull_secret_is_appended_unless_present(#[case] before: Value, #[case] after: Value) {
    let mut object = pod_of(&["nginx"]);
    object["spec"]["imagePullSecrets"] = before;
    let answer = answer(&create(object), &mut Script::new());
    assert_eq!(
        answer.mutated_object.unwrap()["spec"]["imagePullSecrets"],
        after
    );
}

#[test]
fn no_pull_secret_is_added_when_none_is_needed() {
    let mut script = Script::new().reply("pull-secret/shop:latest", secret_not_needed());
    let answer = answer(&create(pod_of(&["nginx"])), &mut script);
    assert!(
        answer.mutated_object.unwrap()["spec"]
            .get("imagePullSecrets")
            .is_none()
    );
}

#[rstest]
#[case::pending(pending(), json!({"whenUnavailable": "reject"}), "has a copy, but no pull Secret for it: copying")]
#[case::down(down(), json!({"whenNotMirrored": "reject"}), "has a copy, but no pull Secret for it: the sidecar does not answer")]
fn without_the_pull_secret_all_images_keep_their_upstream(
    #[case] reply: super::script::Reply,
    #[case] tolerant: Value,
    #[case] words: &str,
) {
    let request = create(pod_of(&["nginx", "redis"]));
    let script = || Script::new().reply("pull-secret/shop:latest", reply.clone());
    let kept = answer_with(&request, &mut script(), tolerant);
    assert!(kept.accepted && kept.mutated_object.is_none());
    assert_eq!(warnings(&kept)[0], format!("image-mirror: nginx {words}"));
    let strict = json!({"whenNotMirrored": "reject", "whenUnavailable": "reject"});
    assert!(!answer_with(&request, &mut script(), strict).accepted);
}

#[test]
fn the_pull_secret_is_asked_for_before_time_runs_out() {
    let request = create(pod_of(&["a", "b", "c", "d"]));
    let mut script = Script::new().costing(Duration::from_millis(300));
    let answer = answer(&request, &mut script);
    assert_eq!(
        script.asked,
        [
            "tag/docker.io/library/a:latest",
            "pull-secret/shop:latest",
            "tag/docker.io/library/b:latest"
        ]
    );
    let object = answer.mutated_object.as_ref().unwrap();
    let images: Vec<_> = (0..4)
        .map(|index| {
            object["spec"]["containers"][index]["image"]
                .as_str()
                .unwrap()
        })
        .collect();
    assert_eq!(
        images,
        [
            "backup.test/acme/docker.io-library-a:latest",
            "backup.test/acme/docker.io-library-b:latest",
            "c",
            "d"
        ]
    );
    assert_eq!(
        warnings(&answer)[0],
        "image-mirror: c is not mirrored: no time left to ask"
    );
}

#[rstest]
#[case::none(None, json!({"backup.test/acme/docker.io-library-b:latest": "b"}))]
#[case::entry_of_a_present_image_stays(
    Some(r#"{"backup.test/acme/docker.io-library-a:1":"a:1"}"#),
    json!({"backup.test/acme/docker.io-library-a:1": "a:1", "backup.test/acme/docker.io-library-b:latest": "b"})
)]
#[case::entry_of_a_gone_image_goes(
    Some(r#"{"backup.test/acme/docker.io-library-old:1":"old:1"}"#),
    json!({"backup.test/acme/docker.io-library-b:latest": "b"})
)]
#[case::garbage_is_replaced(Some("not json"), json!({"backup.test/acme/docker.io-library-b:latest": "b"}))]
#[case::other_json_is_replaced(Some("[1]"), json!({"backup.test/acme/docker.io-library-b:latest": "b"}))]
fn originals_are_noted_and_do_not_pile_up(#[case] before: Option<&str>, #[case] after: Value) {
    let mut object = pod_of(&["backup.test/acme/docker.io-library-a:1", "b"]);
    object["metadata"]["annotations"] = json!({"mine": "stays"});
    if let Some(before) = before {
        object["metadata"]["annotations"]["image-mirror.dev/original-images"] = before.into();
    }
    let answer = answer(&create(object), &mut Script::new());
    let annotations = &answer.mutated_object.unwrap()["metadata"]["annotations"];
    let noted = annotations["image-mirror.dev/original-images"]
        .as_str()
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(noted).unwrap(), after);
    assert_eq!(annotations["mine"], "stays");
}

#[rstest]
#[case::missing(None)]
#[case::null(Some(json!(null)))]
#[case::null_annotations(Some(json!({"annotations": null})))]
fn metadata_is_made_when_it_is_missing(#[case] metadata: Option<Value>) {
    let mut object = pod_of(&["nginx"]);
    match metadata {
        Some(metadata) => object["metadata"] = metadata,
        None => _ = object.as_object_mut().unwrap().remove("metadata"),
    }
    let answer = answer(&create(object), &mut Script::new());
    let object = answer.mutated_object.unwrap();
    assert!(object["metadata"]["annotations"]["image-mirror.dev/original-images"].is_string());
}

#[test]
fn images_that_are_never_pulled_stay() {
    let request = create(pod(json!({
        "containers": [
            {"name": "a", "image": "a", "imagePullPolicy": "Never"},
            {"name": "b", "image": "b", "imagePullPolicy": "Always"}
        ],
        "volumes": [{"name": "v", "image": {"reference": "v", "pullPolicy": "Never"}}, {"name": "e", "emptyDir": {}}]
    })));
    let mut script = Script::new();
    answer(&request, &mut script);
    assert_eq!(
        script.asked,
        ["tag/docker.io/library/b:latest", "pull-secret/shop:latest"]
    );
}
