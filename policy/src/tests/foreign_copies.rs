//! Copies that another installation made: they are no originals.

use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{answer, create, warnings};
use super::script::{Reply, Script, down, pending};

const NOTE: &str = "image-mirror.dev/original-images";
const COPY: &str = "other.test/backup/docker.io-library-nginx:1";

fn deployment(images: &[&str], note: &Value) -> Value {
    let containers = images.iter().enumerate();
    let containers: Vec<_> = containers
        .map(|(index, image)| json!({"name": format!("c{index}"), "image": image}))
        .collect();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {
            "metadata": {"annotations": {NOTE: note.to_string()}},
            "spec": {"containers": containers, "imagePullSecrets": [{"name": "other"}]},
        }},
    })
}

#[rstest]
#[case::with_copies(None)]
#[case::without(Some(pending()))]
#[case::in_an_outage(Some(down()))]
fn it_stays_and_nobody_is_asked(#[case] reply: Option<Reply>) {
    let request = create(deployment(&[COPY], &json!({COPY: "nginx:1"})));
    let script = Script::new();
    let mut script = match reply {
        Some(reply) => script.otherwise(reply),
        None => script,
    };
    let answer = answer(&request, &mut script);
    assert_eq!(answer.mutated_object, None);
    assert_eq!(script.asked, [""; 0]);
    assert!(warnings(&answer)[0].contains("another installation"));
}

/// Its annotation stays as well, next to our own.
#[test]
fn it_stays_annotated() {
    let request = create(deployment(&[COPY, "redis:1"], &json!({COPY: "nginx:1"})));
    let answer = answer(&request, &mut Script::new());
    let template = &answer.mutated_object.unwrap()["spec"]["template"];
    let note = template["metadata"]["annotations"][NOTE].as_str().unwrap();
    let note: Value = serde_json::from_str(note).unwrap();
    assert_eq!(note[COPY], "nginx:1");
    assert_eq!(
        note["backup.test/acme/docker.io-library-redis:1"],
        "redis:1"
    );
}
