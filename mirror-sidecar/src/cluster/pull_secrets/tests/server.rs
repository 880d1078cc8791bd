//! An API server that knows Secrets and nothing else, in memory, in which things go wrong when a test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cluster::testing::refusal;

pub const NAME: &str = "image-mirror-pull";
const LIST: &str = "/api/v1/secrets";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It answers with this status.
    Status(u16),
    /// It never answers.
    Hang,
    /// It answers after this time.
    Slow(Duration),
}

#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    world: Mutex<World>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct World {
    namespaces: BTreeSet<String>,
    terminating: BTreeSet<String>,
    secrets: BTreeMap<String, Value>,
    /// Every change, with the version that it made.
    history: Vec<Value>,
    /// Requests but lists and watches: method and namespace, and `dry` if nothing was to be stored.
    writes: Vec<String>,
    fault: Option<Fault>,
}

impl Server {
    pub fn start() -> Self {
        let world = World {
            namespaces: BTreeSet::from(["shop".to_owned()]),
            ..World::default()
        };
        Self(Arc::new(Shared {
            world: Mutex::new(world),
            changed: watch::Sender::new(()),
        }))
    }

    pub fn client(&self) -> kube::Client {
        let router = Router::new().fallback(answer).with_state(self.clone());
        kube::Client::new(router, "default")
    }

    pub fn add_namespace(&self, name: &str) {
        self.world().namespaces.insert(name.to_owned());
    }

    pub fn terminate(&self, name: &str) {
        self.world().terminating.insert(name.to_owned());
    }

    pub fn fail(&self, fault: impl Into<Option<Fault>>) {
        self.world().fault = fault.into();
    }

    /// What is stored in a namespace.
    pub fn get(&self, namespace: &str) -> Option<Value> {
        self.world().secrets.get(namespace).cloned()
    }

    /// The login that is stored in a namespace, as `user:password`.
    pub fn login(&self, namespace: &str) -> Option<String> {
        self.login_for(namespace, "registry.example")
    }

    /// The same for another registry.
    pub fn login_for(&self, namespace: &str, registry: &str) -> Option<String> {
        let secret = self.get(namespace)?;
        let config = decode(secret["data"][".dockerconfigjson"].as_str()?)?;
        let config: Value = serde_json::from_str(&config).ok()?;
        decode(config["auths"][registry]["auth"].as_str()?)
    }

    /// The registries of the logins that are stored in a namespace.
    pub fn keys(&self, namespace: &str) -> Vec<String> {
        let secret = self.get(namespace);
        let config =
            secret.and_then(|secret| decode(secret["data"][".dockerconfigjson"].as_str()?));
        let config: Value = serde_json::from_str(&config.unwrap_or_default()).unwrap_or_default();
        let auths = config["auths"].as_object();
        auths
            .into_iter()
            .flat_map(|auths| auths.keys().cloned())
            .collect()
    }

    /// Somebody else stores this.
    pub fn put(&self, namespace: &str, secret: Value) {
        self.world().store(namespace, secret);
        self.tell();
    }

    /// Somebody else deletes it.
    pub fn delete(&self, namespace: &str) {
        self.world().remove(namespace);
        self.tell();
    }

    pub fn writes(&self) -> Vec<String> {
        self.world().writes.clone()
    }

    /// Waits for something to be stored so.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let mut changes = self.0.changed.subscribe();
        let wait = async {
            while !is_so(self) {
                changes.changed().await.unwrap();
            }
        };
        let in_time = tokio::time::timeout(Duration::from_hours(2), wait).await;
        in_time.unwrap_or_else(|_| panic!("{what}: {:?}", self.writes()));
    }

    fn tell(&self) {
        self.0.changed.send_replace(());
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap()
    }

    /// What happened since, and what will.
    fn events(&self, since: usize) -> Response {
        let changes = self.0.changed.subscribe();
        let events = stream::unfold(
            (self.clone(), changes, since),
            |(server, mut changes, at)| async move {
                loop {
                    let next = server.world().history.get(at).cloned();
                    if let Some(event) = next {
                        let line = Ok::<_, std::io::Error>(format!("{event}\n"));
                        return Some((line, (server, changes, at + 1)));
                    }
                    changes.changed().await.ok()?;
                }
            },
        );
        Body::from_stream(events).into_response()
    }
}

