//! How a copy is written, which images are asked about, and what is noted.

use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer, answer_with, changes, create, first_image, pod, pod_of, warnings};
use super::script::{SECRET, Script, TAG_DIGEST, excluded, mirrored, pending};

const DIGEST: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
const PINNED: &str =
    "nginx:1.27@sha256:2222222222222222222222222222222222222222222222222222222222222222";
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
    let mut object = pod_of(&[&format!("{NGINX}:1.27")]);
    object["spec"]["imagePullSecrets"] = json!([{ "name": SECRET }]);
    let request = create(object);
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
            r#"add /metadata/annotations {"image-mirror.dev/original-images":"{\"backup.test/acme/docker.io-library-b:latest\":\"b\",\"digests\":\"sha256:1111111111111111111111111111111111111111111111111111111111111111\"}"}"#,
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
    assert!(warnings(&kept)[0].ends_with("the sidecar sent an invalid response"));
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
fn originals_are_noted_and_do_not_pile_up(#[case] before: Option<&str>, #[case] mut after: Value) {
    let has_other = after.as_object().unwrap().len() == 2;
    after["digests"] = format!("{}{TAG_DIGEST}", if has_other { "," } else { "" }).into();
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

#[rstest]
#[case::name("docker.io/library/nginx", "nginx:1.27", true)]
#[case::name_of_a_pinned_image("docker.io/library/nginx", PINNED, true)]
#[case::not_a_part_of_it("docker.io/library/ngin", "nginx:1.27", false)]
#[case::tag("docker.io/library/nginx:1.27", "nginx:1.27", true)]
#[case::tag_of_a_pinned_image("docker.io/library/nginx:1.27", PINNED, true)]
#[case::digest(
    "docker.io/library/nginx:1.27@sha256:2222222222222222222222222222222222222222222222222222222222222222",
    PINNED,
    true
)]
#[case::another_tag("docker.io/library/nginx:1.27", "nginx:1.28", false)]
#[case::registry("docker.io/*", "nginx", true)]
#[case::another_registry("docker.io/*", "quay.io/nginx", false)]
#[case::slashes_count("ghcr.io/acme/*", "ghcr.io/acme/a/b:1", true)]
#[case::latest("*:latest", "nginx", true)]
#[case::not_latest("*:latest", "nginx:1", false)]
#[case::port("localhost:5000/*", "localhost:5000/a", true)]
#[case::several("*.io/*/app:*", "quay.io/team/app:1", true)]
#[case::parts_do_not_overlap("docker.io/library/nginx*nginx", "nginx", false)]
#[case::parts_in_order("*/a*b*", "quay.io/b/a:1", false)]
#[case::everything("*", "nginx", true)]
fn images_are_picked_by_patterns(
    #[case] pattern: &str,
    #[case] image: &str,
    #[case] is_picked: bool,
) {
    let request = create(pod_of(&[image]));
    let asked = |images: Value| {
        let mut script = Script::new();
        let answer = answer_with(&request, &mut script, json!({ "images": images }));
        assert_eq!(warnings(&answer), [""; 0]);
        assert_eq!(answer.mutated_object.is_some(), !script.asked.is_empty());
        !script.asked.is_empty()
    };
    assert_eq!(asked(json!({"include": [pattern]})), is_picked);
    assert_eq!(asked(json!({"exclude": [pattern]})), !is_picked);
    assert!(!asked(json!({"include": [pattern], "exclude": [pattern]})));
    assert_eq!(
        asked(json!({"include": ["never.example/x", pattern], "exclude": ["never.example/x"]})),
        is_picked
    );
}

/// A reject setting is about images that should be mirrored.
#[test]
fn an_image_that_is_not_wanted_is_no_reason_to_reject() {
    let request = create(pod_of(&["nginx"]));
    let settings = json!({"images": {"exclude": ["docker.io/*"]}, "whenNotMirrored": "reject", "whenUnavailable": "reject"});
    let answer = answer_with(&request, &mut Script::new().otherwise(pending()), settings);
    assert!(answer.accepted && answer.mutated_object.is_none());
}
