//! What happens when there is no copy, and what is said about it.

use std::time::Duration;

use mirror_contract::RefusalKind;
use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer, answer_with, create, fixture, pod_of, warnings};
use super::script::{Reply, Script, down, excluded, manifest, pending, refused};

const LONG_DIGEST: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

#[rstest]
#[case::pending(pending(), "is not mirrored yet: copying", false)]
#[case::failed(
    refused(RefusalKind::Failed, "upstream says 404"),
    "is not mirrored: upstream says 404",
    false
)]
#[case::unavailable(
    refused(RefusalKind::Unavailable, "backup is down"),
    "cannot be looked up: backup is down",
    true
)]
#[case::down(down(), "cannot be looked up: the sidecar does not respond", true)]
#[case::no_capability(
    Reply::Error("Host error: Policy has not been granted access to the 'oci/v1/oci_manifest' host capability.".into()),
    "cannot be looked up: the sidecar does not respond",
    true
)]
#[case::other_manifest(Reply::Manifest(manifest::<&str>(&[])), "cannot be looked up: the sidecar sent an invalid response", true)]
#[case::index(Reply::Manifest(r#"{"schemaVersion":2,"manifests":[],"annotations":null}"#.into()), "cannot be looked up: the sidecar sent an invalid response", true)]
#[case::garbage(Reply::Manifest("<html>".into()), "cannot be looked up: the sidecar sent an invalid response", true)]
#[case::empty(
    Reply::Manifest(String::new()),
    "cannot be looked up: the sidecar sent an invalid response",
    true
)]
fn an_image_without_a_copy_is_kept_or_rejected(
    #[case] reply: Reply,
    #[case] words: &str,
    #[case] is_unavailable: bool,
) {
    let request = create(pod_of(&["nginx:1.27"]));
    let evaluate = |settings: Value| {
        answer_with(
            &request,
            &mut Script::new().otherwise(reply.clone()),
            settings,
        )
    };
    let (strict, tolerant) = if is_unavailable {
        (
            json!({"whenUnavailable": "reject"}),
            json!({"whenNotMirrored": "reject"}),
        )
    } else {
        (
            json!({"whenNotMirrored": "reject"}),
            json!({"whenUnavailable": "reject"}),
        )
    };
    for settings in [json!({}), tolerant] {
        let kept = evaluate(settings);
        assert!(kept.accepted && kept.mutated_object.is_none());
        assert_eq!(
            warnings(&kept),
            [format!("image-mirror: nginx:1.27 {words}")]
        );
    }
    let rejected = evaluate(strict);
    assert!(!rejected.accepted && rejected.mutated_object.is_none());
    assert_eq!(
        rejected.message.unwrap(),
        format!("image-mirror: nginx:1.27 {words}")
    );
    assert_eq!(rejected.code, Some(403));
}

#[rstest]
#[case::unparseable(
    "Not/An Image",
    "is not mirrored: a registry in upper case must have a dot or a port"
)]
#[case::ipv6(
    "[::1]:5000/a",
    "is not mirrored: registries with an IPv6 address are not supported; use a host name"
)]
#[case::sha512(&format!("nginx@{LONG_DIGEST}"), "is not mirrored: sha512 digests are not supported")]
fn an_image_that_cannot_be_asked_about_counts_as_not_mirrored(
    #[case] image: &str,
    #[case] words: &str,
) {
    let request = create(pod_of(&[image]));
    let mut script = Script::new();
    let kept = answer(&request, &mut script);
    assert!(kept.accepted && kept.mutated_object.is_none());
    assert_eq!(script.asked, [""; 0]);
    let audit = &kept.audit_annotations.as_ref().unwrap()["not-mirrored"];
    assert!(audit.contains(words), "{audit}");
    let strict = json!({"whenNotMirrored": "reject"});
    assert!(!answer_with(&request, &mut Script::new(), strict).accepted);
}

/// It runs already: whoever labels or scales a workload during an outage must not be stopped.
#[test]
fn an_update_is_not_rejected_for_an_image_that_was_there() {
    let strict = json!({"whenNotMirrored": "reject", "whenUnavailable": "reject"});
    let unchanged = fixture("deployment-update-annotation");
    for reply in [pending(), down()] {
        let mut script = Script::new().otherwise(reply);
        let answer = answer_with(&unchanged, &mut script, strict.clone());
        assert!(answer.accepted && answer.mutated_object.is_none());
        assert!(!warnings(&answer).is_empty());
    }
    let changed = fixture("deployment-update-image");
    let rejected = answer_with(&changed, &mut Script::new().otherwise(pending()), strict);
    assert!(!rejected.accepted);
    let message = rejected.message.unwrap();
    let before = changed["oldObject"].to_string();
    for line in message.trim_start_matches("image-mirror: ").split("; ") {
        let image = line.split(' ').next().unwrap();
        assert!(
            !before.contains(&format!("\"image\":\"{image}\"")),
            "{line}"
        );
    }
}

