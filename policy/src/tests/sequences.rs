//! What holds however a workload came about: a Deployment that is applied, replaced, touched and rolled back while copies
//! come and go and the sidecar is down now and then.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{answer, create};
use super::script::{SECRET, Script, down};

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
    fn script(&self) -> Script {
        match self {
            Self::Up { missing } => Script::new().without_copies_of(missing),
            Self::Down => Script::new().otherwise(down()),
        }
    }
}

fn any_images() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[0-5](:[ab])?", 1..4)
}

fn any_step() -> impl Strategy<Value = (Act, Sidecar)> {
    let act = prop_oneof![
        3 => any_images().prop_map(Act::Apply),
        1 => any_images().prop_map(Act::Replace),
        2 => (0..3_usize, "[0-5](:[ab])?").prop_map(|(index, image)| Act::SetImage(index, image)),
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

fn deployment(images: &[String]) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {"metadata": {}, "spec": {"containers": containers(images)}}},
    })
}

/// The Deployment as it is stored after an act; `history` has what was stored before.
fn act(history: &[Value], act: &Act, sidecar: &Sidecar) -> Value {
    let live = history.last();
    let mut object = live.cloned().unwrap_or_else(|| deployment(&["0".into()]));
    match act {
        Act::Apply(images) => object["spec"]["template"]["spec"]["containers"] = containers(images),
        Act::Replace(images) => object = deployment(images),
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
    let answer = answer(&request, &mut sidecar.script());
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

proptest! {
    #[test]
    fn a_template_is_whole(steps in prop::collection::vec(any_step(), 1..8)) {
        let mut history: Vec<Value> = Vec::new();
        for (step, sidecar) in &steps {
            let stored = act(&history, step, sidecar);
            let spec = &stored["spec"]["template"]["spec"];
            let listed = spec.get("imagePullSecrets").and_then(Value::as_array);
            let listed = listed.map_or(&[][..], Vec::as_slice);
            let secret = json!({"name": SECRET});
            prop_assert!(listed.is_empty() || listed == [secret]);
            let images = images(&stored);
            // No copy without its Secret.
            prop_assert!(!listed.is_empty() || !images.iter().any(|image| is_copy(image)), "{images:?}");
            // And with the Secret no image that is known to stay upstream, unless nothing was changed that matters.
            if let (Sidecar::Up { missing }, Act::Apply(_) | Act::Replace(_) | Act::SetImage(..)) = (sidecar, step) {
                let is_missing = |image: &&&str| !is_copy(image) && image.contains(|c| missing.contains(c));
                let is_new = history.last().is_none_or(|live| live["spec"] != stored["spec"]);
                prop_assert!(listed.is_empty() || !is_new || images.iter().find(is_missing).is_none(), "{images:?}");
            }
            // Nothing more happens to it.
            history.push(stored.clone());
            prop_assert_eq!(&act(&history, &Act::RollBack(0), sidecar), &stored);
            // During an outage neither, also if it is applied once more.
            prop_assert_eq!(&act(&history, &Act::RollBack(0), &Sidecar::Down), &stored);
            if let Act::Apply(_) | Act::SetImage(..) = step {
                prop_assert_eq!(&act(&history, step, &Sidecar::Down)["spec"], &stored["spec"]);
            }
        }
    }

    /// When all copies are there, one more apply makes the template whole.
    #[test]
    fn a_template_comes_to_use_its_copies(steps in prop::collection::vec(any_step(), 0..6), wanted in any_images()) {
        let mut history: Vec<Value> = Vec::new();
        for (step, sidecar) in &steps {
            history.push(act(&history, step, sidecar));
        }
        let sidecar = Sidecar::Up { missing: String::new() };
        let stored = act(&history, &Act::Apply(wanted), &sidecar);
        prop_assert!(images(&stored).into_iter().all(is_copy));
        let secrets = &stored["spec"]["template"]["spec"]["imagePullSecrets"];
        prop_assert_eq!(secrets, &json!([{"name": SECRET}]));
    }
}
