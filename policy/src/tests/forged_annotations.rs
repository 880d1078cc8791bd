//! Annotations that somebody wrote who may edit a workload, and on whose words the owner's next update must not depend.

use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer_with, create, warnings};
use super::script::{SECRET, Script, TAG_DIGEST, down, pending};

const NGINX: &str = "backup.test/acme/docker.io-library-nginx:1.27";
const EVIL: &str = "evil.example/backdoor:1";
const ORIGINALS: &str = "image-mirror.dev/original-images";

fn deployment(images: &[&str], annotation: &Value) -> Value {
    let containers: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(index, image)| json!({"name": format!("c{index}"), "image": image}))
        .collect();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {"template": {
            "metadata": {"annotations": {ORIGINALS: annotation.to_string()}},
            "spec": {"containers": containers},
        }},
    })
}

/// The template's spec after the owner's update, and the warnings; `None` if it is rejected. `kubectl apply` keeps the
/// annotation.
fn update(old: &[&str], new: &[&str], annotation: &Value, settings: &Value) -> Option<Value> {
    let mut request = create(deployment(new, annotation));
    request["operation"] = "UPDATE".into();
    request["oldObject"] = deployment(old, annotation);
    let answer = answer_with(
        &request,
        &mut Script::new().otherwise(down()),
        settings.clone(),
    );
    assert!(!answer.accepted || !warnings(&answer).is_empty());
    let object = answer.mutated_object.unwrap_or(request["object"].take());
    answer
        .accepted
        .then(|| object["spec"]["template"]["spec"].clone())
}

fn images(spec: &Value) -> Vec<&str> {
    let containers = spec["containers"].as_array().unwrap();
    containers
        .iter()
        .map(|entry| entry["image"].as_str().unwrap())
        .collect()
}

#[rstest]
#[case::any_image(EVIL)]
#[case::a_name_of_another_backup("evil.example/acme/docker.io-library-nginx:1.27")]
#[case::another_copy("backup.test/acme/docker.io-library-redis:1.27")]
#[case::another_tag("backup.test/acme/docker.io-library-nginx:1.26")]
#[case::below_the_backup("backup.test/acme/x/docker.io-library-nginx:1.27")]
#[case::another_naming_than_any("backup.test/acme/library-nginx:1.27")]
#[case::an_outdated_digest(&format!("{NGINX}@{TAG_DIGEST}"))]
fn no_other_image_takes_the_place_of_the_owners(#[case] copy: &str) {
    let annotation = json!({copy: "docker.io/library/nginx:1.27", "imagePullSecret": "x"});
    for settings in [json!({}), json!({"backups": []})] {
        let spec = update(&["nginx:1.26"], &["nginx:1.27"], &annotation, &settings).unwrap();
        assert_eq!(images(&spec), ["nginx:1.27"]);
        assert!(spec.get("imagePullSecrets").is_none());
        let mut strict = settings;
        strict["whenUnavailable"] = "reject".into();
        assert_eq!(
            update(&["nginx:1.26"], &["nginx:1.27"], &annotation, &strict),
            None
        );
    }
}

#[rstest]
#[case::flat(NGINX)]
#[case::nested("backup.test/acme/docker.io/library/nginx:1.27")]
#[case::in_a_former_backup("old.test/docker.io-library-nginx:1.27")]
fn the_copy_in_a_backup_takes_it(#[case] copy: &str) {
    let annotation = json!({copy: "nginx:1.27", "imagePullSecret": SECRET});
    let settings =
        json!({"backups": ["backup.test/acme", "old.test"], "whenUnavailable": "reject"});
    let spec = update(&["b:1"], &["docker.io/nginx:1.27"], &annotation, &settings).unwrap();
    assert_eq!(images(&spec), [copy]);
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": SECRET }]));
}

