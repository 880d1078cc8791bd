//! The objects that a scripted API server stores: what the sidecar writes, such as Secrets, Leases and Events. Watches get
//! every change.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::http::Method;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// Watch events that a slow watcher may be behind.
const BEHIND: usize = 4096;

/// Objects by their path.
pub struct Store {
    objects: Mutex<Objects>,
    told: broadcast::Sender<(String, String)>,
}

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Value>,
    version: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            objects: Mutex::default(),
            told: broadcast::Sender::new(BEHIND),
        }
    }
}

impl Store {
    /// Carries out a write; returns the status and the response.
    pub fn write(&self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.version += 1;
        let version = (1_000_000 + objects.version).to_string();
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let path = match *method {
            Method::POST => format!("{path}/{name}"),
            _ => path.to_owned(),
        };
        let old = objects.by_path.get(&path).cloned();
        let (change, status, object) = match (method, old) {
            (&Method::POST, Some(_)) => return (409, failure(409, "AlreadyExists")),
            (&Method::DELETE, None) => return (404, failure(404, "NotFound")),
            (&Method::DELETE, Some(old)) => {
                objects.by_path.remove(&path);
                ("DELETED", 200, old)
            }
            (_, old) => {
                let mut object = old.clone().unwrap_or_else(|| json!({}));
                merge(&mut object, body);
                object["metadata"]["resourceVersion"] = json!(version);
                if object["metadata"]["uid"].is_null() {
                    object["metadata"]["uid"] = json!(format!("uid-{version}"));
                    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
                }
                if let Some(namespace) = namespace_of(&path) {
                    object["metadata"]["namespace"] = json!(namespace);
                }
                objects.by_path.insert(path.clone(), object.clone());
                match old {
                    Some(_) => ("MODIFIED", 200, object),
                    None => ("ADDED", 201, object),
                }
            }
        };
        let event = json!({ "type": change, "object": object });
        // Nobody may be watching.
        let _ = self.told.send((path, format!("{event}\n")));
        (status, object)
    }

    /// One object.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.by_path.get(path).cloned()
    }

    /// All objects of a resource, in all namespaces or in that of the path.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<Value> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let all = objects.by_path.iter();
        all.filter(|(other, _)| is_in(other, path))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The events of all watches; see [`is_in`].
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<(String, String)> {
        self.told.subscribe()
    }
}

/// Whether an object is in a list: `/api/v1/namespaces/a/secrets/b` is in `/api/v1/secrets` and in
/// `/api/v1/namespaces/a/secrets`.
#[must_use]
pub fn is_in(object: &str, list: &str) -> bool {
    let parent = object.rsplit_once('/').map_or("", |(parent, _)| parent);
    let everywhere = match (parent.split_once("/namespaces/"), parent.rsplit_once('/')) {
        (Some((group, _)), Some((_, resource))) => format!("{group}/{resource}"),
        _ => String::new(),
    };
    parent == list || everywhere == list
}

fn namespace_of(path: &str) -> Option<&str> {
    path.split_once("/namespaces/")?.1.split('/').next()
}

fn failure(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason })
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().and_then(|fields| fields.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}