#[test]
fn a_rejection_names_every_image_and_why() {
    let request = create(pod_of(&["a", "b", "c", "d", "e", "f", "g", "ok"]));
    let mut script = Script::new()
        .reply("tag/docker.io/library/ok:latest", excluded())
        .reply(
            "tag/docker.io/library/d:latest",
            refused(RefusalKind::Failed, "gone"),
        )
        .otherwise(pending());
    let rejected = answer_with(&request, &mut script, json!({"whenNotMirrored": "reject"}));
    assert_eq!(
        rejected.message.unwrap(),
        "image-mirror: a is not mirrored yet: copying; b is not mirrored yet: copying; c is not mirrored yet: copying; \
         d is not mirrored: gone; e is not mirrored yet: copying; f is not mirrored yet: copying; g is not mirrored yet: copying"
    );
    assert_eq!(script.logged[0]["message"], "rejected");
}

#[test]
fn a_sidecar_that_is_down_is_called_once() {
    let request = create(pod_of(&["a", "b", "c"]));
    let mut script = Script::new().otherwise(down());
    let answer = answer(&request, &mut script);
    assert_eq!(script.asked.len(), 1);
    assert_eq!(warnings(&answer).len(), 3);
    let event = &script.logged[0];
    assert_eq!(event["level"], "warning");
    assert!(
        event["hostError"]
            .as_str()
            .unwrap()
            .contains("Connection refused")
    );
}

#[test]
fn a_sidecar_that_says_unavailable_is_asked_about_the_others() {
    let request = create(pod_of(&["a", "b", "c"]));
    let reply = refused(RefusalKind::Unavailable, "backup is down");
    let mut script = Script::new().reply("tag/docker.io/library/a:latest", reply);
    let answer = answer(&request, &mut script);
    assert_eq!(script.asked.len(), 4);
    assert_eq!(warnings(&answer).len(), 1);
}

#[rstest]
#[case(800, 100, 8)]
#[case(800, 500, 2)]
#[case(50, 500, 1)]
#[case(25_000, 500, 20)]
fn time_is_not_exceeded_by_more_than_one_call(
    #[case] budget: u64,
    #[case] cost: u64,
    #[case] calls: usize,
) {
    let names: Vec<_> = (0..20).map(|index| format!("image{index}")).collect();
    let images: Vec<_> = names.iter().map(String::as_str).collect();
    let mut script = Script::new()
        .otherwise(pending())
        .costing(Duration::from_millis(cost));
    let settings = json!({"timeBudgetMs": budget});
    let answer = answer_with(&create(pod_of(&images)), &mut script, settings);
    assert_eq!(script.asked.len(), calls);
    assert!(answer.accepted);
    let audit = &answer.audit_annotations.unwrap()["not-mirrored"];
    assert_eq!(audit.matches("is not mirrored yet: copying").count(), calls);
    assert_eq!(audit.matches("timeBudgetMs is used up").count(), 20 - calls);
}

#[test]
fn warnings_are_few_short_and_on_one_line() {
    let long = format!(
        "registry.example.com/{}/x:1",
        "very-long/".repeat(24).trim_end_matches('/')
    );
    let images = [&long, "a\nb", "c", "d", "e", "f", "g"];
    let reply = refused(RefusalKind::Failed, &"no ".repeat(100));
    let mut script = Script::new().otherwise(reply);
    let answer = answer(&create(pod_of(&images)), &mut script);
    let warnings = warnings(&answer);
    assert_eq!(warnings.len(), 6);
    assert_eq!(warnings[5], "image-mirror: and 2 more");
    for warning in warnings {
        assert!(warning.chars().count() <= 120, "{warning}");
        assert!(!warning.chars().any(char::is_control), "{warning}");
    }
    assert!(
        warnings[0].contains("registry.example.com/"),
        "{}",
        warnings[0]
    );
    let audit = &answer.audit_annotations.unwrap()["not-mirrored"];
    assert!(!audit.chars().any(char::is_control));
}

/// Reasons are foreign: what is behind the sidecar's address may not be the sidecar, and proxies answer in its place.
#[rstest]
#[case::endless("x".repeat(1 << 20))]
#[case::steering_a_terminal("\u{1b}[31m\tred\u{0}".to_owned())]
fn no_reason_floods_or_garbles_what_is_said_about_it(#[case] reason: String) {
    for action in ["keep", "reject"] {
        let error = Reply::Error(format!("image-mirror/pending: {reason}"));
        let settings = json!({ "whenNotMirrored": action });
        let request = create(pod_of(&["nginx"]));
        let mut script = Script::new().otherwise(error);
        let answer = answer_with(&request, &mut script, settings);
        let audit = answer.audit_annotations.clone().unwrap();
        let event = script.logged[0]["notMirrored"].as_str().unwrap();
        let texts = answer.message.iter().chain(audit.values());
        for text in texts.map(String::as_str).chain([event]) {
            assert!(text.len() < 300, "{} bytes", text.len());
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}
