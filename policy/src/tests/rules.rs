//! Rules: images that are kept, and what is reported about them.

use mirror_contract::ImageStatus;
use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer_with, create, pod_of, warnings};
use super::script::{Reply, Script, manifest, pending};

const IMAGES: [&str; 3] = ["nginx:1", "quay.io/acme/app:1", "registry.test/app:1"];

fn questions(script: &Script) -> Vec<&str> {
    let asked = script.asked.iter().map(String::as_str);
    asked.filter(|asked| asked.starts_with("tag/")).collect()
}

#[rstest]
#[case::none(json!([]), &["docker.io/library/nginx:1", "quay.io/acme/app:1", "registry.test/app:1"], "")]
#[case::one_registry(
    json!([{"images": ["registry.test/*"], "action": "keep"}]),
    &["docker.io/library/nginx:1", "quay.io/acme/app:1"],
    "registry.test/app:1 (rules[0])"
)]
#[case::only_some(
    json!([{"images": ["docker.io/*"], "action": "mirror"}, {"action": "keep"}]),
    &["docker.io/library/nginx:1"],
    "quay.io/acme/app:1 (rules[1]); registry.test/app:1 (rules[1])"
)]
#[case::first_match(
    json!([{"images": ["quay.io/acme/app"], "action": "mirror"}, {"images": ["quay.io/*", "docker.io/*"], "action": "keep"}]),
    &["quay.io/acme/app:1", "registry.test/app:1"],
    "nginx:1 (rules[1])"
)]
#[case::namespace(
    json!([{"namespaces": ["other"], "action": "keep"}, {"namespaces": ["sh*"], "images": ["docker.io/*"], "action": "keep"}]),
    &["quay.io/acme/app:1", "registry.test/app:1"],
    "nginx:1 (rules[1])"
)]
#[case::everything(
    json!([{"namespaces": ["shop"], "action": "keep"}]),
    &[],
    "nginx:1 (rules[0]); quay.io/acme/app:1 (rules[0]); registry.test/app:1 (rules[0])"
)]
fn the_first_rule_decides(#[case] rules: Value, #[case] asked: &[&str], #[case] kept: &str) {
    let mut script = Script::new();
    let answer = answer_with(
        &create(pod_of(&IMAGES)),
        &mut script,
        json!({ "rules": rules }),
    );
    let asked: Vec<_> = asked.iter().map(|image| format!("tag/{image}")).collect();
    assert_eq!(questions(&script), asked);
    assert_eq!(answer.mutated_object.is_some(), !asked.is_empty());
    assert_eq!(warnings(&answer), [""; 0]);
    let audit = answer.audit_annotations.unwrap_or_default();
    assert_eq!(audit.get("kept").map_or("", String::as_str), kept);
}

#[test]
fn kept_images_make_no_request_at_all() {
    let settings = json!({"rules": [{"action": "keep"}], "whenNotMirrored": "reject", "whenUnavailable": "reject"});
    let mut script = Script::new().otherwise(pending());
    let answer = answer_with(&create(pod_of(&IMAGES)), &mut script, settings);
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert_eq!(script.asked, [""; 0]);
}

#[test]
fn the_older_settings_are_named_as_well() {
    for (images, kept) in [
        (
            json!({"exclude": ["docker.io/*"]}),
            "nginx:1 (images.exclude)",
        ),
        (
            json!({"include": ["docker.io/*", "quay.io/*"]}),
            "registry.test/app:1 (images.include)",
        ),
    ] {
        let settings = json!({ "images": images });
        let answer = answer_with(&create(pod_of(&IMAGES)), &mut Script::new(), settings);
        assert_eq!(answer.audit_annotations.unwrap()["kept"], kept);
    }
}

/// A request about the original could start a copy of it.
#[test]
fn a_copy_in_use_stays_and_its_kept_original_is_not_requested() {
    let copy = "backup.test/acme/docker.io-library-nginx:1";
    let mut object = pod_of(&[copy]);
    object["metadata"]["annotations"]["image-mirror.dev/original-images"] =
        json!({copy: "nginx:1"}).to_string().into();
    for (action, is_requested) in [("keep", false), ("mirror", true)] {
        let former = ImageStatus::InBackup {
            secret: None,
            is_former: true,
        };
        let former = Reply::Manifest(manifest(&former.annotations()));
        let mut script = Script::new().reply(&format!("tag/{copy}"), former);
        let settings = json!({"rules": [{"images": ["docker.io/*"], "action": action}]});
        let answer = answer_with(&create(object.clone()), &mut script, settings);
        assert!(answer.mutated_object.is_none());
        let questions = questions(&script);
        assert!(questions[0].ends_with(copy));
        assert_eq!(questions.len() == 2, is_requested, "{questions:?}");
    }
}
