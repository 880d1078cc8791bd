//! Lets the API server call the policy, as Kubewarden's policy server registers and serves one.
//!
//! It answers for one namespace, so that tests share a server and not their policies.

use std::fs;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use serde_json::{Value, json};

use super::external::WEBHOOK_HOST_VARIABLE;
use super::namespace::{Namespace, create_global, delete_global};
use super::programs::variable;
use testkit::artifacts;
use testkit::host::{Evaluation, PolicyHost};
use testkit::server::Server;
use testkit::tls::Tls;

/// Seconds: the `timeoutSeconds` that docs/policy-settings.md sets.
const TIMEOUT: u32 = 15;
/// Where a policy server has the policy.
const PATH: &str = "/validate/clusterwide-image-mirror";
/// How often it is tried whether the API server knows the webhook; each try takes some milliseconds.
const PROBES: usize = 3000;
/// Bytes. An API server sends an object and its predecessor, and neither is larger than this.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// What happens to a request when the webhook does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// It is refused.
    Fail,
    /// It passes.
    Ignore,
}

/// One call of the API server.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The `AdmissionReview` that it sent.
    pub review: Value,
    /// What the policy made of it.
    pub evaluation: Evaluation,
}

/// What a webhook can be registered with.
pub struct WebhookBuilder {
    host: PolicyHost,
    settings: Value,
    failure_policy: FailurePolicy,
    rules: Vec<Value>,
    namespaces: Vec<String>,
    name: &'static str,
    is_whole_name: bool,
}

/// A registered webhook. It is removed when this is dropped.
pub struct Webhook {
    registration: Value,
    admin: Client,
    shared: Arc<Shared>,
    server: Option<Server>,
}

struct Shared {
    host: PolicyHost,
    settings: Mutex<Value>,
    seen: Mutex<Vec<Seen>>,
}

impl Webhook {
    /// A webhook that asks the policy in `host`, with these settings, about all that `metadata.yml` names.
    #[must_use]
    pub fn builder(host: PolicyHost, settings: Value) -> WebhookBuilder {
        WebhookBuilder {
            host,
            settings,
            failure_policy: FailurePolicy::Fail,
            rules: Vec::new(),
            namespaces: Vec::new(),
            name: "image-mirror",
            is_whole_name: false,
        }
    }

    /// What the API server asked so far, and what the policy answered.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// Forgets the cached responses of the sidecar, as a restart of the policy server does.
    pub fn clear_cache(&self) {
        self.shared.host.clear_cache();
    }

    /// Uses other settings, as a policy server does after an edit of the policy.
    pub fn set_settings(&self, settings: Value) {
        *self.shared.settings() = settings;
        self.clear_cache();
    }

    /// Closes the port; the webhook stays registered.
    pub fn go_down(&mut self) {
        self.server = None;
    }
}

impl WebhookBuilder {
    /// What happens when the webhook does not answer; default [`FailurePolicy::Fail`].
    #[must_use]
    pub fn failure_policy(mut self, policy: FailurePolicy) -> Self {
        self.failure_policy = policy;
        self
    }

    /// Creations and updates of one more resource; for versions that only old API servers serve.
    #[must_use]
    pub fn also(mut self, group: &str, version: &str, resource: &str) -> Self {
        self.rules.push(json!({
            "apiGroups": [group], "apiVersions": [version], "resources": [resource],
            "operations": ["CREATE", "UPDATE"],
        }));
        self
    }

