//! A scripted API server: lists in pages of any size, silent watches, and a store for what the sidecar writes.

use std::io::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::site::response;
use testkit::api_store::Store;
use testkit::blocking;
use testkit::scripted::Fake;

/// Serves what `list` returns for a path, a first object and a number of objects: the objects, and whether there are more.
pub fn serve(
    list: impl Fn(&str, usize, usize) -> (Vec<Value>, bool) + Send + Sync + 'static,
) -> Fake {
    let store = Store::default();
    let server = blocking::run(Fake::start());
    server.set(|knobs| {
        knobs.other = Some(Arc::new(
            move |method: &Method, path: &str, query: &str, body: &Bytes| {
                respond(&store, &list, method, path, query, body)
            },
        ));
    });
    server
}

fn respond(
    store: &Store,
    list: &(impl Fn(&str, usize, usize) -> (Vec<Value>, bool) + Send + Sync),
    method: &Method,
    path: &str,
    query: &str,
    body: &Bytes,
) -> Response<Body> {
    let json_response =
        |status, value: &Value| response(status, "application/json", value.to_string());
    if *method != Method::GET {
        // Server-side apply sends YAML, of which JSON is a part.
        let body = serde_json::from_slice(body).unwrap_or(Value::Null);
        let (status, object) = store.write(method, path, &body);
        return json_response(status, &object);
    }
    let parameter = |name: &str| {
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    };
    if parameter("watch").as_deref() == Some("true") {
        let silence = stream::pending::<Result<Bytes, std::io::Error>>();
        return Response::new(Body::from_stream(silence));
    }
    if let Some(object) = store.get(path) {
        return json_response(200, &object);
    }
    let is_object = path.contains("/namespaces/")
        && path
            .rsplit('/')
            .nth(1)
            .is_some_and(|parent| parent.ends_with('s'))
        && path.split('/').count() % 2 == 1;
    let number = |name: &str| parameter(name).and_then(|text| text.parse().ok());
    let (from, limit) = (
        number("continue").unwrap_or(0),
        number("limit").unwrap_or(500),
    );
    let (mut items, has_more) = list(path, from, limit);
    if items.is_empty() {
        items = store.list(path);
    }
    if items.is_empty() && is_object {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found" });
        return json_response(404, &status);
    }
    let next = has_more.then(|| (from + limit).to_string());
    let page = json!({
        "kind": "List", "apiVersion": "v1",
        "metadata": { "resourceVersion": "1000000", "continue": next },
        "items": items,
    });
    json_response(200, &page)
}

/// A kubeconfig for a server, as a file that goes away with the value.
pub fn kubeconfig(server: &Fake) -> anyhow::Result<NamedTempFile> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "attack",
        "contexts": [{ "name": "attack", "context": { "cluster": "attack", "user": "attack" } }],
        "clusters": [{ "name": "attack", "cluster": { "server": format!("http://{}", server.host()) } }],
        "users": [{ "name": "attack", "user": {} }],
    });
    let mut file = NamedTempFile::new()?;
    file.write_all(config.to_string().as_bytes())?;
    Ok(file)
}
