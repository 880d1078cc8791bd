//! An API server in this process: lists in pages, watches, and a store for what clients write.
//!
//! A test makes the lists: from a path, an offset and a limit, it returns a page, or `None` for a resource that there is not.
//! These objects never change. Secrets, Leases and Events are what clients have written, and watches report it.

mod store;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::blocking;
use crate::scripted::Fake;
use store::{Store, is_in};

/// How often a watch reports that nothing happened, as an API server does.
const BOOKMARK: Duration = Duration::from_mins(1);
/// Longest life of a watch, which clients may shorten.
const WATCH: Duration = Duration::from_mins(30);
/// Objects on a page if the client sets no limit.
const PAGE: usize = 1 << 20;
/// Resources whose objects are those that clients have written.
const STORED: [&str; 3] = ["secrets", "leases", "events"];

/// A part of a list.
#[derive(Default)]
pub struct Page {
    items: Vec<String>,
    has_more: bool,
}

impl Page {
    /// A page of these objects, as JSON.
    pub fn new(items: impl IntoIterator<Item = impl ToString>, has_more: bool) -> Self {
        Self {
            items: items.into_iter().map(|item| item.to_string()).collect(),
            has_more,
        }
    }

    /// The part of `count` objects that was asked for; `object` makes one from its number.
    pub fn part<T: ToString>(
        from: usize,
        limit: usize,
        count: usize,
        object: impl Fn(usize) -> T,
    ) -> Self {
        let until = from.saturating_add(limit).min(count);
        Self::new((from..until).map(object), until < count)
    }
}

/// How often each verb and resource was requested.
pub type Calls = BTreeMap<(String, String), usize>;

/// A running server.
pub struct ApiServer {
    /// Serves, logs requests and makes them go wrong.
    pub server: Fake,
    store: Arc<Store>,
}

impl ApiServer {
    /// Starts one on a free port.
    pub fn start(
        lists: impl Fn(&str, usize, usize) -> Option<Page> + Send + Sync + 'static,
    ) -> Self {
        let store = Arc::new(Store::default());
        let server = blocking::run(Fake::start());
        let stored = Arc::clone(&store);
        server.set(|knobs| {
            knobs.other = Some(Arc::new(
                move |method: &Method, path: &str, query: &str, body: &Bytes| {
                    respond(&stored, &lists, method, path, query, body)
                },
            ));
        });
        Self { server, store }
    }

    /// A kubeconfig for it, as a file that is removed with the value.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self) -> anyhow::Result<NamedTempFile> {
        let address = format!("http://{}", self.server.host());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "clusters": [{ "name": "test", "cluster": { "server": address } }],
            "users": [{ "name": "test", "user": {} }],
        });
        let mut file = NamedTempFile::new()?;
        file.write_all(config.to_string().as_bytes())?;
        Ok(file)
    }

    /// What clients have written to the resource of this path, in all namespaces or in that of the path.
    #[must_use]
    pub fn stored(&self, path: &str) -> Vec<Value> {
        self.store.list(path)
    }

    /// Whether a client watches the list of this path.
    #[must_use]
    pub fn is_watched(&self, path: &str) -> bool {
        let state = self.server.state();
        let mut log = state.log.iter();
        log.any(|entry| entry.path == path && is_watch(&entry.query))
    }

    /// The requests so far, by verb and resource: names of namespaces and objects would make a line of each.
    #[must_use]
    pub fn calls(&self) -> Calls {
        let mut calls = Calls::new();
        for entry in &self.server.state().log {
            let verb = match entry.method {
                Method::GET if is_watch(&entry.query) => "watch".to_owned(),
                Method::GET if is_object(&entry.path) => "get".to_owned(),
                Method::GET => "list".to_owned(),
                _ => entry.method.as_str().to_lowercase(),
            };
            let resource = match entry.path.split_once("/namespaces/") {
                Some((group, rest)) => {
                    let resource = rest.split('/').nth(1).unwrap_or("namespaces");
                    format!("{group}/{resource}")
                }
                None => entry.path.clone(),
            };
            *calls.entry((verb, resource)).or_default() += 1;
        }
        calls
    }
}

