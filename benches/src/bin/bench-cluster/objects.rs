//! What the cluster stores: objects as large as real ones, with what controllers and kubelets write into them.
//!
//! Everything was rewritten by the policy already: a cluster is in this state nearly always.

use std::collections::BTreeMap;

use mirror_contract::{Backup, ImageRef, Naming};
use serde_json::{Value, json};
use testkit::api_server::Page;

use super::REPOSITORY;

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub workloads: usize,
    pub pods: usize,
    pub images: usize,
    pub namespaces: usize,
}

/// Where images are.
pub struct Places {
    backup: Backup,
    upstream: String,
}

/// The kinds, where they are served, and how many of 20 workloads are of it. A Deployment has one `ReplicaSet`.
const KINDS: [(&str, &str, usize); 7] = [
    ("/apis/apps/v1/deployments", "Deployment", 8),
    ("/apis/apps/v1/replicasets", "ReplicaSet", 8),
    ("/apis/apps/v1/statefulsets", "StatefulSet", 1),
    ("/apis/apps/v1/daemonsets", "DaemonSet", 1),
    ("/apis/batch/v1/cronjobs", "CronJob", 1),
    ("/apis/batch/v1/jobs", "Job", 1),
    ("/api/v1/replicationcontrollers", "ReplicationController", 0),
];

impl Places {
    pub fn new(backup: &str, upstream: &str) -> anyhow::Result<Self> {
        let backup = Backup::new(backup, REPOSITORY, Naming::Flat)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self {
            backup,
            upstream: upstream.to_owned(),
        })
    }

    fn original(&self, number: usize) -> String {
        format!("{}/team/app-{number}:v1", self.upstream)
    }

    fn copy(&self, number: usize) -> String {
        let original = self.original(number);
        let copy = ImageRef::parse(&original)
            .ok()
            .and_then(|image| self.backup.target(&image).ok());
        copy.map_or(original, |copy| copy.to_string())
    }
}

/// All objects, made once, so that this takes no time later.
pub struct Cluster {
    /// The objects as JSON, by the path of their list.
    pub lists: BTreeMap<String, Vec<String>>,
}

impl Cluster {
    pub fn new(scale: &Scale, places: &Places) -> Self {
        let mut lists = BTreeMap::new();
        let mut add = |path: &str, items: Vec<Value>| {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            lists.insert(path.to_owned(), items);
        };
        for (path, kind, share) in KINDS {
            add(path, workloads(kind, share, scale, places));
        }
        add("/api/v1/pods", pods(scale, places));
        add("/api/v1/namespaces", namespaces(scale));
        Self { lists }
    }

    /// Bytes of all objects as JSON.
    pub fn bytes(&self) -> usize {
        self.lists.values().flatten().map(String::len).sum()
    }

    /// A part of a list.
    pub fn page(&self, path: &str, from: usize, limit: usize) -> Option<Page> {
        let items = self.lists.get(path)?;
        Some(Page::part(from, limit, items.len(), |number| {
            &items[number]
        }))
    }
}

/// All Pods.
fn pods(scale: &Scale, places: &Places) -> Vec<Value> {
    let pods = 0..scale.pods;
    pods.map(|number| {
        let name = format!("app-{}-7d9f8b6c5d-{:05x}", number % 8_000, number);
        let mut object = json!({
            "metadata": metadata(scale, number, &name, Some(("ReplicaSet", number % 8_000))),
            "spec": pod_spec(scale, places, number),
            "status": status(number),
        });
        annotate(&mut object["metadata"], scale, places, number);
        object
    })
    .collect()
}

/// All workloads of a kind of [`KINDS`].
fn workloads(kind: &str, share: usize, scale: &Scale, places: &Places) -> Vec<Value> {
    let count = scale.workloads * share / 20;
    let objects = 0..count;
    objects
        .map(|number| {
            let owner = (kind == "ReplicaSet").then_some(("Deployment", number));
            let name = format!("{}-{number}", kind.to_lowercase());
            let mut template = json!({
                "metadata": { "labels": labels(number) },
                "spec": pod_spec(scale, places, number),
            });
            annotate(&mut template["metadata"], scale, places, number);
            let spec = match kind {
                "CronJob" => json!({
                    "schedule": "*/15 * * * *", "concurrencyPolicy": "Forbid",
                    "jobTemplate": { "spec": { "template": template } },
                }),
                _ => json!({
                    "replicas": 3, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                    "selector": { "matchLabels": labels(number) },
                    "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
                    "template": template,
                }),
            };
            json!({
                "metadata": metadata(scale, number, &name, owner),
                "spec": spec,
                "status": {
                    "observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "availableReplicas": 3,
                    "conditions": [condition("Available"), condition("Progressing")],
                },
            })
        })
        .collect()
}

/// All namespaces.
fn namespaces(scale: &Scale) -> Vec<Value> {
    let numbers = 0..scale.namespaces;
    numbers
        .map(|number| {
            json!({
                "metadata": { "name": namespace(scale, number), "uid": uid(number), "resourceVersion": "1" },
                "status": { "phase": "Active" },
            })
        })
        .collect()
}

