//! What holds however a workload came about: a Deployment that is applied, replaced, touched and rolled back while copies
//! come and go and the sidecar is down now and then.

use std::collections::BTreeMap;

use mirror_contract::ImageRef;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{answer, create};
use super::script::{SECRET, Script, down, secret_not_needed};

/// What somebody does to the Deployment.
#[derive(Clone, Debug)]
enum Act {
    /// `kubectl apply` of these images: lists that the manifest does not name stay.
    Apply(Vec<String>),
    /// `kubectl replace`, with these images and nothing else.
    Replace(Vec<String>),
    /// `kubectl set image` for one of the containers.
    SetImage(usize, String),
    /// A change beside the template, as by `kubectl label` or a controller.
    Touch,
    /// Back to the template of so many acts ago.
    RollBack(usize),
}

/// Who needs and lists which pull Secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secrets {
    /// The backup needs one, and the manifest lists none.
    Needed,
    /// The backup needs none.
    NotNeeded,
    /// The backup needs one, and the manifest lists another.
    OfManifest,
}

/// The sidecar while that happens.
#[derive(Clone, Debug)]
enum Sidecar {
    /// Images with these digits in their name have no copy.
    Up {
        missing: String,
    },
    Down,
}

impl Sidecar {
    fn script(&self, secrets: Secrets) -> Script {
        let missing = match self {
            Self::Up { missing } => missing,
            Self::Down => return Script::new().otherwise(down()),
        };
        let script = Script::new().without_copies_of(missing);
        if secrets == Secrets::NotNeeded {
            let question = "pull-secret/shop:latest";
            return script.without_hints().reply(question, secret_not_needed());
        }
        script
    }
}

/// Some are the same image, written differently.
fn any_image() -> impl Strategy<Value = String> {
    "(docker\\.io/library/|docker\\.io/)?[0-5](:[ab])?"
}

fn any_images() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(any_image(), 1..4)
}

fn any_secrets() -> impl Strategy<Value = Secrets> {
    prop_oneof![
        2 => Just(Secrets::Needed),
        1 => Just(Secrets::NotNeeded),
        1 => Just(Secrets::OfManifest),
    ]
}

fn any_step() -> impl Strategy<Value = (Act, Sidecar)> {
    let act = prop_oneof![
        3 => any_images().prop_map(Act::Apply),
        1 => any_images().prop_map(Act::Replace),
        2 => (0..3_usize, any_image()).prop_map(|(index, image)| Act::SetImage(index, image)),
        1 => Just(Act::Touch),
        1 => (1..4_usize).prop_map(Act::RollBack),
    ];
    let sidecar = prop_oneof![
        2 => "[0-5]{0,3}".prop_map(|missing| Sidecar::Up { missing }),
        1 => Just(Sidecar::Down),
    ];
    (act, sidecar)
}

fn containers(images: &[String]) -> Value {
    let containers = images.iter().enumerate();
    containers
        .map(|(index, image)| json!({"name": format!("c{index}"), "image": image}))
        .collect()
}

fn deployment(images: &[String], secrets: Secrets) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {"metadata": {}, "spec": {"containers": containers(images)}}},
    });
    if secrets == Secrets::OfManifest {
        object["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{"name": "mine"}]);
    }
    object
}

/// The Deployment as it is stored after an act; `history` has what was stored before.
fn act(history: &[Value], act: &Act, sidecar: &Sidecar, secrets: Secrets) -> Value {
    let live = history.last();
    let mut object = live
        .cloned()
        .unwrap_or_else(|| deployment(&["0".into()], secrets));
    match act {
        Act::Apply(images) => object["spec"]["template"]["spec"]["containers"] = containers(images),
        Act::Replace(images) => object = deployment(images, secrets),
        Act::SetImage(index, image) => {
            let place = format!("/spec/template/spec/containers/{index}/image");
            if let Some(place) = object.pointer_mut(&place) {
                *place = image.as_str().into();
            }
        }
        Act::Touch => object["metadata"]["labels"] = json!({"touched": history.len().to_string()}),
        Act::RollBack(steps) => {
            let revision = history.len().saturating_sub(1 + steps);
            if let Some(revision) = history.get(revision) {
                object["spec"]["template"] = revision["spec"]["template"].clone();
            }
        }
    }
    let mut request = create(object);
    if let Some(live) = live {
        request["operation"] = "UPDATE".into();
        request["oldObject"] = live.clone();
    }
    let answer = answer(&request, &mut sidecar.script(secrets));
    answer
        .mutated_object
        .unwrap_or_else(|| request["object"].take())
}

