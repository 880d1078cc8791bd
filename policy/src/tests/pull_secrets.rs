//! The pull Secret: when it is asked for, when it joins the list, and when the list is left to the `ServiceAccount`.

use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer, answer_with, create, pod_of, warnings};
use super::script::{Reply, SECRET, Script, down, excluded, pending, secret_not_needed};

const NGINX: &str = "backup.test/acme/docker.io-library-nginx:latest";
const APP: &str = "tag/private.example/app:1";
const ORIGINALS: &str = "image-mirror.dev/original-images";

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
    #[case] reply: Reply,
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

/// Without the name in the answers about images, the Secret has to be asked for.
#[rstest]
#[case::listed_and_named(true, json!([{"name": SECRET}]), false)]
#[case::listed_and_not_named(false, json!([{"name": SECRET}]), true)]
#[case::another_listed(true, json!([{"name": "other"}]), true)]
#[case::none_listed(true, json!(null), true)]
fn a_secret_that_is_listed_is_not_asked_for(
    #[case] named: bool,
    #[case] listed: Value,
    #[case] is_asked: bool,
) {
    let mut object = pod_of(&["nginx", "redis"]);
    object["spec"]["imagePullSecrets"] = listed;
    let mut script = Script::new();
    if !named {
        script = script.without_hints();
    }
    let answer = answer(&create(object), &mut script);
    assert_eq!(
        answer.mutated_object.unwrap()["spec"]["containers"][0]["image"],
        NGINX
    );
    let questions = script.asked.iter();
    let secrets = questions.filter(|question| question.starts_with("pull-secret/"));
    assert_eq!(secrets.count(), usize::from(is_asked));
}

/// For example one that was made of a template that left the Secret to it.
#[test]
fn a_pod_that_uses_the_backup_gets_the_secret() {
    let request = create(pod_of(&[NGINX]));
    let mut script = Script::new();
    let answer = answer(&request, &mut script);
    let object = answer.mutated_object.unwrap();
    assert_eq!(
        object["spec"]["imagePullSecrets"],
        json!([{"name": SECRET}])
    );
    assert_eq!(object["metadata"], request["object"]["metadata"]);
    let audit = answer.audit_annotations.unwrap();
    assert_eq!(audit["pull-secret"], format!("{SECRET} added"));
    assert_eq!(script.logged[0]["message"], "pull Secret changed");
    // Nothing is known about the Secret: then it is none of the policy's business.
    let mut script = Script::new().without_hints();
    assert!(
        super::fixtures::answer(&request, &mut script)
            .mutated_object
            .is_none()
    );
    assert_eq!(script.asked.len(), 1);
    // It cannot be had: the image was not the policy's idea.
    let mut script = Script::new().reply("pull-secret/shop:latest", down());
    let strict = json!({"whenNotMirrored": "reject", "whenUnavailable": "reject"});
    let answer = answer_with(&request, &mut script, strict);
    assert!(answer.accepted && answer.mutated_object.is_none() && answer.warnings.is_none());
}

/// A Deployment with these images, these pull Secrets and this note about originals.
fn deployment(images: &[&str], secrets: Value, originals: Option<Value>) -> Value {
    let mut spec = pod_of(images)["spec"].take();
    spec["imagePullSecrets"] = secrets;
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "annotations": {"mine": "stays"}},
        "spec": {"template": {"metadata": {}, "spec": spec}},
    });
    if let Some(originals) = originals {
        object["metadata"]["annotations"][ORIGINALS] = originals.to_string().into();
    }
    object
}

/// Pods get the pull Secrets of their `ServiceAccount` only if they list none, and the private image may need those.
#[rstest]
#[case::pending(pending(), 1)]
#[case::never(excluded(), 0)]
fn a_template_with_an_image_that_stays_leaves_the_secrets_to_the_pods(
    #[case] reply: Reply,
    #[case] warned: usize,
    #[values(json!(null), json!([]))] secrets: Value,
) {
    let request = create(deployment(
        &["nginx", "private.example/app:1"],
        secrets,
        None,
    ));
    let mut script = Script::new().reply(APP, reply.clone());
    let answer = answer(&request, &mut script);
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert_eq!(warnings(&answer).len(), warned);
    let audit = answer.audit_annotations.unwrap();
    assert!(audit["left-to-pods"].starts_with(&format!("nginx -> {NGINX} (sha256:")));
    assert!(!audit.contains_key("rewritten"));

    // The Pod comes with what the ServiceAccount has.
    let mut pod = pod_of(&["nginx", "private.example/app:1"]);
    pod["spec"]["imagePullSecrets"] = json!([{"name": "of-the-account"}]);
    let mut script = Script::new().reply(APP, reply);
    let answer = super::fixtures::answer(&create(pod), &mut script);
    let spec = answer.mutated_object.unwrap()["spec"].take();
    assert_eq!(spec["containers"][0]["image"], NGINX);
    assert_eq!(spec["containers"][1]["image"], "private.example/app:1");
    assert_eq!(
        spec["imagePullSecrets"],
        json!([{"name": "of-the-account"}, {"name": SECRET}])
    );
}

