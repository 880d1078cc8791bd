//! A real API server with its etcd on loopback: RBAC, admission, an audit log; no controllers, no nodes.
//!
//! [`shared`] is one server for all tests of a process, each in a [`Namespace`] of its own; [`alone`] is for a test with a
//! sidecar that watches all of them; [`own`] is for a test that stops it. They start in about four seconds and take 350 MB.
//! Nothing is left behind, however a test ends.
//!
//! [`Account`] is a user with RBAC rules, as a client and as a kubeconfig; [`Webhook`] lets the API server call the
//! policy; [`Cluster::requests`] is what was really asked.
//!
//! Where [`KUBECONFIG_VARIABLE`] names a cluster, that one is [`shared`]. Then the tests are skipped that stop the API
//! server or read its audit log: those that begin with [`own`], [`audited`] or [`alone_and_audited`].

mod access;
mod account;
mod alone;
mod audit;
mod custom;
mod external;
mod global;
mod injector;
mod kubewarden;
mod namespace;
mod process;
mod programs;
mod rights;
mod servers;
mod site;
mod webhook;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use serde_json::Value;

use access::call;
use external::External;
use programs::Programs;
use servers::Servers;
use site::Site;

pub use account::Account;
pub use alone::{alone, alone_and_audited};
pub use audit::Request;
pub use custom::CustomKind;
pub use external::{KUBECONFIG_VARIABLE, WEBHOOK_HOST_VARIABLE};
pub use global::GlobalObject;
pub use injector::{INJECTED, Injector};
pub use kubewarden::policy;
pub use namespace::Namespace;
pub use programs::{ASSETS_VARIABLE, POLICY_VARIABLE};
pub use rights::Rights;
pub use webhook::{FailurePolicy, Seen, Webhook, WebhookBuilder};

/// What a test did wrong that runs on a cluster of somebody else.
const NOT_OURS: &str =
    "only a cluster of our own can do that: see which tests are skipped on another one";

/// A running API server. If it is our own, it is killed, and all that it stored is removed, when this is dropped.
pub struct Cluster {
    site: Site,
    admin: Client,
    namespaces: AtomicUsize,
}

/// The server that all tests of this process share. `None` means that the test shall be skipped, which was said.
///
/// # Panics
/// When it does not start, or when there is none although it is required.
#[must_use]
pub fn shared() -> Option<&'static Cluster> {
    start_shared().map(Arc::as_ref)
}

fn start_shared() -> Option<&'static Arc<Cluster>> {
    enum Place {
        External(PathBuf),
        Own(Programs),
    }
    static SHARED: OnceLock<Result<Arc<Cluster>, String>> = OnceLock::new();
    let place = match external::kubeconfig() {
        Some(kubeconfig) => Place::External(kubeconfig),
        None => Place::Own(programs::find_or_skip().unwrap_or_else(|error| panic!("{error:#}"))?),
    };
    let start = || match place {
        Place::External(kubeconfig) => Cluster::external(&kubeconfig),
        Place::Own(programs) => Cluster::start(programs),
    };
    let start = || start().map(Arc::new).map_err(|error| format!("{error:#}"));
    let cluster = SHARED.get_or_init(start);
    Some(cluster.as_ref().unwrap_or_else(|error| panic!("{error}")))
}

/// The same for a test that reads the audit log. `None` means that the test shall be skipped, which was said.
///
/// # Panics
/// When it does not start, or when there is none although it is required.
#[must_use]
pub fn audited() -> Option<&'static Cluster> {
    if external::kubeconfig().is_some() {
        programs::skip("it reads the audit log, which a cluster of somebody else does not show");
        return None;
    }
    shared()
}

/// A server for one test. `None` means that the test shall be skipped, which was said.
///
/// # Panics
/// When it does not start, or when there is none although it is required.
#[must_use]
pub fn own() -> Option<Cluster> {
    if external::kubeconfig().is_some() {
        programs::skip("it stops the API server, or must be alone with it");
        return None;
    }
    let programs = programs::find_or_skip().unwrap_or_else(|error| panic!("{error:#}"))?;
    Some(Cluster::start(programs).unwrap_or_else(|error| panic!("{error:#}")))
}

