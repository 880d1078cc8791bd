//! Two installations whose policies see the same workloads.

use mirror_contract::{Backup, Naming};
use proptest::prelude::*;
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

/// What happens to a workload that two installations see.
#[derive(Clone, Debug)]
enum Act {
    /// Somebody applies a manifest with these images.
    Apply(Vec<&'static str>),
    /// Somebody changes something else, or a sidecar sends it through admission again.
    Touch,
    /// Copies of images with one of these letters in their names are missing at one of the two.
    Lose(usize, &'static str),
    /// The API server calls the webhooks in the other order.
    Swap,
}

const HOSTS: [&str; 2] = ["a.test", "b.test"];

fn any_act() -> impl Strategy<Value = Act> {
    let names = prop::sample::subsequence(vec!["nginx", "redis:7", "quay.io/x/y:1"], 1..=3);
    prop_oneof![
        names.prop_map(Act::Apply),
        Just(Act::Touch),
        (0..2_usize, prop::sample::select(vec!["", "n", "x", "dg"]))
            .prop_map(|(host, letters)| Act::Lose(host, letters)),
        Just(Act::Swap),
    ]
}

/// What is stored when `object` replaces `old` and passes both policies.
fn admit(mut object: Value, old: Option<&Value>, order: [usize; 2], missing: &[&str; 2]) -> Value {
    for host in order {
        let mut request = create(object.clone());
        if let Some(old) = old {
            request["operation"] = "UPDATE".into();
            request["oldObject"] = old.clone();
        }
        let backup = Backup::new(HOSTS[host], "x", Naming::Flat).unwrap();
        let mut script = Script::of(backup).without_copies_of(missing[host]);
        let settings = json!({"backups": [format!("{}/x", HOSTS[host])]});
        if let Some(mutated) = answer_with(&request, &mut script, settings).mutated_object {
            object = mutated;
        }
    }
    object
}

fn names(object: &Value) -> Vec<String> {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array();
    let images = containers.unwrap().iter();
    images
        .map(|container| container["image"].as_str().unwrap().to_owned())
        .collect()
}

/// The installation whose copy an image is; one of both in its name would be a copy of a copy.
fn owner(image: &str) -> Option<usize> {
    let owners: Vec<_> = (0..2).filter(|host| image.contains(HOSTS[*host])).collect();
    assert!(owners.len() <= 1, "{image}");
    owners.first().copied()
}

proptest! {
    #[test]
    fn two_installations_never_take_images_from_each_other(acts in prop::collection::vec(any_act(), 1..20)) {
        let (mut stored, mut order, mut missing): (Option<Value>, _, _) = (None, [0, 1], [""; 2]);
        for act in acts {
            let object = match (&act, &stored) {
                (Act::Apply(images), _) => deployment(images, None),
                (Act::Touch, Some(stored)) => {
                    let mut object = stored.clone();
                    object["metadata"]["labels"] = json!({"a": "b"});
                    object
                }
                (Act::Touch, None) => continue,
                (Act::Lose(host, letters), _) => {
                    missing[*host] = letters;
                    continue;
                }
                (Act::Swap, _) => {
                    order.swap(0, 1);
                    continue;
                }
            };
            let after = admit(object, stored.as_ref(), order, &missing);
            let owners: Vec<_> = names(&after).iter().map(|image| owner(image)).collect();
            if let Some(before) = &stored {
                for (before, after) in names(before).iter().zip(names(&after)) {
                    let is_same = before.rsplit(['/', '-']).next() == after.rsplit(['/', '-']).next();
                    if let (Some(old), Some(new), true) = (owner(before), owner(&after), is_same) {
                        prop_assert_eq!(old, new, "{} became {} after {:?}", before, after, act);
                    }
                }
            }
            prop_assert!(owners.iter().flatten().all(|owner| *owner == owners.iter().flatten().copied().next().unwrap()));
            stored = Some(after);
        }
    }
}
