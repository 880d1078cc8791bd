//! Rules: images that are kept, and what is reported about them.

use mirror_contract::{ImageStatus, RefusalKind};
use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer_with, create, first_image, pod_of, warnings};
use super::script::{Reply, SECRET, Script, TAG_DIGEST, manifest, mirrored, pending, refused};

const IMAGES: [&str; 3] = ["nginx:1", "quay.io/acme/app:1", "registry.test/app:1"];

fn questions(script: &Script) -> Vec<&str> {
    let asked = script.asked.iter().map(String::as_str);
    asked
        .filter(|asked| !asked.contains("pull-secret/"))
        .collect()
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
            is_unavailable: false,
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

const ORIGINAL: &str = "quay.io/acme/app:1";
const TARGET: &str = "harbor.test/quay/acme/app:1";
const TEAM_COPY: &str = "teams.test/team-a/quay.io-acme-app:1";
const ANNOTATION: &str = "/metadata/annotations/image-mirror.dev~1original-images";

fn to_target() -> Value {
    json!({"images": ["quay.io/*"], "action": "rewrite", "target": "harbor.test/quay"})
}

fn to_team() -> Value {
    json!({"images": ["quay.io/*"], "action": "mirror", "backup": "team-a"})
}

fn settings(rules: &[Value]) -> Value {
    json!({"rules": rules, "backups": ["backup.test/acme", "teams.test/team-a"]})
}

/// The annotation of a Pod whose only image replaces [`ORIGINAL`].
fn annotated(image: &str) -> String {
    let mut entries = json!({ image: ORIGINAL });
    // Only a copy in a backup has a recorded digest.
    if !image.starts_with("harbor.test/") {
        entries["digests"] = TAG_DIGEST.into();
    }
    entries.to_string()
}

/// A Pod that was rewritten from [`ORIGINAL`].
fn rewritten_pod(image: &str) -> Value {
    let mut pod = pod_of(&[image]);
    pod["metadata"]["annotations"]["image-mirror.dev/original-images"] =
        json!({image: ORIGINAL}).to_string().into();
    pod
}

#[rstest]
#[case::target(to_target(), "target/tag/harbor.test/quay/acme/app:1", TARGET)]
#[case::team(to_team(), "backup/team-a/tag/quay.io/acme/app:1", TEAM_COPY)]
#[case::default_by_name(json!({"action": "mirror", "backup": "default"}), "tag/quay.io/acme/app:1", "backup.test/acme/quay.io-acme-app:1")]
fn images_are_replaced_from_the_place_of_the_rule(
    #[case] rule: Value,
    #[case] asked: &str,
    #[case] image: &str,
) {
    let mut script = Script::new();
    let answer = answer_with(&create(pod_of(&[ORIGINAL])), &mut script, settings(&[rule]));
    assert_eq!(questions(&script), [asked]);
    assert_eq!(first_image(&answer), Some(image));
    let mutated = answer.mutated_object.as_ref().unwrap();
    let annotation = mutated.pointer(ANNOTATION).unwrap().as_str().unwrap();
    assert_eq!(annotation, annotated(image));
    assert_eq!(mutated["spec"]["imagePullSecrets"][0]["name"], SECRET);
    assert_eq!(warnings(&answer), [""; 0]);
    let audit = answer.audit_annotations.unwrap();
    assert_eq!(
        audit["rewritten"],
        format!("{ORIGINAL} -> {image} ({TAG_DIGEST})")
    );
}

#[test]
fn tag_and_digest_stay_and_tags_are_pinned() {
    let digest = TAG_DIGEST.replace(":1", ":2");
    let pinned = format!("{ORIGINAL}@{digest}");
    for (image, pin, expected) in [
        (pinned.as_str(), false, format!("{TARGET}@{digest}")),
        (ORIGINAL, true, format!("{TARGET}@{TAG_DIGEST}")),
    ] {
        let mut settings = settings(&[to_target()]);
        settings["pinDigest"] = pin.into();
        let answer = answer_with(&create(pod_of(&[image])), &mut Script::new(), settings);
        assert_eq!(first_image(&answer), Some(expected.as_str()));
    }
}

/// Of a target without credentials in the sidecar's configuration.
#[test]
fn a_target_that_needs_no_pull_secret_gets_none() {
    let mut script = Script::new().without_hints();
    let request = create(pod_of(&[ORIGINAL]));
    let answer = answer_with(&request, &mut script, settings(&[to_target()]));
    assert_eq!(first_image(&answer), Some(TARGET));
    assert!(answer.mutated_object.unwrap()["spec"]["imagePullSecrets"].is_null());
    assert_eq!(script.asked, ["target/tag/harbor.test/quay/acme/app:1"]);
}

#[rstest]
#[case::pending(
    pending(),
    "quay.io/acme/app:1 is not mirrored yet: copying (rules[0])",
    "whenNotMirrored"
)]
#[case::failed(
    refused(RefusalKind::Failed, "harbor.test has no such image"),
    "quay.io/acme/app:1 is not mirrored: harbor.test has no such image (rules[0])",
    "whenNotMirrored"
)]
#[case::unavailable(
    refused(RefusalKind::Unavailable, "busy"),
    "quay.io/acme/app:1 cannot be looked up: busy (rules[0])",
    "whenUnavailable"
)]
#[case::another_image(
    mirrored("harbor.test/quay/acme/other:1", TAG_DIGEST),
    "quay.io/acme/app:1 cannot be looked up: the sidecar sent an invalid response",
    "whenUnavailable"
)]
#[case::in_backup(Reply::Manifest(manifest(&ImageStatus::InBackup { secret: None, is_former: false, is_unavailable: false }.annotations())), "quay.io/acme/app:1 cannot be looked up: the sidecar sent an invalid response", "whenUnavailable")]
fn the_original_is_kept_unless_the_target_has_the_image(
    #[case] reply: Reply,
    #[case] warning: &str,
    #[case] setting: &str,
) {
    for fallback in ["keep", "reject"] {
        let mut script =
            Script::new().reply("target/tag/harbor.test/quay/acme/app:1", reply.clone());
        let mut settings = settings(&[to_target()]);
        settings[setting] = fallback.into();
        let answer = answer_with(&create(pod_of(&[ORIGINAL])), &mut script, settings);
        assert!(answer.mutated_object.is_none());
        if fallback == "reject" {
            assert!(!answer.accepted);
            assert_eq!(answer.message.unwrap(), format!("image-mirror: {warning}"));
        } else {
            assert!(answer.accepted);
            assert_eq!(warnings(&answer), [format!("image-mirror: {warning}")]);
        }
    }
}

