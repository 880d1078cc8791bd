//! A real API server with its etcd on loopback: RBAC, admission, an audit log; no controllers, no nodes.
//!
//! [`shared`] is one server for all tests of a process, each in a [`Namespace`] of its own; [`own`] is for a test that
//! stops it. Both start in about four seconds and take 350 MB. Nothing is left behind, however a test ends.
//!
//! [`Account`] is a user with RBAC rules, as a client and as a kubeconfig; [`Webhook`] lets the API server call the
//! policy; [`Cluster::requests`] is what was really asked.

mod account;
mod audit;
mod namespace;
mod process;
mod programs;
mod webhook;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kube::Client;
use kube::config::{AuthInfo, Config};
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::blocking;
use crate::tls::Tls;
use process::Process;
use programs::Programs;

pub use account::Account;
pub use audit::Request;
pub use namespace::Namespace;
pub use programs::{ASSETS_VARIABLE, POLICY_VARIABLE};
pub use webhook::{FailurePolicy, Seen, Webhook, WebhookBuilder};

/// How long a start may take on a busy machine.
const START_DEADLINE: Duration = Duration::from_mins(2);
/// How often it is asked whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// No request of a test takes longer, not even one that waits for a webhook.
const REQUEST_DEADLINE: Duration = Duration::from_mins(1);
/// The port is chosen before the server binds it, so another process may be faster.
const PORT_ATTEMPTS: usize = 5;
/// etcd listens on sockets in the cluster's folder, which it calls by URLs without a path.
const ETCD_CLIENTS: &str = "unix://etcd:0";
const ETCD_PEERS: &str = "unix://peers:0";
/// Nobody but the tests reaches the API server, and only while they run.
const ADMIN_TOKEN: &str = "admin";

/// A running API server. It is killed, and all that it stored is removed, when this is dropped.
pub struct Cluster {
    // Dropped in this order: who uses something goes before it.
    apiserver: Option<Process>,
    admin: Client,
    etcd: Process,
    programs: Programs,
    tls: Tls,
    port: u16,
    namespaces: AtomicUsize,
    folder: TempDir,
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
        let folder = working_folder()?;
        let tls = Tls::generate()?;
        write_configuration(folder.path())?;
        let etcd = start_etcd(&programs, folder.path())?;
        let port = free_port()?;
        let mut cluster = Self {
            apiserver: None,
            admin: client(config(port, &tls, ADMIN_TOKEN)?)?,
            etcd,
            programs,
            tls,
            port,
            namespaces: AtomicUsize::new(0),
            folder,
        };
        let mut last = None;
        for _ in 0..PORT_ATTEMPTS {
            match cluster.restart() {
                Ok(()) => return Ok(cluster),
                Err(error) => last = Some(error),
            }
            cluster.port = free_port()?;
            cluster.admin = client(config(cluster.port, &cluster.tls, ADMIN_TOKEN)?)?;
        }
        Err(last.context("no port was tried")?)
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
        rules: &[k8s_openapi::api::rbac::v1::PolicyRule],
    ) -> anyhow::Result<Account> {
        Account::create(self, namespace.name(), name, rules)
    }

    /// Kills the API server. What is stored stays.
    pub fn stop(&mut self) {
        self.apiserver = None;
    }

    /// Starts the API server again on the same port with what was stored, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; its log is in the error then.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.stop();
        let process = Process::start(
            &self.programs.apiserver,
            self.arguments(),
            self.folder.path(),
            "apiserver.log",
            None,
        )?;
        let process = self.apiserver.insert(process);
        let start = Instant::now();
        while !is_ready(&self.admin) {
            let problem = match (process.ended()?, self.etcd.ended()?) {
                (Some(status), _) => format!("kube-apiserver ended with {status}"),
                (_, Some(status)) => format!("etcd ended with {status}: {}", self.etcd.log()),
                _ if start.elapsed() > START_DEADLINE => "kube-apiserver is not ready".to_owned(),
                _ => {
                    thread::sleep(POLL_INTERVAL);
                    continue;
                }
            };
            bail!("{problem}; its log:\n{}", process.log());
        }
        Ok(())
    }

    /// All requests that were answered so far, but for the API server's own.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        audit::parse(&fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default())
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

    fn config(&self, token: &str) -> anyhow::Result<Config> {
        config(self.port, &self.tls, token)
    }

    fn arguments(&self) -> Vec<String> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let arguments = [
            ("etcd-servers", ETCD_CLIENTS.to_owned()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", self.port.to_string()),
            ("tls-cert-file", self.tls.cert_path().display().to_string()),
            (
                "tls-private-key-file",
                self.tls.key_path().display().to_string(),
            ),
            ("token-auth-file", file("tokens.csv")),
            ("authorization-mode", "RBAC".to_owned()),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc".to_owned(),
            ),
            ("service-account-signing-key-file", file("accounts.key")),
            ("service-account-key-file", file("accounts.pub")),
            ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
            ("audit-policy-file", file("audit-policy.json")),
            ("audit-log-path", file("audit.log")),
        ];
        arguments
            .into_iter()
            .map(|(name, value)| format!("--{name}={value}"))
            .collect()
    }
}