fn images(object: &Value) -> Vec<&str> {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array();
    let containers = containers.into_iter().flatten();
    containers
        .filter_map(|entry| entry["image"].as_str())
        .collect()
}

fn is_copy(image: &str) -> bool {
    image.starts_with("backup.test/")
}

/// What the template notes that its copies stand for.
fn originals(object: &Value) -> Vec<String> {
    let note =
        &object["spec"]["template"]["metadata"]["annotations"]["image-mirror.dev/original-images"];
    let note: BTreeMap<String, String> = note
        .as_str()
        .and_then(|note| serde_json::from_str(note).ok())
        .unwrap_or_default();
    let copies = note.iter().filter(|(key, _)| *key != "digests");
    copies.map(|(_, original)| canonical(original)).collect()
}

fn canonical(image: &str) -> String {
    ImageRef::parse(image).map_or_else(|_| image.to_owned(), |image| image.to_string())
}

/// Without pull Secrets of its own, a template has copies and their Secret, or images upstream and none. Copies that it had
/// before may be next to them.
fn check_is_whole(before: Option<&Value>, act: &Act, sidecar: &Sidecar, stored: &Value) {
    let listed = stored["spec"]["template"]["spec"].get("imagePullSecrets");
    let listed = listed
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let images = images(stored);
    if listed.is_empty() {
        let before = before.map(self::images).unwrap_or_default();
        let is_new_copy = |image: &str| is_copy(image) && !before.contains(&image);
        assert!(!images.iter().any(|image| is_new_copy(image)), "{images:?}");
        return;
    }
    assert_eq!(listed, [json!({ "name": SECRET })]);
    // A change that matters is an occasion to put back what is known to stay upstream.
    let Sidecar::Up { missing } = sidecar else {
        return;
    };
    let is_change = matches!(act, Act::Apply(_) | Act::Replace(_) | Act::SetImage(..))
        && before.is_none_or(|before| before["spec"] != stored["spec"]);
    let is_missing = |image: &&str| {
        let image = canonical(image);
        !is_copy(&image) && image.contains(|c| missing.contains(c))
    };
    assert!(!is_change || !images.iter().any(is_missing), "{images:?}");
}

/// What was a copy is one as long as nobody says that there is none.
fn check_is_remembered(before: &Value, stored: &Value) {
    let originals = originals(before);
    let stayed: Vec<_> = images(before).into_iter().map(canonical).collect();
    let images = images(stored);
    let is_forgotten = |image: &&str| {
        let image = canonical(image);
        originals.contains(&image) && !stayed.contains(&image)
    };
    assert!(!images.iter().any(is_forgotten), "{images:?}");
}

proptest! {
    #[test]
    fn a_workload_stays_sound(secrets in any_secrets(), steps in prop::collection::vec(any_step(), 1..8)) {
        let mut history: Vec<Value> = Vec::new();
        for (step, sidecar) in &steps {
            let stored = act(&history, step, sidecar, secrets);
            let before = history.last();
            if secrets == Secrets::Needed {
                check_is_whole(before, step, sidecar, &stored);
            }
            if let (Sidecar::Down, Some(before)) = (sidecar, before) {
                check_is_remembered(before, &stored);
            }
            // Nothing more happens to it, and nothing at all during an outage, also if it is applied once more.
            history.push(stored.clone());
            for sidecar in [sidecar, &Sidecar::Down] {
                prop_assert_eq!(&act(&history, &Act::RollBack(0), sidecar, secrets), &stored);
            }
            if let Act::Apply(_) | Act::SetImage(..) = step {
                let again = act(&history, step, &Sidecar::Down, secrets);
                prop_assert_eq!(&again["spec"]["template"]["spec"], &stored["spec"]["template"]["spec"]);
            }
        }
    }

    /// When all copies are there, one more apply makes the template whole.
    #[test]
    fn a_template_comes_to_use_its_copies(secrets in any_secrets(), steps in prop::collection::vec(any_step(), 0..6), wanted in any_images()) {
        let mut history: Vec<Value> = Vec::new();
        for (step, sidecar) in &steps {
            history.push(act(&history, step, sidecar, secrets));
        }
        let sidecar = Sidecar::Up { missing: String::new() };
        let stored = act(&history, &Act::Apply(wanted), &sidecar, secrets);
        prop_assert!(images(&stored).into_iter().all(is_copy));
        let listed = &stored["spec"]["template"]["spec"]["imagePullSecrets"];
        let listed = listed.as_array().map_or(0, Vec::len);
        prop_assert_eq!(listed, match secrets {
            Secrets::Needed => 1,
            Secrets::NotNeeded => 0,
            Secrets::OfManifest => 2,
        });
    }
}
