//! A webhook that adds a container to every new Pod of a namespace, as a service mesh does.

use std::net::TcpListener;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Cluster;
use super::global::GlobalObject;
use super::namespace::Namespace;
use testkit::server::Server;
use testkit::tls::Tls;

/// How often it is tried whether the API server knows the webhook; each try takes some milliseconds.
const PROBES: usize = 3000;

/// The name of the container that it adds.
pub const INJECTED: &str = "injected-proxy";

/// A registered injector. It is removed when this is dropped.
pub struct Injector {
    _registration: GlobalObject,
    _server: Server,
}

impl Injector {
    /// Injects a container with this image. The name of the registration sorts after that of Kubewarden's.
    ///
    /// # Errors
    /// When the API server refuses, or does not call it in time.
    pub fn start(cluster: &Cluster, namespace: &Namespace, image: &str) -> anyhow::Result<Self> {
        let tls = Tls::generate_for(&[])?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let container = json!({ "name": INJECTED, "image": image });
        let inject = async move |body: Bytes| {
            let review = serde_json::from_slice(&body).unwrap_or_default();
            let answer = answer(&review, &container).to_string();
            ([(CONTENT_TYPE, "application/json")], answer)
        };
        let app = Router::new().route("/inject", post(inject));
        let server = Server::start("injector", listener, Some(tls.server_config()?), app)?;
        let registration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": format!("proxy-injector-{}", namespace.name()) },
            "webhooks": [{
                "name": "proxy-injector.example.com",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {
                    "url": format!("https://127.0.0.1:{port}/inject"),
                    "caBundle": STANDARD.encode(tls.ca_pem()),
                },
                "namespaceSelector": { "matchExpressions": [
                    { "key": "kubernetes.io/metadata.name", "operator": "In", "values": [namespace.name()] },
                ] },
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
                }],
                "failurePolicy": "Fail",
                "sideEffects": "None",
            }],
        });
        let injector = Self {
            _registration: GlobalObject::create(cluster, registration)?,
            _server: server,
        };
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "probe" },
            "spec": { "containers": [{ "name": "probe", "image": "probe" }] },
        });
        for _ in 0..PROBES {
            let stored = namespace
                .dry_run()
                .create(&pod)
                .context("the injector cannot be probed")?;
            if stored["spec"]["containers"][1]["name"] == INJECTED {
                return Ok(injector);
            }
        }
        anyhow::bail!("the API server does not call the injector")
    }
}

fn answer(review: &Value, container: &Value) -> Value {
    let request = &review["request"];
    let containers = request["object"]["spec"]["containers"].as_array();
    let is_there = containers
        .into_iter()
        .flatten()
        .any(|container| container["name"] == INJECTED);
    let mut response = json!({ "uid": request["uid"], "allowed": true });
    if !is_there {
        let patch = json!([{ "op": "add", "path": "/spec/containers/-", "value": container }]);
        response["patchType"] = "JSONPatch".into();
        response["patch"] = STANDARD.encode(patch.to_string()).into();
    }
    json!({ "apiVersion": review["apiVersion"], "kind": review["kind"], "response": response })
}