impl World {
    fn store(&mut self, namespace: &str, mut secret: Value) -> Value {
        let old = self.secrets.get(namespace);
        let version = (self.history.len() + 1).to_string();
        let uid = old.map_or_else(
            || json!(format!("uid-{version}")),
            |old| old["metadata"]["uid"].clone(),
        );
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let metadata = &mut secret["metadata"];
        metadata["name"] = json!(NAME);
        metadata["namespace"] = json!(namespace);
        metadata["uid"] = uid;
        metadata["resourceVersion"] = json!(version);
        self.history.push(json!({ "type": kind, "object": secret }));
        self.secrets.insert(namespace.to_owned(), secret.clone());
        secret
    }

    fn remove(&mut self, namespace: &str) {
        if let Some(mut secret) = self.secrets.remove(namespace) {
            secret["metadata"]["resourceVersion"] = json!((self.history.len() + 1).to_string());
            self.history
                .push(json!({ "type": "DELETED", "object": secret }));
        }
    }

    fn write(&mut self, method: &Method, namespace: &str, query: &str, body: &Value) -> Response {
        let is_dry = query.contains("dryRun=All");
        let dry = if is_dry { " dry" } else { "" };
        self.writes.push(format!("{method} {namespace}{dry}"));
        let old = self.secrets.get(namespace);
        if *method == Method::POST {
            if self.terminating.contains(namespace) {
                return refusal(403, "Forbidden", Some("NamespaceTerminating"));
            }
            if !self.namespaces.contains(namespace) {
                return refusal(404, "NotFound", None);
            }
            if old.is_some() {
                return refusal(409, "AlreadyExists", None);
            }
            assert!(query.contains("fieldManager=mirror-sidecar"), "{query}");
            let stored = if is_dry {
                body.clone()
            } else {
                self.store(namespace, body.clone())
            };
            return stored.to_string().into_response();
        }
        let Some(old) = old.cloned() else {
            return refusal(404, "NotFound", None);
        };
        let wanted = match *method {
            Method::PATCH => &body["metadata"],
            Method::DELETE => &body["preconditions"],
            _ => return old.to_string().into_response(),
        };
        let is_same = ["uid", "resourceVersion"]
            .iter()
            .all(|field| wanted[field] == old["metadata"][field]);
        if !is_same {
            return refusal(409, "Conflict", None);
        }
        if *method == Method::DELETE {
            self.remove(namespace);
            return old.to_string().into_response();
        }
        assert!(query.contains("force=true"), "{query}");
        if old["immutable"] == true || old["type"] != body["type"] {
            return refusal(422, "Invalid", None);
        }
        self.store(namespace, body.clone())
            .to_string()
            .into_response()
    }
}

async fn answer(State(server): State<Server>, method: Method, uri: Uri, body: Bytes) -> Response {
    let query = uri.query().unwrap_or_default().to_owned();
    let fault = server.world().fault;
    match fault {
        Some(Fault::Status(code)) => return refusal(code, "Broken", None),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        None => {}
    }
    if uri.path() == LIST {
        assert!(
            query.contains("fieldSelector=metadata.name%3Dimage-mirror-pull"),
            "{query}"
        );
        if query.contains("watch=true") {
            let since = query
                .split('&')
                .find_map(|part| part.strip_prefix("resourceVersion="));
            return server.events(since.unwrap().parse().unwrap());
        }
        let world = server.world();
        let items: Vec<_> = world.secrets.values().collect();
        let version = world.history.len().to_string();
        let list = json!({ "items": items, "metadata": { "resourceVersion": version } });
        return list.to_string().into_response();
    }
    let rest = uri.path().strip_prefix("/api/v1/namespaces/").unwrap();
    let namespace = rest.split('/').next().unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let answer = server.world().write(&method, namespace, &query, &body);
    server.tell();
    answer
}

fn decode(text: &str) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    String::from_utf8(bytes).ok()
}