/// Runs a request to its end, but not for ever.
fn call<T: Send>(
    request: impl Future<Output = Result<T, kube::Error>> + Send,
) -> Result<T, kube::Error> {
    blocking::run(async {
        match tokio::time::timeout(REQUEST_DEADLINE, request).await {
            Ok(result) => result,
            Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
        }
    })
}

/// Only our server knows our token and has our certificate, so another process on the port is not mistaken for it.
fn is_ready(admin: &Client) -> bool {
    let Ok(request) = axum::http::Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    call(admin.request_text(request)).is_ok_and(|text| text == "ok")
}

fn config(port: u16, tls: &Tls, token: &str) -> anyhow::Result<Config> {
    let mut config = Config::new(format!("https://127.0.0.1:{port}").parse()?);
    let authority = CertificateDer::from_pem_slice(tls.ca_pem().as_bytes())?;
    config.root_cert = Some(vec![authority.to_vec()]);
    // A test wants to see what the server says, not the answer to another attempt.
    config.default_retry = false;
    config.auth_info = AuthInfo {
        token: Some(token.to_owned().into()),
        ..AuthInfo::default()
    };
    Ok(config)
}

/// A client works for whoever polls it, but is born in a runtime.
fn client(config: Config) -> anyhow::Result<Client> {
    crate::tls::install_crypto_provider();
    Ok(blocking::run(async { Client::try_from(config) })?)
}

/// A killed etcd takes the folder with it: tests that are killed cannot do that.
fn start_etcd(programs: &Programs, folder: &Path) -> anyhow::Result<Process> {
    let arguments = [
        "--data-dir=etcd-data",
        "--log-level=warn",
        &format!("--listen-client-urls={ETCD_CLIENTS}"),
        &format!("--advertise-client-urls={ETCD_CLIENTS}"),
        &format!("--listen-peer-urls={ETCD_PEERS}"),
        &format!("--initial-advertise-peer-urls={ETCD_PEERS}"),
        &format!("--initial-cluster=default={ETCD_PEERS}"),
    ];
    Process::start(&programs.etcd, arguments, folder, "etcd.log", Some(folder))
}

/// The files that the API server reads.
fn write_configuration(folder: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    fs::write(folder.join("accounts.key"), key.serialize_pem())?;
    fs::write(folder.join("accounts.pub"), key.public_key_pem())?;
    let admin = format!("{ADMIN_TOKEN},admin,admin,system:masters\n");
    fs::write(folder.join("tokens.csv"), admin)?;
    fs::write(folder.join("audit-policy.json"), audit::POLICY)?;
    Ok(())
}

/// In memory where the system has such a folder: etcd syncs every write to the disk.
fn working_folder() -> anyhow::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("image-mirror-cluster-");
    Ok(if memory.is_dir() {
        builder.tempdir_in(memory)?
    } else {
        builder.tempdir()?
    })
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
