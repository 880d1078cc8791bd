//! Workloads of every kind, as users write them.

use serde_json::{Value, json};

/// A kind that has images: where it is served, and where its Pod spec is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
#[must_use]
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
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Deployment,
        Self::DaemonSet,
        Self::StatefulSet,
        Self::ReplicaSet,
        Self::ReplicationController,
        Self::CronJob,
        Self::Job,
        Self::Pod,
    ];

    /// Its name, as in `kind: Pod`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
        }
    }

    /// Where it is served. `batch` is the API version in which `CronJob` is served.
    #[must_use]
    pub const fn api_version(self, batch: &str) -> &str {
        match self {
            Self::Pod | Self::ReplicationController => "v1",
            Self::Job => "batch/v1",
            Self::CronJob => batch,
            Self::StatefulSet | Self::Deployment | Self::DaemonSet | Self::ReplicaSet => "apps/v1",
        }
    }

    /// Whether its Pod template can change.
    #[must_use]
    pub const fn is_mutable(self) -> bool {
        !matches!(self, Self::Pod | Self::Job)
    }

    /// A manifest with this name and Pod spec. `batch` is the API version in which `CronJob` is served.
    #[must_use]
    pub fn manifest(self, name: &str, mut spec: Value, batch: &str) -> Value {
        let labels = json!({ "app": name });
        if matches!(self, Self::Job | Self::CronJob) {
            spec["restartPolicy"] = json!("Never");
        }
        let template = json!({ "metadata": { "labels": labels }, "spec": spec });
        let spec = match self {
            Self::Pod => spec,
            Self::ReplicationController => json!({ "selector": labels, "template": template }),
            Self::Job => json!({ "template": template }),
            Self::CronJob => {
                json!({ "schedule": "0 3 * * *", "jobTemplate": { "spec": { "template": template } } })
            }
            Self::StatefulSet => {
                json!({ "serviceName": name, "selector": { "matchLabels": labels }, "template": template })
            }
            Self::Deployment | Self::DaemonSet | Self::ReplicaSet => {
                json!({ "selector": { "matchLabels": labels }, "template": template })
            }
        };
        json!({
            "apiVersion": self.api_version(batch),
            "kind": self.name(),
            "metadata": { "name": name, "labels": labels },
            "spec": spec,
        })
    }
}

/// The Pod template in an object of any kind; a Pod is its own.
#[must_use]
pub fn template_of(object: &Value) -> &Value {
    let pointer = match object["kind"].as_str() {
        Some("Pod") => "",
        Some("CronJob") => "/spec/jobTemplate/spec/template",
        _ => "/spec/template",
    };
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// The Pod spec in an object of any kind.
#[must_use]
pub fn spec_of(object: &Value) -> &Value {
    &template_of(object)["spec"]
}

/// The same manifest under another name.
#[must_use]
pub fn renamed(manifest: &Value, name: &str) -> Value {
    let mut renamed = manifest.clone();
    renamed["metadata"]["name"] = json!(name);
    renamed
}
