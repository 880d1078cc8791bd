//! The pull Secret: when it is asked for, when it joins the list, and when the list is left to the `ServiceAccount`.

use std::time::Duration;

use mirror_contract::RefusalKind;
use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer, answer_with, create, pod_of, warnings};
use super::script::{
    Reply, SECRET, Script, TAG_DIGEST, down, excluded, mirrored, pending, refused,
    secret_not_needed,
};

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
#[case::down(down(), json!({"whenNotMirrored": "reject"}), "has a copy, but no pull Secret for it: the sidecar does not respond")]
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
        "image-mirror: c cannot be looked up: timeBudgetMs is used up"
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

/// The images of the containers of a pod spec.
fn images(spec: &Value) -> Vec<&str> {
    let containers = spec["containers"].as_array().unwrap().iter();
    containers
        .map(|container| container["image"].as_str().unwrap())
        .collect()
}

/// A Deployment with these images, these pull Secrets and this note about originals.
fn deployment(images: &[&str], secrets: Value, originals: Option<Value>) -> Value {
    let mut spec = pod_of(images)["spec"].take();
    spec["imagePullSecrets"] = secrets;
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {"metadata": {"annotations": {"mine": "stays"}}, "spec": spec}},
    });
    if let Some(originals) = originals {
        object["spec"]["template"]["metadata"]["annotations"][ORIGINALS] =
            originals.to_string().into();
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

/// The annotation of a template with one copy.
fn noted(copy: &str, original: &str) -> Value {
    json!({ copy: original, "digests": TAG_DIGEST, "imagePullSecret": SECRET })
}

/// So that it can be taken back.
#[test]
fn the_secret_of_a_template_is_noted() {
    let request = create(deployment(&["nginx"], json!(null), None));
    let object = answer(&request, &mut Script::new()).mutated_object.unwrap();
    let note = object["spec"]["template"]["metadata"]["annotations"][ORIGINALS]
        .as_str()
        .unwrap();
    let note: Value = serde_json::from_str(note).unwrap();
    assert_eq!(note, noted(NGINX, "nginx"));
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

    /// It would miss those of the `ServiceAccount`. Pods of the template get the Secret as well.
    #[test]
    fn takes_the_secret_out_and_leaves_the_copies() {
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
        assert_eq!(images(spec), [NGINX, "private.example/app:1", "redis"]);
        let annotations = &object["spec"]["template"]["metadata"]["annotations"];
        let note: Value = serde_json::from_str(annotations[ORIGINALS].as_str().unwrap()).unwrap();
        assert_eq!(note, json!({NGINX: "nginx", "imagePullSecret": SECRET}));
        let audit = answer.audit_annotations.unwrap();
        assert_eq!(audit["pull-secret"], format!("{SECRET} removed"));
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
    fn takes_the_note_away_with_the_secret() {
        let old = "backup.test/acme/old:1";
        let request = update(
            &[old],
            &["private.example/app:1"],
            Some(json!({old: "old:1", "imagePullSecret": SECRET})),
        );
        let mut script = Script::new().reply(APP, pending());
        let object = answer(&request, &mut script).mutated_object.unwrap();
        assert_eq!(
            object["spec"]["template"]["metadata"]["annotations"],
            json!({"mine": "stays"})
        );
        assert_eq!(script.asked, [APP]);
    }

    #[rstest]
    #[case::of_a_template_that_stays_as_it_is(&["private.example/app:1"], Some(note()))]
    #[case::that_the_policy_did_not_give(&["old:1"], None)]
    #[case::that_was_there_before_the_policy(&["old:1"], Some(json!({NGINX: "nginx"})))]
    fn leaves_the_secret(#[case] before: &[&str], #[case] note: Option<Value>) {
        let request = update(before, &["private.example/app:1"], note);
        let mut script = Script::new().otherwise(pending());
        assert!(answer(&request, &mut script).mutated_object.is_none());
    }

    /// That no copy is known of is no reason to go back to upstream.
    #[test]
    fn leaves_everything_during_an_outage() {
        let request = update(
            &[NGINX, "old:1"],
            &[NGINX, "private.example/app:1"],
            Some(note()),
        );
        let mut script = Script::new().otherwise(down());
        let answer = answer(&request, &mut script);
        assert!(answer.mutated_object.is_none());
        assert_eq!(
            warnings(&answer),
            [
                "image-mirror: backup.test/acme/docker.io-library-nginx:latest is annotated as a copy: the sidecar does not respond",
                "image-mirror: private.example/app:1 cannot be looked up: the sidecar does not respond"
            ]
        );
    }

    #[test]
    fn counts_when_the_user_shortens_the_list() {
        let mut request = update(
            &["p:1", NGINX],
            &["private.example/app:1", NGINX],
            Some(note()),
        );
        request["oldObject"] = request["object"].clone();
        let secrets = json!([{"name": "mine"}, {"name": SECRET}]);
        request["oldObject"]["spec"]["template"]["spec"]["imagePullSecrets"] = secrets;
        let mut script = Script::new().reply(APP, pending());
        let object = answer(&request, &mut script).mutated_object.unwrap();
        let spec = &object["spec"]["template"]["spec"];
        assert!(spec.get("imagePullSecrets").is_none());
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

/// What was admitted before is admitted again, whether or not the sidecar answers.
mod during_an_outage {
    use super::*;

    const NEW: &str = "backup.test/acme/docker.io-library-nginx:1.28";

    /// The Deployment of `images` as it is stored after the policy saw it.
    fn stored(images: &[&str]) -> Value {
        let request = create(deployment(images, json!(null), None));
        answer(&request, &mut Script::new()).mutated_object.unwrap()
    }

    fn update(before: &Value, after: &Value) -> Value {
        let mut request = create(after.clone());
        request["operation"] = "UPDATE".into();
        request["oldObject"] = before.clone();
        request
    }

    fn script(reply: &Reply, cost: u64) -> Script {
        let script = Script::new().otherwise(reply.clone());
        script.costing(Duration::from_millis(cost))
    }

    #[rstest]
    #[case::down(down(), 0)]
    #[case::unavailable(refused(RefusalKind::Unavailable, "backup is down"), 0)]
    #[case::nonsense(Reply::Manifest("{}".into()), 0)]
    #[case::no_time(excluded(), 5_000)]
    fn a_manifest_is_applied_again(
        #[case] reply: Reply,
        #[case] cost: u64,
        #[values("keep", "reject")] otherwise: &str,
        // Who applies the whole object also drops the list.
        #[values(true, false)] is_replaced: bool,
    ) {
        let images = ["nginx", "redis:7", "nginx"];
        let before = stored(&images);
        let mut after = before.clone();
        let spec = &mut after["spec"]["template"]["spec"];
        for (index, image) in images.into_iter().enumerate() {
            spec["containers"][index]["image"] = image.into();
        }
        if is_replaced {
            after = deployment(&images, json!(null), None);
        }
        let settings = json!({"whenUnavailable": otherwise, "whenNotMirrored": otherwise});
        let mut script = script(&reply, cost);
        // One answer too many for the budget.
        if cost > 0 {
            script = Script::new()
                .reply("tag/docker.io/library/nginx:latest", down())
                .costing(Duration::from_millis(cost));
        }
        let answer = answer_with(&update(&before, &after), &mut script, settings);
        assert!(answer.accepted, "{:?}", answer.message);
        let object = answer.mutated_object.as_ref().unwrap();
        assert_eq!(object["spec"], before["spec"]);
        let annotated = &answer.audit_annotations.as_ref().unwrap()["from-annotation"];
        assert!(
            annotated.starts_with(&format!("nginx -> {NGINX}: ")),
            "{annotated}"
        );
        assert!(warnings(&answer)[0].starts_with("image-mirror: nginx uses the annotated copy: "));
    }

    /// Whether the backup needs no Secret, or the user lists it, or somebody else has the Secret's place.
    #[rstest]
    #[case::none_needed(Script::new().without_hints().reply("pull-secret/shop:latest", secret_not_needed()), json!(null))]
    #[case::listed_by_the_user(Script::new(), json!([{"name": SECRET}]))]
    #[case::next_to_another(Script::new(), json!([{"name": "mine"}]))]
    fn a_manifest_is_applied_again_whatever_its_secrets(
        #[case] script: Script,
        #[case] secrets: Value,
    ) {
        let mut script = script;
        let manifest = deployment(&["nginx", "redis"], secrets, None);
        let before = answer(&create(manifest.clone()), &mut script)
            .mutated_object
            .unwrap();
        let strict = json!({"whenUnavailable": "reject", "whenNotMirrored": "reject"});
        let answer = answer_with(
            &update(&before, &manifest),
            &mut super::during_an_outage::script(&down(), 0),
            strict,
        );
        let object = answer.mutated_object.unwrap();
        assert_eq!(
            object["spec"]["template"]["spec"],
            before["spec"]["template"]["spec"]
        );
    }

    #[rstest]
    #[case::spelled_otherwise(&["docker.io/library/nginx:latest", "index.docker.io/redis:7"])]
    #[case::in_another_order(&["redis:7", "nginx"])]
    #[case::and_once_more(&["nginx", "redis:7", "nginx"])]
    fn it_is_the_image_that_is_remembered_not_its_place(#[case] images: &[&str]) {
        let before = stored(&["nginx", "redis:7"]);
        let after = deployment(images, json!(null), None);
        let strict = json!({"whenUnavailable": "reject"});
        let answer = answer_with(&update(&before, &after), &mut script(&down(), 0), strict);
        let object = answer.mutated_object.unwrap();
        let spec = &object["spec"]["template"]["spec"];
        assert!(
            super::images(spec)
                .iter()
                .all(|image| image.starts_with("backup.test/"))
        );
        assert_eq!(spec["imagePullSecrets"], json!([{"name": SECRET}]));
    }

    #[test]
    fn a_new_image_does_not_send_the_others_upstream() {
        let before = stored(&["nginx"]);
        let mut after = before.clone();
        let images = ["nginx", "not an image", "quay.io/excluded:1", "redis"];
        after["spec"]["template"]["spec"]["containers"] =
            pod_of(&images)["spec"]["containers"].take();
        let settings = json!({"images": {"exclude": ["quay.io/*"]}});
        let answer = answer_with(&update(&before, &after), &mut script(&down(), 0), settings);
        let object = answer.mutated_object.unwrap();
        let spec = &object["spec"]["template"]["spec"];
        assert_eq!(
            super::images(spec),
            [NGINX, "not an image", "quay.io/excluded:1", "redis"]
        );
        assert_eq!(spec["imagePullSecrets"], json!([{"name": SECRET}]));
    }

    #[test]
    fn patterns_do_not_apply_to_copies() {
        let (before, after) = (stored(&["nginx:1.28"]), stored(&["nginx:1.27"]));
        for settings in [
            json!({"images": {"include": ["docker.io/*"]}}),
            json!({"images": {"exclude": ["backup.test/*"]}}),
        ] {
            for reply in [None, Some(down())] {
                let mut script = reply.map_or_else(Script::new, |reply| script(&reply, 0));
                let answer = answer_with(&update(&before, &after), &mut script, settings.clone());
                assert!(answer.accepted && answer.mutated_object.is_none());
            }
        }
    }

    #[rstest]
    fn a_rollback_keeps_the_copies(#[values("keep", "reject")] otherwise: &str) {
        let settings = json!({"whenUnavailable": otherwise, "whenNotMirrored": otherwise});
        let (before, after) = (stored(&["nginx:1.28"]), stored(&["nginx:1.27", "redis"]));
        for request in [update(&before, &after), create(after)] {
            let answer = answer_with(&request, &mut script(&down(), 0), settings.clone());
            assert!(answer.accepted && answer.mutated_object.is_none());
            assert!(
                answer
                    .audit_annotations
                    .as_ref()
                    .unwrap()
                    .contains_key("from-annotation")
            );
            assert_eq!(warnings(&answer).len(), 2);
        }
    }

    #[rstest]
    fn pods_of_a_template_that_was_rewritten_are_admitted(
        #[values("keep", "reject")] otherwise: &str,
    ) {
        let settings = json!({"whenUnavailable": otherwise, "whenNotMirrored": otherwise});
        let mut pod = stored(&["nginx:1.28"])["spec"]["template"].take();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        assert_eq!(pod["spec"]["containers"][0]["image"], NEW);
        let answer = answer_with(&create(pod), &mut script(&down(), 0), settings);
        assert!(answer.accepted && answer.mutated_object.is_none());
        assert_eq!(
            warnings(&answer),
            [format!(
                "image-mirror: {NEW} is annotated as a copy: the sidecar does not respond"
            )]
        );
    }

    /// That there is no copy of its name yet, or not any more, says nothing about the original.
    #[rstest]
    #[case(pending())]
    #[case(refused(RefusalKind::Failed, "gone"))]
    #[case(excluded())]
    fn a_copy_in_use_stays_until_there_is_another(#[case] reply: Reply) {
        let before = stored(&["nginx"]);
        let after = deployment(&["nginx"], json!(null), None);
        let mut script = script(&reply, 0);
        let object = answer(&update(&before, &after), &mut script).mutated_object;
        assert_eq!(object, Some(before));
    }

    #[test]
    fn an_image_that_took_the_place_of_another_is_not_annotated() {
        let before = stored(&["nginx:1.27"]);
        let after = deployment(&["nginx:1.28"], json!(null), None);
        let mut script = script(&down(), 0);
        assert!(
            answer(&update(&before, &after), &mut script)
                .mutated_object
                .is_none()
        );
    }
}

/// No rollout for it: the Pods get the Secret.
#[test]
fn a_template_that_merely_names_copies_is_not_given_the_secret() {
    let request = create(deployment(&[NGINX], json!(null), None));
    let answer = answer(&request, &mut Script::new());
    assert!(answer.mutated_object.is_none() && answer.warnings.is_none());
}

#[test]
fn a_secret_of_another_name_takes_the_place_of_the_one_before() {
    let note = json!({"backup.test/acme/old:1": "old:1", "imagePullSecret": "before"});
    let secrets = json!([{"name": "before"}]);
    let request = create(deployment(&["nginx"], secrets, Some(note)));
    let settings = json!({"pullSecrets": ["before", SECRET]});
    let answer = answer_with(&request, &mut Script::new(), settings);
    let object = answer.mutated_object.unwrap();
    let template = &object["spec"]["template"];
    assert_eq!(
        template["spec"]["imagePullSecrets"],
        json!([{"name": SECRET}])
    );
    let note = template["metadata"]["annotations"][ORIGINALS]
        .as_str()
        .unwrap();
    let note: Value = serde_json::from_str(note).unwrap();
    assert_eq!(note, noted(NGINX, "nginx"));
}

/// An image that waits for its copy still needs the Secret of the backup before.
#[test]
fn the_secret_before_stays_while_an_image_needs_it() {
    let note = json!({"old.test/app:1": "app:1", "imagePullSecret": "before"});
    let secrets = json!([{"name": "before"}, {"name": "mine"}]);
    let mut script = Script::new().reply("tag/old.test/app:1", pending());
    let request = create(deployment(
        &["nginx", "old.test/app:1"],
        secrets,
        Some(note),
    ));
    let object = answer(&request, &mut script).mutated_object.unwrap();
    assert_eq!(
        object["spec"]["template"]["spec"]["imagePullSecrets"],
        json!([{"name": "before"}, {"name": "mine"}, {"name": SECRET}])
    );
}

/// The backup moved, and the sidecar was not told: a copy of before is never taken for an original.
#[test]
fn a_copy_of_before_stands_for_the_original() {
    let old = "old.test/docker.io/library/nginx:1";
    let new = "backup.test/acme/docker.io-library-nginx:1";
    let note = json!({old: "nginx:1", "imagePullSecret": SECRET});
    let secrets = json!([{ "name": SECRET }]);
    let request = create(deployment(&[old], secrets.clone(), Some(note)));
    let settings = json!({"backups": ["backup.test/acme", "old.test"]});
    let answer = answer_with(&request, &mut Script::new(), settings.clone());
    let object = answer.mutated_object.unwrap();
    let note = object["spec"]["template"]["metadata"]["annotations"][ORIGINALS]
        .as_str()
        .unwrap();
    let note: Value = serde_json::from_str(note).unwrap();
    assert_eq!(note, noted(new, "nginx:1"));
    // It is recognised as such.
    let mut update = create(deployment(&["nginx:1"], secrets, None));
    update["operation"] = "UPDATE".into();
    update["oldObject"] = object;
    let answer = answer_with(&update, &mut Script::new().otherwise(down()), settings);
    let object = answer.mutated_object.unwrap();
    assert_eq!(images(&object["spec"]["template"]["spec"]), [new]);
}

/// The sidecar keeps the former Secret valid and moves templates one by one.
#[rstest]
#[case::applied_again(&["nginx"], json!(null), false, json!(["before", SECRET]), "before")]
#[case::updated(&[NGINX], json!([{"name": "before"}]), false, json!(["before", SECRET]), "before")]
#[case::readmitted(&[NGINX], json!([{"name": "before"}]), true, json!(["before", SECRET]), SECRET)]
#[case::forgotten(&["nginx"], json!(null), false, json!([SECRET]), SECRET)]
fn a_former_secret_stays_until_its_template_is_readmitted(
    #[case] images: &[&str],
    #[case] listed: Value,
    #[case] is_readmitted: bool,
    #[case] known: Value,
    #[case] expected: &str,
) {
    let note = json!({NGINX: "nginx", "imagePullSecret": "before"});
    let old = deployment(&[NGINX], json!([{"name": "before"}]), Some(note.clone()));
    let note = (images == [NGINX]).then_some(note);
    let mut request = create(deployment(images, listed, note));
    request["operation"] = "UPDATE".into();
    if is_readmitted {
        let annotations = json!({"image-mirror.dev/readmitted": "2026-01-01T00:00:00Z"});
        request["object"]["metadata"]["annotations"] = annotations;
    }
    request["oldObject"] = old;
    let answer = answer_with(&request, &mut Script::new(), json!({"pullSecrets": known}));
    let object = answer.mutated_object.as_ref();
    let template = &object.unwrap_or(&request["object"])["spec"]["template"];
    assert_eq!(template["spec"]["containers"][0]["image"], NGINX);
    assert_eq!(
        template["spec"]["imagePullSecrets"],
        json!([{ "name": expected }])
    );
    let note = &template["metadata"]["annotations"][ORIGINALS];
    let note: Value = serde_json::from_str(note.as_str().unwrap()).unwrap();
    assert_eq!(note, json!({NGINX: "nginx", "imagePullSecret": expected}));
}

const FORMER: &str = "old.test/docker.io/library/nginx:1";

fn former_settings() -> Value {
    json!({"backups": ["backup.test/acme", "old.test"], "pullSecrets": ["before", SECRET]})
}

/// A script in which the pull Secret of now cannot be created.
fn without_secret() -> Script {
    let refusal = refused(RefusalKind::Failed, "exceeded quota");
    Script::new().reply("pull-secret/shop:latest", refusal)
}

/// A template that is edited keeps the former Secret of its former copies while the new one cannot be created.
#[test]
fn a_former_secret_stays_while_the_new_one_cannot_be_created() {
    let note = json!({FORMER: "nginx:1", "imagePullSecret": "before"});
    let old = deployment(&[FORMER], json!([{"name": "before"}]), Some(note));
    let mut request = create(old.clone());
    request["operation"] = "UPDATE".into();
    request["object"]["spec"]["template"]["spec"]["hostname"] = "edited".into();
    request["oldObject"] = old;
    let answer = answer_with(&request, &mut without_secret(), former_settings());
    assert!(answer.accepted);
    assert_eq!(answer.mutated_object, None);
}

/// A Pod of that template is admitted with the former Secret, whether the template lists it or leaves it to the Pods.
#[rstest]
#[case::listed(json!([{"name": "before"}]))]
#[case::left_to_the_pod(json!([{"name": "of-the-account"}]))]
fn a_pod_of_former_copies_needs_the_former_secret_alone(#[case] listed: Value) {
    let mut pod = pod_of(&[FORMER]);
    pod["spec"]["imagePullSecrets"] = listed;
    let note = json!({FORMER: "nginx:1", "imagePullSecret": "before"});
    pod["metadata"]["annotations"] = json!({ORIGINALS: note.to_string()});
    let request = create(pod);
    let mut settings = former_settings();
    settings["whenNotMirrored"] = "reject".into();
    let answer = answer_with(&request, &mut without_secret(), settings);
    assert!(answer.accepted, "{:?}", answer.message);
    let pod = answer.mutated_object.as_ref().unwrap_or(&request["object"]);
    assert_eq!(images(&pod["spec"]), [FORMER]);
    let secrets = pod["spec"]["imagePullSecrets"].as_array().unwrap();
    assert!(secrets.contains(&json!({"name": "before"})), "{secrets:?}");
}

/// An exclusion that is added later does not replace a copy in use by its original.
#[rstest]
#[case::excluded(json!({"exclude": ["docker.io/*"]}))]
#[case::no_longer_included(json!({"include": ["quay.io/*"]}))]
fn a_copy_in_use_stays_when_its_image_is_excluded(#[case] patterns: Value) {
    let manifest = deployment(&["nginx"], json!(null), None);
    let created = answer(&create(manifest.clone()), &mut Script::new());
    let stored = created.mutated_object.unwrap();
    let mut request = create(manifest);
    request["operation"] = "UPDATE".into();
    request["oldObject"] = stored.clone();
    let settings = json!({ "images": patterns });
    let answer = answer_with(&request, &mut Script::new(), settings);
    assert_eq!(answer.mutated_object, Some(stored));
}

/// Containers with the same image keep what each of them uses.
#[rstest]
#[case::an_original_and_a_copy(excluded(), "nginx:1")]
#[case::two_copies(
    mirrored("backup.test/acme/docker.io-library-nginx:1", TAG_DIGEST),
    "backup.test/acme/docker.io-library-nginx:1"
)]
fn containers_of_the_same_image_are_decided_one_by_one(#[case] reply: Reply, #[case] first: &str) {
    let note = json!({FORMER: "nginx:1", first: "nginx:1", "imagePullSecret": SECRET});
    let secrets = json!([{ "name": SECRET }]);
    let old = deployment(&[first, FORMER], secrets.clone(), Some(note));
    let mut request = create(old.clone());
    request["operation"] = "UPDATE".into();
    request["object"] = deployment(&["nginx:1", "nginx:1"], secrets, None);
    request["oldObject"] = old;
    let mut script = Script::new().reply("tag/docker.io/library/nginx:1", reply);
    let object = answer_with(&request, &mut script, former_settings()).mutated_object;
    let object = object.as_ref().unwrap_or(&request["object"]);
    assert_eq!(images(&object["spec"]["template"]["spec"]), [first, FORMER]);
}
