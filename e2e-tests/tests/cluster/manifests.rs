//! Workloads of every kind, as users write them.

use serde_json::{Value, json};

/// A kind that has images: where it is served, and where its Pod spec is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Pod,
    Deployment,
    DaemonSet,
    StatefulSet,
    ReplicaSet,
    ReplicationController,
    Job,
    CronJob,
}

/// A Pod spec with a container of every sort that all API servers take at creation.
pub fn pod_spec() -> Value {
    json!({
        "initContainers": [{ "name": "migrate", "image": "ghcr.io/acme/migrate:v2" }],
        "containers": [
            { "name": "app", "image": "nginx:1.27" },
            { "name": "proxy", "image": "quay.io/acme/proxy:v1" },
        ],
    })
}

impl Kind {
    /// A manifest with this name and Pod spec. `batch` is the API version in which `CronJob` is served.
    pub fn manifest(self, name: &str, mut spec: Value, batch: &str) -> Value {
        let labels = json!({ "app": name });
        if matches!(self, Self::Job | Self::CronJob) {
            spec["restartPolicy"] = json!("Never");
        }
        let template = json!({ "metadata": { "labels": labels }, "spec": spec });
        let (version, spec) = match self {
            Self::Pod => ("v1", spec),
            Self::ReplicationController => {
                ("v1", json!({ "selector": labels, "template": template }))
            }
            Self::Job => ("batch/v1", json!({ "template": template })),
            Self::CronJob => (
                batch,
                json!({ "schedule": "0 3 * * *", "jobTemplate": { "spec": { "template": template } } }),
            ),
            Self::StatefulSet => (
                "apps/v1",
                json!({ "serviceName": name, "selector": { "matchLabels": labels }, "template": template }),
            ),
            Self::Deployment | Self::DaemonSet | Self::ReplicaSet => (
                "apps/v1",
                json!({ "selector": { "matchLabels": labels }, "template": template }),
            ),
        };
        json!({
            "apiVersion": version,
            "kind": format!("{self:?}"),
            "metadata": { "name": name, "labels": labels },
            "spec": spec,
        })
    }
}

/// The Pod template in an object of any kind; a Pod is its own.
pub fn template_of(object: &Value) -> &Value {
    let pointer = match object["kind"].as_str() {
        Some("Pod") => "",
        Some("CronJob") => "/spec/jobTemplate/spec/template",
        _ => "/spec/template",
    };
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// The Pod spec in an object of any kind.
pub fn spec_of(object: &Value) -> &Value {
    &template_of(object)["spec"]
}

/// The same manifest under another name.
pub fn renamed(manifest: &Value, name: &str) -> Value {
    let mut renamed = manifest.clone();
    renamed["metadata"]["name"] = json!(name);
    renamed
}