impl Cluster {
    fn start(programs: Programs) -> anyhow::Result<Self> {
        Self::of(Site::Own(Box::new(Servers::start(programs)?)))
    }

    fn external(kubeconfig: &Path) -> anyhow::Result<Self> {
        Self::of(Site::External(External::find(kubeconfig)?))
    }

    fn of(site: Site) -> anyhow::Result<Self> {
        Ok(Self {
            admin: site.admin()?,
            site,
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
        let unique = match &self.site {
            Site::Own(_) => String::new(),
            Site::External(external) => format!("-{}", external.run()),
        };
        Namespace::make(self.admin(), &format!("{prefix}{unique}-{number}"))
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
        let rights = Rights {
            everywhere: rules.to_vec(),
            at_home: Vec::new(),
        };
        Account::create(&self.site, namespace.name(), name, &rights)
    }

    /// Makes a `ServiceAccount` that may do what the sidecar may, with `namespace` as its own.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn sidecar_account(&self, namespace: &Namespace, name: &str) -> anyhow::Result<Account> {
        Account::create(&self.site, namespace.name(), name, &Rights::published()?)
    }

    /// Where the API server listens, for a proxy in front of it.
    ///
    /// # Panics
    /// When the cluster is not our own.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.servers().address()
    }

    /// A kubeconfig with all rights, for another process.
    ///
    /// # Errors
    /// When the file cannot be written.
    ///
    /// # Panics
    /// When the cluster is not our own.
    pub fn admin_kubeconfig(&self) -> anyhow::Result<PathBuf> {
        let servers = self.servers();
        let file = servers.folder().join("admin.kubeconfig");
        std::fs::write(&file, servers.admin().kubeconfig("default").to_string())?;
        Ok(file)
    }

    /// Kills the API server. What is stored stays.
    ///
    /// # Panics
    /// When the cluster is not our own.
    pub fn stop(&mut self) {
        self.servers_mut().stop();
    }

    /// Starts the API server again on the same port with what was stored, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; its log is in the error then.
    ///
    /// # Panics
    /// When the cluster is not our own.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.servers_mut().restart()
    }

    /// All requests so far, but for the API server's own. A request is there before its answer arrives.
    ///
    /// # Panics
    /// When the cluster is not our own: a test that asks begins with [`audited`] or [`own`].
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        audit::parse(&self.servers().audit_log())
    }

    fn servers(&self) -> &Servers {
        match &self.site {
            Site::Own(servers) => servers,
            Site::External(_) => panic!("{NOT_OURS}"),
        }
    }

    fn servers_mut(&mut self) -> &mut Servers {
        match &mut self.site {
            Site::Own(servers) => servers,
            Site::External(_) => panic!("{NOT_OURS}"),
        }
    }

    /// All objects of a kind in all namespaces.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn list(&self, api_version: &str, kind: &str) -> Result<Vec<Value>, kube::Error> {
        namespace::list_everywhere(self.admin(), api_version, kind)
    }

    /// The resource version of a list, such as `/api/v1/pods`.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn resource_version(&self, path: &str) -> anyhow::Result<String> {
        let request = axum::http::Request::get(format!("{path}?limit=1")).body(Vec::new())?;
        let list = call(self.admin.request::<Value>(request))?;
        let version = list["metadata"]["resourceVersion"].as_str();
        Ok(version
            .context("a list without resourceVersion")?
            .to_owned())
    }

    /// Whether a watch of a list from a resource version is refused with 410.
    ///
    /// # Errors
    /// What the API server answers otherwise.
    pub fn is_too_old(&self, path: &str, resource_version: &str) -> anyhow::Result<bool> {
        let query = format!("watch=true&timeoutSeconds=1&resourceVersion={resource_version}");
        let request = axum::http::Request::get(format!("{path}?{query}")).body(Vec::new())?;
        match call(self.admin.request_text(request)) {
            // In the stream.
            Ok(events) => Ok(events.contains("\"code\":410")),
            Err(kube::Error::Api(status)) if status.code == 410 => Ok(true),
            Err(error) => Err(error.into()),
        }
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
