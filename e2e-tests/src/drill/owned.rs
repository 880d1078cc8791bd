//! What controllers would make of a workload, since there are none: `ReplicaSet`s, Jobs and Pods that belong to it.

use serde_json::{Value, json};

use crate::cluster::Namespace;
use crate::manifests::template_of;

/// Makes the objects below a stored workload, down to one Pod.
pub(super) fn make(namespace: &Namespace, stored: &Value) -> Result<(), kube::Error> {
    let Some(child) = child(stored) else {
        return Ok(());
    };
    let stored = namespace.create(&child)?;
    make(namespace, &stored)
}

/// Makes the Pod below a stored workload, if its controller makes Pods.
pub(super) fn make_pod(namespace: &Namespace, stored: &Value) -> Result<(), kube::Error> {
    match child(stored) {
        Some(pod) if pod["kind"] == "Pod" => namespace.create(&pod).map(drop),
        _ => Ok(()),
    }
}

/// The object that the controller of a workload makes; `None` for a Pod.
fn child(stored: &Value) -> Option<Value> {
    let template = template_of(stored).clone();
    let (version, kind, template_metadata, spec) = match stored["kind"].as_str()? {
        "Pod" => return None,
        "Deployment" => (
            "apps/v1",
            "ReplicaSet",
            template["metadata"].clone(),
            json!({ "replicas": 1, "selector": stored["spec"]["selector"], "template": template }),
        ),
        "CronJob" => (
            "batch/v1",
            "Job",
            json!({}),
            stored["spec"]["jobTemplate"]["spec"].clone(),
        ),
        _ => (
            "v1",
            "Pod",
            template["metadata"].clone(),
            template["spec"].clone(),
        ),
    };
    let owner = &stored["metadata"];
    let mut metadata = json!({
        "name": format!("{}-{}", owner["name"].as_str()?, kind.to_lowercase()),
        "ownerReferences": [{
            "apiVersion": stored["apiVersion"], "kind": stored["kind"],
            "name": owner["name"], "uid": owner["uid"], "controller": true,
        }],
    });
    for field in ["labels", "annotations"] {
        if let Some(value) = template_metadata
            .get(field)
            .filter(|value| !value.is_null())
        {
            metadata[field] = value.clone();
        }
    }
    Some(json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec }))
}