#[test]
fn a_name_that_is_too_long_for_the_target_is_a_warning() {
    let image = format!("quay.io/{}:1", "a".repeat(250));
    let mut script = Script::new();
    let answer = answer_with(
        &create(pod_of(&[&image])),
        &mut script,
        settings(&[to_target()]),
    );
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert_eq!((questions(&script).len(), warnings(&answer).len()), (0, 1));
}

/// Without the annotation as well, nothing of a target is copied or rewritten again.
#[test]
fn images_in_a_target_are_kept() {
    let rules = [to_target(), json!({"action": "mirror"})];
    let mut script = Script::new();
    let answer = answer_with(&create(pod_of(&[TARGET])), &mut script, settings(&rules));
    assert!(answer.mutated_object.is_none());
    assert_eq!(script.asked, [""; 0]);
    let audit = answer.audit_annotations.unwrap();
    assert_eq!(audit["kept"], format!("{TARGET} (rules[0].target)"));
}

#[test]
fn rewritten_images_stay_and_their_pods_get_the_pull_secret() {
    let request = create(rewritten_pod(TARGET));
    for (reply, secret) in [
        (
            Script::new().mirrored("target/tag/harbor.test/quay/acme/app:1"),
            Some(SECRET),
        ),
        (mirrored(TARGET, TAG_DIGEST), None),
    ] {
        let mut script = Script::new().reply("target/tag/harbor.test/quay/acme/app:1", reply);
        let answer = answer_with(&request, &mut script, settings(&[to_target()]));
        assert_eq!(
            questions(&script),
            ["target/tag/harbor.test/quay/acme/app:1"]
        );
        let secrets = answer
            .mutated_object
            .as_ref()
            .map(|pod| &pod["spec"]["imagePullSecrets"]);
        assert_eq!(secrets.and_then(|list| list[0]["name"].as_str()), secret);
        let image = first_image(&answer).unwrap_or(TARGET);
        assert_eq!((image, warnings(&answer)), (TARGET, &[][..]));
    }
}

