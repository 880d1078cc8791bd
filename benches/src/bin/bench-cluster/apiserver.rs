//! Lists, in pages, and watches, as an API server does, and counts what it is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::{Value, json};
use testkit::api_store::{Store, is_in};
use tokio::runtime::Runtime;
use tokio::sync::broadcast::error::RecvError;

use super::listen::listen;
use super::objects::{self, KINDS, Places, Scale};

/// How often a watch says that nothing happened, as an API server does.
const BOOKMARK: Duration = Duration::from_mins(1);
/// Longest life of a watch, which clients may shorten.
const WATCH: Duration = Duration::from_mins(30);

pub struct ApiServer {
    /// Path of a list to its objects.
    lists: BTreeMap<String, Vec<String>>,
    bytes: usize,
    store: Store,
    calls: Mutex<Calls>,
}

/// How often what was asked: verb and resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls(pub BTreeMap<(String, String), usize>);

impl Calls {
    /// Those after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let calls = self.0.iter();
        let new = calls.filter_map(|(call, count)| {
            let new = count - earlier.0.get(call).copied().unwrap_or_default();
            (new > 0).then(|| (call.clone(), new))
        });
        Self(new.collect())
    }
}

impl ApiServer {
    /// Makes all objects, so that this takes no time later.
    pub fn new(scale: &Scale, places: &Places) -> Self {
        let mut lists = BTreeMap::new();
        let mut bytes = 0;
        let mut add = |path: &str, items: Vec<Value>| {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            bytes += items.iter().map(String::len).sum::<usize>();
            lists.insert(path.to_owned(), items);
        };
        for (path, kind, share) in KINDS {
            add(path, objects::workloads(kind, share, scale, places));
        }
        add("/api/v1/pods", objects::pods(scale, places));
        add("/api/v1/namespaces", objects::namespaces(scale));
        Self {
            lists,
            bytes,
            store: Store::default(),
            calls: Mutex::default(),
        }
    }

    /// Bytes of all objects as JSON.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether every list has been read to its end: then it is watched.
    pub fn is_watched(&self) -> bool {
        let calls = self.calls();
        let is_watched = |path: &String| calls.0.contains_key(&("watch".to_owned(), path.clone()));
        self.lists.keys().all(is_watched)
    }

    /// What was asked so far.
    pub fn calls(&self) -> Calls {
        self.lock().clone()
    }

    fn count(&self, verb: &str, path: &str) {
        // Names of namespaces and objects would make a line of each.
        let resource = match path.split_once("/namespaces/") {
            Some((group, rest)) => {
                let resource = rest.split('/').nth(1).unwrap_or("namespaces");
                format!("{group}/{resource}")
            }
            None => path.to_owned(),
        };
        *self
            .lock()
            .0
            .entry((verb.to_owned(), resource))
            .or_default() += 1;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn page(items: &[String], next: Option<usize>) -> Bytes {
    let next = next.map_or_else(String::new, |next| format!(r#","continue":"{next}""#));
    let metadata = format!(r#"{{"resourceVersion":"1000000"{next}}}"#);
    format!(
        r#"{{"kind":"List","apiVersion":"v1","metadata":{metadata},"items":[{}]}}"#,
        items.join(",")
    )
    .into()
}

/// Serves on a free port.
pub fn serve(runtime: &Runtime, server: Arc<ApiServer>) -> anyhow::Result<SocketAddr> {
    listen(runtime, Router::new().fallback(answer).with_state(server))
}

async fn answer(
    State(server): State<Arc<ApiServer>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    if method != Method::GET {
        server.count(&method.as_str().to_lowercase(), &path);
        // Server-side apply sends YAML, of which JSON is a part.
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, object) = server.store.write(&method, &path, &body);
        let status = StatusCode::from_u16(status).unwrap_or_default();
        return (status, object.to_string()).into_response();
    }
    let query: BTreeMap<_, _> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    if query.get("watch").is_some_and(|watch| watch == "true") {
        server.count("watch", &path);
        let seconds = query
            .get("timeoutSeconds")
            .and_then(|text| text.parse().ok());
        return watch(&server, path, seconds.map_or(WATCH, Duration::from_secs));
    }
    if let Some(items) = server.lists.get(&path) {
        server.count("list", &path);
        let number = |name: &str| query.get(name).and_then(|text| text.parse().ok());
        let from = number("continue").unwrap_or(0).min(items.len());
        let limit: usize = number("limit").unwrap_or(items.len());
        let (page_items, rest) = items
            .split_at(from)
            .1
            .split_at(limit.min(items.len() - from));
        let next = (!rest.is_empty()).then_some(from + page_items.len());
        return page(page_items, next).into_response();
    }
    if let Some(object) = server.store.get(&path) {
        server.count("get", &path);
        return object.to_string().into_response();
    }
    let is_list = ["secrets", "leases", "events"]
        .iter()
        .any(|resource| path.ends_with(resource));
    if is_list {
        server.count("list", &path);
        let items = server.store.list(&path);
        let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1000000" }, "items": items });
        return list.to_string().into_response();
    }
    server.count("get", &path);
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found" });
    (StatusCode::NOT_FOUND, status.to_string()).into_response()
}

/// What is written is told; the objects of the bench never change.
fn watch(server: &ApiServer, path: String, longest: Duration) -> Response {
    let end = tokio::time::Instant::now() + longest;
    let told = server.store.watch();
    let events = stream::unfold((told, path), move |(mut told, path)| async move {
        loop {
            let bookmark = tokio::time::Instant::now() + BOOKMARK;
            let line = tokio::select! {
                () = tokio::time::sleep_until(end) => return None,
                () = tokio::time::sleep_until(bookmark) => {
                    let object = json!({ "kind": "Bookmark", "apiVersion": "v1", "metadata": { "resourceVersion": "1000000" } });
                    format!("{}\n", json!({ "type": "BOOKMARK", "object": object }))
                }
                event = told.recv() => match event {
                    Ok((object, line)) if is_in(&object, &path) => line,
                    Ok(_) | Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return None,
                },
            };
            return Some((Ok::<_, std::io::Error>(line), (told, path)));
        }
    });
    Body::from_stream(events).into_response()
}
