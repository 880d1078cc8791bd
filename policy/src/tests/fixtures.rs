//! Requests of a real API server, and the handling of requests and answers.

use kubewarden_policy_sdk::response::ValidationResponse;
use serde_json::{Value, json};

use super::script::{SIDECAR, Script};
use crate::fuzzing::response as validate;

/// The request in `e2e-tests/fixtures/admission/<name>.json`.
pub fn fixture(name: &str) -> Value {
    let path = format!(
        "{}/../e2e-tests/fixtures/admission/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut review: Value = serde_json::from_str(&text).unwrap();
    review["request"].take()
}

/// A request to create `object`.
pub fn create(object: Value) -> Value {
    let group = match object["apiVersion"]
        .as_str()
        .unwrap_or("v1")
        .split_once('/')
    {
        Some((group, _)) => group.to_owned(),
        None => String::new(),
    };
    let mut request = json!({
        "uid": "1",
        "kind": {"group": group, "version": "v1", "kind": object["kind"]},
        "resource": {"group": group, "version": "v1", "resource": "any"},
        "operation": "CREATE",
        "namespace": "shop",
        "userInfo": {},
    });
    request["object"] = object;
    request
}

pub fn pod(spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    pod["spec"] = spec;
    pod
}

/// A Pod with one container for each image.
pub fn pod_of(images: &[&str]) -> Value {
    let containers: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(index, image)| json!({"name": format!("c{index}"), "image": image}))
        .collect();
    pod(json!({ "containers": containers }))
}

/// The answer to `request` under default settings.
pub fn answer(request: &Value, script: &mut Script) -> ValidationResponse {
    answer_with(request, script, json!({}))
}

/// The answer to `request` under these settings; the addresses of the sidecar and its backup are added.
pub fn answer_with(
    request: &Value,
    script: &mut Script,
    mut settings: Value,
) -> ValidationResponse {
    settings["sidecar"] = SIDECAR.into();
    if settings.get("backups").is_none() {
        settings["backups"] = json!(["backup.test/acme"]);
    }
    let payload = json!({"request": request, "settings": settings});
    validate(payload.to_string().as_bytes(), script)
}

/// What the answer changes in the object of `request`, as lines `<operation> <path> <value>`.
pub fn changes(request: &Value, answer: &ValidationResponse) -> Vec<String> {
    let Some(mutated) = &answer.mutated_object else {
        return Vec::new();
    };
    let patch = json_patch::diff(&request["object"], mutated);
    let operations = serde_json::to_value(patch).unwrap();
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    operations
        .as_array()
        .unwrap()
        .iter()
        .map(|op| {
            format!(
                "{} {} {}",
                text(&op["op"]),
                text(&op["path"]),
                text(&op["value"])
            )
        })
        .collect()
}

pub fn warnings(answer: &ValidationResponse) -> &[String] {
    answer.warnings.as_deref().unwrap_or_default()
}

/// The image of the first container of the Pod in the answer.
pub fn first_image(answer: &ValidationResponse) -> Option<&str> {
    answer
        .mutated_object
        .as_ref()?
        .pointer("/spec/containers/0/image")?
        .as_str()
}
