//! Two installations whose policies see the same workloads.

use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer_with, create, pod_of};
use super::script::Script;

const ORIGINALS: &str = "image-mirror.dev/original-images";
const THEIRS: &str = "theirs.test/x/docker.io-library-nginx:latest";

fn deployment(images: &[&str], originals: Option<Value>) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"template": {"metadata": {"annotations": {}}, "spec": pod_of(images)["spec"]}},
    });
    if let Some(originals) = originals {
        object["spec"]["template"]["metadata"]["annotations"][ORIGINALS] =
            originals.to_string().into();
    }
    object
}

fn is_rewritten(request: &Value, backups: &[&str]) -> bool {
    let answer = answer_with(request, &mut Script::new(), json!({"backups": backups}));
    assert!(answer.accepted && answer.warnings.is_none());
    answer.mutated_object.is_some()
}

const OURS: &[&str] = &["backup.test/acme"];

#[rstest]
#[case::its_copy(THEIRS, json!({THEIRS: "nginx"}), OURS, false)]
#[case::by_its_nested_name("theirs.test/x/docker.io/library/nginx:1", json!({"theirs.test/x/docker.io/library/nginx:1": "nginx:1"}), OURS, false)]
#[case::of_a_former_backup(THEIRS, json!({THEIRS: "nginx"}), &["backup.test/acme", "theirs.test/x"], true)]
#[case::forged("evil.test/app:1", json!({"evil.test/app:1": "nginx"}), OURS, true)]
#[case::of_another_image("redis", json!({THEIRS: "nginx"}), OURS, true)]
fn a_copy_of_another_installation_is_no_original(
    #[case] image: &str,
    #[case] originals: Value,
    #[case] backups: &[&str],
    #[case] expected: bool,
) {
    let request = create(deployment(&[image], Some(originals)));
    assert_eq!(is_rewritten(&request, backups), expected);
}

/// The other installation puts its copy back in the same request, whichever comes first.
#[rstest]
#[case::applied_again(&["nginx"], false)]
#[case::changed_beside_it(&[THEIRS, "redis"], false)]
#[case::another_image(&["redis"], true)]
fn an_update_of_what_it_rewrote_is_left_to_it(#[case] images: &[&str], #[case] expected: bool) {
    let mut request = create(deployment(images, None));
    request["operation"] = "UPDATE".into();
    request["oldObject"] = deployment(&[THEIRS], Some(json!({THEIRS: "nginx"})));
    assert_eq!(is_rewritten(&request, OURS), expected);
}
