//! What holds for every request.

use proptest::prelude::*;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::fixtures::{answer, create, pod};
use super::script::{SIDECAR, Script};
use crate::fuzzing::Edit;
use crate::fuzzing::response as validate;
use crate::request::Kind;

/// Any JSON, with the keys that the policy looks at in unexpected places.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("spec"),
        Just("template"),
        Just("metadata"),
        Just("annotations"),
        Just("labels"),
        Just("containers"),
        Just("initContainers"),
        Just("ephemeralContainers"),
        Just("volumes"),
        Just("image"),
        Just("reference"),
        Just("imagePullSecrets"),
        Just("ownerReferences"),
        Just("name"),
        Just("image-mirror.dev/original-images"),
        Just("x"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z/:@.*A-Z -]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 60, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5).prop_map(|entries| {
                let entries = entries
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value));
                Value::Object(entries.collect::<Map<_, _>>())
            }),
        ]
    })
}

fn any_image() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "([a-z0-9]{1,6}\\.io(:[1-9][0-9]{1,3})?/)?[a-z0-9]{1,5}(/[a-z0-9]{1,5})?(:[a-z0-9]{1,4})?(@sha256:[0-9a-f]{64})?",
        1 => "backup\\.test/acme/[a-z]{1,5}(:[0-9])?",
        1 => "[ -~]{0,20}",
    ]
}

/// A spec of a Pod with everything that names images, and more that does not.
fn any_spec() -> impl Strategy<Value = Value> {
    let container = |name: &'static str| {
        let policy = prop_oneof![Just("Always"), Just("Never"), Just("IfNotPresent")];
        let entry = (any_image(), policy, any_json()).prop_map(
            |(image, policy, x)| json!({"image": image, "imagePullPolicy": policy, "unknown": x}),
        );
        (Just(name), prop::collection::vec(entry, 0..4))
    };
    let volume = (any_image(), any_json())
        .prop_map(|(image, x)| json!({"image": {"reference": image, "unknown": x}}));
    let volumes = (Just("volumes"), prop::collection::vec(volume, 0..3));
    let secrets = prop::option::of(prop::collection::vec(
        "[a-z]{1,5}".prop_map(|name| json!({ "name": name })),
        0..3,
    ));
    let lists = (
        container("containers"),
        container("initContainers"),
        container("ephemeralContainers"),
        volumes,
    );
    (lists, secrets, any_json()).prop_map(|((a, b, c, d), secrets, x)| {
        let mut spec = json!({"unknown": x});
        for (key, list) in [a, b, c, d] {
            spec[key] = list.into();
        }
        if let Some(secrets) = secrets {
            spec["imagePullSecrets"] = secrets.into();
        }
        spec
    })
}

fn any_workload() -> impl Strategy<Value = Value> {
    let kinds = prop_oneof![
        Just(("v1", "Pod", "/")),
        Just(("apps/v1", "Deployment", "/spec/template")),
        Just(("batch/v1", "CronJob", "/spec/jobTemplate/spec/template")),
        Just(("v1", "PodTemplate", "/template")),
        Just(("example.com/v1", "Rollout", "/spec/template")),
    ];
    (kinds, any_spec(), any_json()).prop_map(|((version, kind, path), spec, x)| {
        let mut object = json!({ "spec": spec, "unknown": x.clone() });
        for key in path.rsplit('/').filter(|key| !key.is_empty()) {
            object = json!({ key: object });
        }
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        object["metadata"] = json!({"name": "x", "managedFields": [x]});
        object
    })
}

/// What a Deployment with this pod spec makes of it.
fn rewritten_template(spec: &Value, mut script: Script) -> Option<Value> {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {"template": {"spec": spec}}});
    let mutated = answer(&create(object), &mut script).mutated_object;
    mutated.map(|mut object| object["spec"]["template"]["spec"].take())
}

/// The images of a pod spec that this one would become, if it were that of a Pod.
fn images_in_a_pod(spec: &Value, script: Script) -> Vec<Value> {
    let request = create(pod(spec.clone()));
    let mutated = answer(&request, &mut { script }).mutated_object;
    let mut spec = mutated.unwrap_or_else(|| request["object"].clone())["spec"].take();
    let mut images = Vec::new();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let entries = spec[list].as_array_mut().expect("a list");
        images.extend(entries.iter_mut().map(|entry| entry["image"].take()));
    }
    let volumes = spec["volumes"].as_array_mut().expect("a list");
    images.extend(
        volumes
            .iter_mut()
            .map(|volume| volume["image"]["reference"].take()),
    );
    images
}

/// Letters of images that have no copy; mostly none.
fn missing() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z]{1,6}"]
}