fn respond(
    store: &Store,
    lists: &impl Fn(&str, usize, usize) -> Option<Page>,
    method: &Method,
    path: &str,
    query: &str,
    body: &Bytes,
) -> Response<Body> {
    if *method != Method::GET {
        // Server-side apply sends YAML, of which JSON is a part.
        let body = serde_json::from_slice(body).unwrap_or(Value::Null);
        let (status, object) = store.write(method, path, &body);
        return response(status, object.to_string());
    }
    let query: BTreeMap<_, _> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let number = |name: &str| query.get(name).and_then(|text| text.parse().ok());
    if query.get("watch").is_some_and(|watch| watch == "true") {
        let seconds = query
            .get("timeoutSeconds")
            .and_then(|text| text.parse().ok());
        return watch(store, path, seconds.map_or(WATCH, Duration::from_secs));
    }
    if is_object(path) {
        let object = store.get(path).ok_or(404);
        return object.map_or_else(failed, |object| response(200, object.to_string()));
    }
    let (from, limit) = (
        number("continue").unwrap_or(0),
        number("limit").unwrap_or(PAGE),
    );
    let is_stored = STORED.iter().any(|resource| path.ends_with(resource));
    let page = if is_stored {
        Some(Page::new(store.list(path), false))
    } else {
        lists(path, from, limit)
    };
    match page {
        Some(page) => response(200, list(&page, from)),
        None => failed(404),
    }
}

/// Whether a path is that of an object, not of a list.
fn is_object(path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    // The version, and the group of all but the oldest kinds.
    let _ = match parts.next() {
        Some("apis") => parts.nth(1),
        _ => parts.next(),
    };
    match parts.collect::<Vec<_>>().as_slice() {
        ["namespaces", _, _, rest @ ..] | [_, rest @ ..] => !rest.is_empty(),
        [] => false,
    }
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|pair| pair == "watch=true")
}

fn list(page: &Page, from: usize) -> String {
    let next = if page.has_more {
        format!(r#","continue":"{}""#, from + page.items.len())
    } else {
        String::new()
    };
    format!(
        r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"1000000"{next}}},"items":[{}]}}"#,
        page.items.join(",")
    )
}

/// Reports what is written.
fn watch(store: &Store, path: &str, longest: Duration) -> Response<Body> {
    let end = Instant::now() + longest;
    let state = (store.watch(), path.to_owned());
    let events = stream::unfold(state, move |(mut events, path)| async move {
        loop {
            let bookmark = Instant::now() + BOOKMARK;
            let line = tokio::select! {
                () = tokio::time::sleep_until(end) => return None,
                () = tokio::time::sleep_until(bookmark) => {
                    let object = json!({ "kind": "Bookmark", "apiVersion": "v1", "metadata": { "resourceVersion": "1000000" } });
                    format!("{}\n", json!({ "type": "BOOKMARK", "object": object }))
                }
                event = events.recv() => match event {
                    Ok((object, line)) if is_in(&object, &path) => line,
                    Ok(_) | Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return None,
                },
            };
            return Some((Ok::<_, std::io::Error>(line), (events, path)));
        }
    });
    Response::new(Body::from_stream(events))
}

fn failed(code: u16) -> Response<Body> {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "NotFound", "message": "not found" });
    response(code, status.to_string())
}

fn response(status: u16, json: String) -> Response<Body> {
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    response.body(json.into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("/api/v1/pods", false)]
    #[case("/api/v1/namespaces", false)]
    #[case("/api/v1/namespaces/shop", true)]
    #[case("/api/v1/namespaces/shop/secrets", false)]
    #[case("/api/v1/namespaces/shop/secrets/pull", true)]
    #[case("/apis/apps/v1/deployments", false)]
    #[case("/apis/coordination.k8s.io/v1/namespaces/a/leases", false)]
    #[case("/apis/coordination.k8s.io/v1/namespaces/a/leases/b", true)]
    fn objects_and_lists_differ(#[case] path: &str, #[case] expected: bool) {
        assert_eq!(is_object(path), expected);
    }

    #[test]
    fn pages_follow_each_other() {
        let page = |from| list(&Page::part(from, 2, 3, |number| number), from);
        let text = |metadata: &str, items: &str| {
            format!(
                r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"1000000"{metadata}}},"items":[{items}]}}"#
            )
        };
        assert_eq!(page(0), text(r#","continue":"2""#, "0,1"));
        assert_eq!(page(2), text("", "2"));
    }
}
