//! A real API server with its etcd on loopback: RBAC, admission, an audit log; no controllers, no nodes.
//!
//! [`shared`] is one server for all tests of a process, each in a [`Namespace`] of its own; [`own`] is for a test that
//! stops it. Both start in about four seconds and take 350 MB. Nothing is left behind, however a test ends.
//!
//! [`Account`] is a user with RBAC rules, as a client and as a kubeconfig; [`Webhook`] lets the API server call the
//! policy; [`Cluster::requests`] is what was really asked.

mod access;
mod account;
mod audit;
mod namespace;
mod process;
mod programs;
mod servers;
mod webhook;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use serde_json::Value;

use access::call;
use programs::Programs;
use servers::Servers;

pub use account::Account;
pub use audit::Request;
pub use namespace::Namespace;
pub use programs::{ASSETS_VARIABLE, POLICY_VARIABLE};
pub use webhook::{FailurePolicy, Seen, Webhook, WebhookBuilder};

/// A running API server. It is killed, and all that it stored is removed, when this is dropped.
pub struct Cluster {
    servers: Servers,
    admin: Client,
    namespaces: AtomicUsize,
}

/// The server that all tests of this process share. `None` means that the test shall be skipped, which was said.
///
/// # Panics
/// When it does not start, or when there is none although it is required.
#[must_use]
pub fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let programs = programs::find_or_skip().unwrap_or_else(|error| panic!("{error:#}"))?;
    let cluster =
        SHARED.get_or_init(|| Cluster::start(programs).map_err(|error| format!("{error:#}")));
    Some(cluster.as_ref().unwrap_or_else(|error| panic!("{error}")))
}

/// A server for one test. `None` means that the test shall be skipped, which was said.
///
/// # Panics
/// When it does not start, or when there is none although it is required.
#[must_use]
pub fn own() -> Option<Cluster> {
    let programs = programs::find_or_skip().unwrap_or_else(|error| panic!("{error:#}"))?;
    Some(Cluster::start(programs).unwrap_or_else(|error| panic!("{error:#}")))
}

impl Cluster {
    fn start(programs: Programs) -> anyhow::Result<Self> {
        let servers = Servers::start(programs)?;
        Ok(Self {
            admin: servers.admin().client()?,
            servers,
            namespaces: AtomicUsize::new(0),
        })
    }

    /// A client that may do everything.
    #[must_use]
    pub fn admin(&self) -> Client {
        self.admin.clone()
    }

    /// Makes a namespace that no other test has, with the `default` `ServiceAccount` that a controller would make.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn namespace(&self, prefix: &str) -> anyhow::Result<Namespace> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        Namespace::make(self.admin(), &format!("{prefix}-{number}"))
    }

    /// Makes a `ServiceAccount` that may do what these RBAC rules say, in all namespaces.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn account(
        &self,
        namespace: &Namespace,
        name: &str,
        rules: &[PolicyRule],
    ) -> anyhow::Result<Account> {
        Account::create(&self.servers, namespace.name(), name, rules)
    }

    /// Kills the API server. What is stored stays.
    pub fn stop(&mut self) {
        self.servers.stop();
    }

    /// Starts the API server again on the same port with what was stored, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; its log is in the error then.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.servers.restart()
    }

    /// All requests so far, but for the API server's own. A request is there before its answer arrives.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        audit::parse(&self.servers.audit_log())
    }

    /// Whether the API server serves a kind, such as `CronJob` of `batch/v1`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn serves(&self, api_version: &str, kind: &str) -> anyhow::Result<bool> {
        let path = match api_version {
            "v1" => "/api/v1".to_owned(),
            other => format!("/apis/{other}"),
        };
        let request = axum::http::Request::get(path).body(Vec::new())?;
        match call(self.admin.request::<Value>(request)) {
            Ok(list) => Ok(list["resources"]
                .as_array()
                .is_some_and(|all| all.iter().any(|resource| resource["kind"] == kind))),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