#[test]
fn a_pull_secret_that_is_not_ours_is_not_added() {
    let annotation = json!({NGINX: "nginx:1.27", "imagePullSecret": "x"});
    let spec = update(&[NGINX], &["nginx:1.27"], &annotation, &json!({})).unwrap();
    assert_eq!(images(&spec), [NGINX]);
    assert!(spec.get("imagePullSecrets").is_none());
}

/// Without backups in the settings, nothing starts in a container that did not run there.
#[rstest]
#[case::it_ran_there(&[NGINX, "b:1"], &["nginx:1.27", "b:1"], &[NGINX, "b:1"])]
#[case::it_ran_in_another_container(&["b:1", NGINX], &["nginx:1.27", "b:1"], &["nginx:1.27", "b:1"])]
#[case::it_ran_nowhere(&["b:1"], &["nginx:1.27"], &["nginx:1.27"])]
#[case::it_is_pinned(&[PINNED], &["nginx:1.27"], &[PINNED])]
fn without_backups_a_container_keeps_its_copy(
    #[case] old: &[&str],
    #[case] new: &[&str],
    #[case] expected: &[&str],
) {
    let annotation = json!({NGINX: "nginx:1.27", PINNED: "nginx:1.27"});
    let spec = update(old, new, &annotation, &json!({"backups": []})).unwrap();
    assert_eq!(images(&spec), expected);
}

const PINNED: &str = "backup.test/acme/docker.io-library-nginx:1.27@sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// With `pinDigest`, the digest cannot be derived from the original: it counts where it is in use.
#[test]
fn a_pinned_copy_that_is_in_use_counts() {
    let annotation = json!({PINNED: "nginx:1.27"});
    let spec = update(&[PINNED], &["nginx:1.27"], &annotation, &json!({})).unwrap();
    assert_eq!(images(&spec), [PINNED]);
}

/// When an image that stays upstream joins, no original takes the place of a copy: it may be gone.
#[rstest]
#[case::of_the_copy("nginx:1.27")]
#[case::of_somebody_else(EVIL)]
#[case::of_another_tag("nginx:1.26")]
fn no_original_takes_the_place_of_a_copy(
    #[case] original: &str,
    #[values(json!({}), json!({"backups": []}))] settings: Value,
) {
    let annotation = json!({NGINX: original, "imagePullSecret": SECRET});
    let secrets = json!([{ "name": SECRET }]);
    let mut object = deployment(&[NGINX, "app:1"], &annotation);
    object["spec"]["template"]["spec"]["imagePullSecrets"] = secrets;
    let mut script = Script::new().reply("tag/docker.io/library/app:1", pending());
    let answer = answer_with(&create(object.clone()), &mut script, settings);
    let object = answer.mutated_object.unwrap_or(object);
    let spec = &object["spec"]["template"]["spec"];
    assert_eq!(images(spec), [NGINX, "app:1"]);
}

/// Nor does an annotation take a Secret of the owner away.
#[test]
fn a_pull_secret_that_is_not_ours_is_not_removed() {
    let annotation = json!({NGINX: "nginx:1.27", "imagePullSecret": "mine"});
    let mut object = deployment(&[NGINX, "app:1"], &annotation);
    object["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{ "name": "mine" }]);
    let mut script = Script::new().reply("tag/docker.io/library/app:1", pending());
    assert_eq!(
        answer_with(&create(object), &mut script, json!({})).mutated_object,
        None
    );
}

/// A Pod cannot pass for one of copies either.
#[test]
fn an_image_does_not_become_a_copy_by_an_annotation() {
    let mut pod = deployment(&[EVIL], &json!({EVIL: "nginx:1.27"}))["spec"]["template"].take();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    let strict = json!({"whenUnavailable": "reject", "whenNotMirrored": "reject"});
    for reply in [down(), pending()] {
        let mut script = Script::new().otherwise(reply);
        assert!(!answer_with(&create(pod.clone()), &mut script, strict.clone()).accepted);
    }
}