fn namespace(scale: &Scale, number: usize) -> String {
    format!("team-{}", number % scale.namespaces.max(1))
}

fn uid(number: usize) -> String {
    format!("6f1c2d3e-0000-4000-8000-{number:012x}")
}

fn labels(number: usize) -> Value {
    json!({
        "app.kubernetes.io/name": format!("app-{number}"),
        "app.kubernetes.io/instance": format!("app-{number}-production"),
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/version": "1.27.4",
        "helm.sh/chart": "app-4.11.2",
    })
}

fn metadata(scale: &Scale, number: usize, name: &str, owner: Option<(&str, usize)>) -> Value {
    let mut metadata = json!({
        "name": name,
        "namespace": namespace(scale, number),
        "uid": uid(number),
        "resourceVersion": (1000 + number).to_string(),
        "generation": 2,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": labels(number),
        "annotations": {
            "meta.helm.sh/release-name": format!("app-{number}"),
            "prometheus.io/scrape": "true", "prometheus.io/port": "9090",
            "checksum/config": "0f343b0931126a20f133d67c2b018a3b0f343b0931126a20f133d67c2b018a3b",
        },
        "managedFields": [managed("helm"), managed("kube-controller-manager"), managed("kubelet")],
    });
    if let Some((kind, owner)) = owner {
        metadata["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": kind, "name": format!("{}-{owner}", kind.to_lowercase()),
            "uid": uid(owner), "controller": true, "blockOwnerDeletion": true,
        }]);
    }
    metadata
}

/// What a controller manages; in real objects this is the largest part.
fn managed(manager: &str) -> Value {
    json!({
        "manager": manager, "operation": "Update", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": { "f:metadata": { "f:labels": { ".": {}, "f:app.kubernetes.io/name": {}, "f:helm.sh/chart": {} } },
            "f:spec": { "f:containers": { "k:{\"name\":\"app\"}": { ".": {}, "f:image": {}, "f:imagePullPolicy": {},
                "f:livenessProbe": { ".": {}, "f:httpGet": { ".": {}, "f:path": {}, "f:port": {}, "f:scheme": {} } },
                "f:resources": { ".": {}, "f:limits": { ".": {}, "f:memory": {} }, "f:requests": { ".": {}, "f:cpu": {} } } } } } },
    })
}

/// The images of an object: its own one, and one that many share.
fn images(scale: &Scale, number: usize) -> [usize; 2] {
    let images = scale.images.max(1);
    [number % images, (number / 7) % images.min(50)]
}

/// The policy's note.
fn annotate(metadata: &mut Value, scale: &Scale, places: &Places, number: usize) {
    let [app, proxy] = images(scale, number).map(|image| places.original(image));
    let note = json!({ "app": app, "proxy": proxy }).to_string();
    metadata["annotations"]["image-mirror.dev/original-images"] = json!(note);
}

fn pod_spec(scale: &Scale, places: &Places, number: usize) -> Value {
    let container = |name: &str, image: String| {
        json!({
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent",
            "args": ["--config=/etc/app/config.yaml", "--log-format=json", "--listen=:8080"],
            "env": [
                { "name": "POD_NAME", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } },
                { "name": "DATABASE_URL", "valueFrom": { "secretKeyRef": { "name": "database", "key": "url" } } },
                { "name": "LOG_LEVEL", "value": "info" },
            ],
            "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
            "livenessProbe": { "httpGet": { "path": "/healthz", "port": "http" }, "periodSeconds": 10, "failureThreshold": 3 },
            "readinessProbe": { "httpGet": { "path": "/readyz", "port": "http" }, "periodSeconds": 5, "failureThreshold": 3 },
            "resources": { "limits": { "memory": "256Mi" }, "requests": { "cpu": "100m", "memory": "128Mi" } },
            "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true },
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/app" }, { "name": "tmp", "mountPath": "/tmp" }],
        })
    };
    let [app, proxy] = images(scale, number).map(|image| places.copy(image));
    json!({
        "containers": [container("app", app), container("proxy", proxy)],
        "imagePullSecrets": [{ "name": "image-mirror-pull" }],
        "nodeName": format!("node-{}", number % 500),
        "serviceAccountName": "app", "restartPolicy": "Always", "schedulerName": "default-scheduler",
        "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }],
        "volumes": [{ "name": "config", "configMap": { "name": "app", "defaultMode": 420 } }, { "name": "tmp", "emptyDir": {} }],
    })
}

fn condition(name: &str) -> Value {
    json!({ "type": name, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "AsExpected", "message": "all is as it shall be" })
}

fn status(number: usize) -> Value {
    json!({
        "phase": "Running", "podIP": format!("10.{}.{}.{}", number % 200, number % 251, number % 253), "qosClass": "Burstable",
        "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled")],
        "containerStatuses": [{ "name": "app", "ready": true, "restartCount": 0, "started": true,
            "imageID": format!("sha256:{number:064x}"), "containerID": format!("containerd://{number:064x}"),
            "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } } }],
    })
}