/// So that it can be taken back.
#[test]
fn the_secret_of_a_template_is_noted() {
    let request = create(deployment(&["nginx"], json!(null), None));
    let object = answer(&request, &mut Script::new()).mutated_object.unwrap();
    let note = object["metadata"]["annotations"][ORIGINALS]
        .as_str()
        .unwrap();
    let note: Value = serde_json::from_str(note).unwrap();
    assert_eq!(note, json!({NGINX: "nginx", "imagePullSecret": SECRET}));
}

#[rstest]
#[case::with_secrets_of_its_own(Script::new(), json!([{"name": "mine"}]), json!([{"name": "mine"}, {"name": SECRET}]))]
#[case::without_need(
    Script::new().without_hints().reply("pull-secret/shop:latest", secret_not_needed()),
    json!([]),
    json!([])
)]
fn a_template_is_rewritten_in_part_where_that_takes_nothing_away(
    #[case] script: Script,
    #[case] secrets: Value,
    #[case] after: Value,
) {
    let mut script = script.reply(APP, pending());
    let request = create(deployment(
        &["nginx", "private.example/app:1"],
        secrets,
        None,
    ));
    let object = answer(&request, &mut script).mutated_object.unwrap();
    let spec = &object["spec"]["template"]["spec"];
    assert_eq!(spec["containers"][0]["image"], NGINX);
    assert_eq!(spec["imagePullSecrets"], after);
}

/// The new image of a template that was rewritten before.
mod a_new_image_that_stays {
    use super::*;

    fn update(before: &[&str], after: &[&str], originals: Option<Value>) -> Value {
        let secrets = json!([{ "name": SECRET }]);
        let mut request = create(deployment(after, secrets.clone(), originals.clone()));
        request["operation"] = "UPDATE".into();
        request["oldObject"] = deployment(before, secrets, originals);
        request
    }

    fn note() -> Value {
        json!({NGINX: "nginx", "backup.test/acme/old:1": "old:1", "imagePullSecret": SECRET})
    }

    #[test]
    fn takes_the_secret_out_of_the_template() {
        let request = update(
            &[NGINX, "backup.test/acme/old:1", "redis"],
            &[NGINX, "private.example/app:1", "redis"],
            Some(note()),
        );
        let mut script = Script::new().reply(APP, pending());
        let answer = answer(&request, &mut script);
        let object = answer.mutated_object.unwrap();
        let spec = &object["spec"]["template"]["spec"];
        assert!(spec.get("imagePullSecrets").is_none());
        assert_eq!(
            spec["containers"],
            request["object"]["spec"]["template"]["spec"]["containers"]
        );
        assert_eq!(
            object["metadata"]["annotations"],
            json!({"mine": "stays", ORIGINALS: json!({NGINX: "nginx"}).to_string()})
        );
        let audit = answer.audit_annotations.unwrap();
        assert_eq!(audit["pull-secret"], "left to the Pods");
        assert!(audit["left-to-pods"].starts_with("redis -> "));
        // And that is how it stays.
        let mut script = Script::new().reply(APP, pending());
        assert!(
            super::answer(&create(object), &mut script)
                .mutated_object
                .is_none()
        );
    }

    #[test]
    fn takes_the_note_away_with_the_last_copy() {
        let old = "backup.test/acme/old:1";
        let request = update(
            &[old],
            &["private.example/app:1"],
            Some(json!({old: "old:1", "imagePullSecret": SECRET})),
        );
        let mut script = Script::new().reply(APP, pending());
        let object = answer(&request, &mut script).mutated_object.unwrap();
        assert_eq!(object["metadata"]["annotations"], json!({"mine": "stays"}));
        assert_eq!(script.asked, [APP]);
    }

    #[rstest]
    #[case::that_it_was_there_with(&["private.example/app:1"], Some(note()))]
    #[case::that_the_policy_did_not_give(&["old:1"], None)]
    #[case::that_was_there_before_the_policy(&["old:1"], Some(json!({NGINX: "nginx"})))]
    fn leaves_the_secret(#[case] before: &[&str], #[case] note: Option<Value>) {
        let request = update(before, &["private.example/app:1"], note);
        let mut script = Script::new().otherwise(pending());
        assert!(answer(&request, &mut script).mutated_object.is_none());
    }

    /// The sidecar need not be there to say which Secret it was.
    #[test]
    fn takes_it_out_even_during_an_outage() {
        let request = update(&["old:1"], &["private.example/app:1"], Some(note()));
        let mut script = Script::new().otherwise(down());
        assert!(answer(&request, &mut script).mutated_object.is_some());
    }

    #[test]
    fn leaves_secrets_of_others() {
        for secrets in [
            json!([{"name": "mine"}]),
            json!([{"name": "mine"}, {"name": SECRET}]),
        ] {
            let mut request = update(&["old:1"], &["private.example/app:1"], Some(note()));
            request["object"]["spec"]["template"]["spec"]["imagePullSecrets"] = secrets;
            let mut script = Script::new().reply(APP, pending());
            assert!(answer(&request, &mut script).mutated_object.is_none());
        }
    }
}