    /// What the name of its registration begins with; the API server calls webhooks in the order of their names.
    #[must_use]
    pub fn name(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// The whole name of its registration, for a cluster that no other test uses.
    #[must_use]
    pub fn whole_name(mut self, name: &'static str) -> Self {
        self.name = name;
        self.is_whole_name = true;
        self
    }

    /// Answers for this namespace too.
    #[must_use]
    pub fn also_in(mut self, namespace: &Namespace) -> Self {
        self.namespaces.push(namespace.name().to_owned());
        self
    }

    /// Serves and registers it, and waits until the API server calls it.
    ///
    /// # Errors
    /// When the API server refuses, or does not call it in time.
    pub fn start(mut self, namespace: &Namespace, admin: Client) -> anyhow::Result<Webhook> {
        let host = variable(WEBHOOK_HOST_VARIABLE);
        let tls = Tls::generate_for(host.as_slice())?;
        let listener = match &host {
            Some(_) => TcpListener::bind("0.0.0.0:0")?,
            None => TcpListener::bind("127.0.0.1:0")?,
        };
        let host = host.as_deref().unwrap_or("127.0.0.1");
        let port = listener.local_addr()?.port();
        self.rules.extend(rules()?);
        self.namespaces.push(namespace.name().to_owned());
        let name = if self.is_whole_name {
            self.name.to_owned()
        } else {
            format!("{}-{}", self.name, namespace.name())
        };
        let registration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": name },
            "webhooks": [{
                "name": "image-mirror.kubewarden.admission",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {
                    "url": format!("https://{host}:{port}{PATH}"),
                    "caBundle": STANDARD.encode(tls.ca_pem()),
                },
                "namespaceSelector": { "matchExpressions": [
                    { "key": "kubernetes.io/metadata.name", "operator": "In", "values": self.namespaces },
                ] },
                "rules": self.rules,
                "failurePolicy": format!("{:?}", self.failure_policy),
                "sideEffects": "NoneOnDryRun",
                "timeoutSeconds": TIMEOUT,
            }],
        });
        let shared = Arc::new(Shared {
            host: self.host,
            settings: Mutex::new(self.settings),
            seen: Mutex::default(),
        });
        let app = Router::new()
            .route(PATH, post(review))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .with_state(Arc::clone(&shared));
        let server = Server::start("webhook", listener, Some(tls.server_config()?), app)?;
        create_global(&admin, &registration)?;
        let webhook = Webhook {
            registration,
            admin,
            shared,
            server: Some(server),
        };
        webhook.wait_until_called(namespace)?;
        Ok(webhook)
    }
}

impl Webhook {
    /// The API server learns of its own webhooks by a watch. A Pod that opted out tells when, and leaves no trace.
    fn wait_until_called(&self, namespace: &Namespace) -> anyhow::Result<()> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "probe", "annotations": { "image-mirror.dev/skip": "true" } },
            "spec": { "containers": [{ "name": "probe", "image": "probe" }] },
        });
        for _ in 0..PROBES {
            namespace
                .dry_run()
                .create(&pod)
                .context("the webhook cannot be probed")?;
            if !self.seen().is_empty() {
                self.shared.seen().clear();
                return Ok(());
            }
        }
        anyhow::bail!("the API server does not call the webhook")
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        // The API server may be gone already.
        let _ = delete_global(&self.admin, &self.registration);
    }
}

impl Shared {
    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> std::sync::MutexGuard<'_, Value> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn review(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    // The policy waits for its callbacks.
    let answer = tokio::task::spawn_blocking(move || answer(&shared, &body)).await;
    match answer {
        Ok(Ok(answer)) => {
            ([(CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
        }
        Ok(Err(error)) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}")).into_response(),
        Err(panic) => (StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()).into_response(),
    }
}

fn answer(shared: &Shared, body: &[u8]) -> anyhow::Result<Value> {
    let review: Value = serde_json::from_slice(body)?;
    let settings = shared.settings().clone();
    let evaluation = shared.host.evaluate(&review, &settings)?;
    let answer = json!({
        "apiVersion": review["apiVersion"],
        "kind": review["kind"],
        "response": evaluation.response,
    });
    shared.seen().push(Seen { review, evaluation });
    Ok(answer)
}

/// The rules of the published policy.
fn rules() -> anyhow::Result<Vec<Value>> {
    let metadata = fs::read_to_string(artifacts::workspace().join("metadata.yml"))?;
    let metadata: Value = yaml_serde::from_str(&metadata)?;
    let rules = metadata["rules"].as_array().cloned().unwrap_or_default();
    ensure!(!rules.is_empty(), "metadata.yml has no rules");
    Ok(rules)
}