/// Its name is possible for a copy with the naming `nested`, in a backup of another installation.
#[test]
fn a_target_named_like_the_registry_is_no_other_installation() {
    let rule =
        json!({"images": ["quay.io/*"], "action": "rewrite", "target": "harbor.test/quay.io"});
    let mut script = Script::new();
    let pod = rewritten_pod("harbor.test/quay.io/acme/app:1");
    answer_with(&create(pod), &mut script, settings(&[rule]));
    assert_eq!(
        questions(&script),
        ["target/tag/harbor.test/quay.io/acme/app:1"]
    );
}

/// A new Pod is replaced anyway, so it follows the rules.
#[rstest]
#[case::backup("backup.test/acme/quay.io-acme-app:1", to_team(), TEAM_COPY)]
#[case::backup_to_target(TEAM_COPY, to_target(), TARGET)]
#[case::default_to_target("backup.test/acme/quay.io-acme-app:1", to_target(), TARGET)]
fn new_pods_follow_a_changed_rule(#[case] old: &str, #[case] rule: Value, #[case] new: &str) {
    let request = create(rewritten_pod(old));
    let answer = answer_with(&request, &mut Script::new(), settings(&[rule]));
    assert_eq!(first_image(&answer), Some(new));
    let mutated = answer.mutated_object.as_ref().unwrap();
    let annotation = mutated.pointer(ANNOTATION).unwrap().as_str().unwrap();
    assert_eq!(annotation, annotated(new));
}

#[test]
fn a_rewritten_image_follows_a_rule_that_mirrors_it() {
    let narrow =
        json!({"images": ["quay.io/other/*"], "action": "rewrite", "target": "harbor.test/quay"});
    let request = create(rewritten_pod(TARGET));
    let answer = answer_with(&request, &mut Script::new(), settings(&[narrow, to_team()]));
    assert_eq!(first_image(&answer), Some(TEAM_COPY));
}

/// Anybody can annotate an image as one that a rule for another namespace puts there.
#[rstest]
#[case::mirrored(None)]
#[case::kept(Some(json!({"action": "keep"})))]
#[case::another_target(Some(
    json!({"images": ["quay.io/*"], "action": "rewrite", "target": "harbor.test/other"})
))]
fn an_image_in_the_target_of_another_namespace_is_not_requested(#[case] rule: Option<Value>) {
    let mut other = to_target();
    other["namespaces"] = json!(["other"]);
    let rules: Vec<_> = [other].into_iter().chain(rule).collect();
    let mut script = Script::new().otherwise(pending());
    let answer = answer_with(
        &create(rewritten_pod(TARGET)),
        &mut script,
        settings(&rules),
    );
    assert_eq!(first_image(&answer).unwrap_or(TARGET), TARGET);
    assert_eq!(warnings(&answer), [""; 0]);
    let asked = questions(&script);
    assert!(
        !asked.iter().any(|asked| asked.contains(TARGET)),
        "{asked:?}"
    );
}

#[test]
fn a_copy_of_another_backup_stays_while_there_is_no_copy_in_the_new_one() {
    for rule in [to_team(), to_target()] {
        let copy = "backup.test/acme/quay.io-acme-app:1";
        let mut script = Script::new()
            .reply("backup/team-a/tag/quay.io/acme/app:1", pending())
            .reply("target/tag/harbor.test/quay/acme/app:1", pending());
        let answer = answer_with(&create(rewritten_pod(copy)), &mut script, settings(&[rule]));
        assert_eq!(first_image(&answer).unwrap_or(copy), copy);
        assert_eq!(warnings(&answer), [""; 0]);
    }
}

#[test]
fn annotated_targets_are_used_during_an_outage() {
    let mut request = create(pod_of(&[ORIGINAL]));
    request["operation"] = "UPDATE".into();
    for (annotated, image) in [
        (TARGET, Some(TARGET)),
        ("harbor.test/other/acme/app:1", None),
    ] {
        request["oldObject"] = rewritten_pod(annotated);
        let mut script = Script::new().otherwise(super::script::down());
        let answer = answer_with(&request, &mut script, settings(&[to_target()]));
        assert_eq!(first_image(&answer), image);
    }
}