proptest! {
    #[test]
    fn only_images_the_pull_secret_and_the_note_ever_change(object in any_workload(), missing in missing()) {
        let request = create(object.clone());
        let answer = answer(&request, &mut Script::new().without_copies_of(&missing));
        prop_assert!(answer.accepted);
        if let Some(mutated) = answer.mutated_object {
            let kind = Kind::deserialize(&request["kind"]).unwrap();
            let edit = Edit::new(&kind, &object, &mutated);
            prop_assert!(edit.secret.is_some() || !edit.images.is_empty());
            prop_assert!(edit.annotation.is_some() || edit.images.is_empty());
            prop_assert_eq!(edit.rest, object);
        }
    }

    #[test]
    fn a_rewritten_object_is_not_rewritten_again(object in any_workload(), missing in missing()) {
        let script = || Script::new().without_copies_of(&missing);
        if let Some(mutated) = answer(&create(object), &mut script()).mutated_object {
            let again = answer(&create(mutated), &mut script());
            prop_assert!(again.mutated_object.is_none());
        }
    }

    #[test]
    fn a_dry_run_shows_what_would_happen(object in any_workload(), missing in missing()) {
        let mut request = create(object);
        let real = answer(&request, &mut Script::new().without_copies_of(&missing));
        request["dryRun"] = true.into();
        let mut script = Script::new().without_copies_of(&missing);
        let dry = answer(&request, &mut script);
        prop_assert_eq!(dry.mutated_object, real.mutated_object);
        prop_assert_eq!(dry.warnings, real.warnings);
        prop_assert!(script.asked.iter().all(|question| question.starts_with("peek/")));
    }

    #[test]
    fn a_pod_made_from_a_rewritten_template_is_not_rewritten_again(spec in any_spec()) {
        if let Some(mut spec) = rewritten_template(&spec, Script::new()) {
            prop_assert!(answer(&create(pod(spec.take())), &mut Script::new()).mutated_object.is_none());
        }
    }

    /// Whether its template was rewritten, in part, or not at all.
    #[test]
    fn a_pod_has_the_same_images_however_it_came_about(spec in any_spec(), missing in missing()) {
        let script = || Script::new().without_copies_of(&missing);
        let template = rewritten_template(&spec, script()).unwrap_or_else(|| spec.clone());
        prop_assert_eq!(images_in_a_pod(&template, script()), images_in_a_pod(&spec, script()));
    }

    /// Its list of pull Secrets then comes from its `ServiceAccount`.
    #[test]
    fn a_template_with_an_image_upstream_gets_no_first_pull_secret(spec in any_spec(), missing in missing()) {
        let script = || Script::new().without_copies_of(&missing);
        let listed = |spec: &Value| spec["imagePullSecrets"].as_array().map_or(0, Vec::len);
        if let Some(template) = rewritten_template(&spec, script()) && listed(&spec) == 0 && listed(&template) > 0 {
            let kept = answer(&create(pod(template)), &mut script()).audit_annotations;
            prop_assert!(kept.is_none_or(|audit| !audit.contains_key("not-mirrored")));
        }
    }

    #[test]
    fn any_object_is_answered(object in any_json(), old in any_json(), kind in 0..5_usize, update in any::<bool>(), sub in any::<bool>()) {
        let (group, kind) = [("", "Pod"), ("apps", "Deployment"), ("batch", "CronJob"), ("", "PodTemplate"), ("batch", "Job")][kind];
        let request = json!({
            "uid": "1",
            "kind": {"group": group, "version": "v1", "kind": kind},
            "operation": if update { "UPDATE" } else { "CREATE" },
            "subResource": if sub { "ephemeralcontainers" } else { "" },
            "namespace": "shop",
            "object": object,
            "oldObject": old,
        });
        prop_assert!(answer(&request, &mut Script::new()).accepted);
    }

    #[test]
    fn any_payload_is_answered(payload in any_json(), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        prop_assert!(validate(payload.to_string().as_bytes(), &mut Script::new()).accepted);
        prop_assert!(validate(&bytes, &mut Script::new()).accepted);
        let settings = crate::validate_settings(payload.to_string().as_bytes());
        prop_assert!(!settings.valid);
    }

    #[test]
    fn every_number_leaves_as_it_came(number in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
        let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": [{"image": "a"}]}});
        object["x"] = number.into();
        let payload = json!({"request": create(object), "settings": {"sidecar": SIDECAR}}).to_string();
        let response = crate::evaluate(payload.as_bytes(), &mut Script::new()).to_json().unwrap();
        let response = String::from_utf8(response).unwrap();
        prop_assert!(response.contains("mutated_object"));
        let number = format!("\"x\":{}}}", Value::from(number));
        prop_assert!(response.contains(&number), "{number} {response}");
    }
}
