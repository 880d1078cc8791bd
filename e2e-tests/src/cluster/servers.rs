//! The processes of a cluster: etcd and kube-apiserver, what they are started with, and the files that they read.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use rcgen::KeyPair;
use tempfile::TempDir;

use super::access::{Access, is_ready};
use super::audit;
use super::process::Process;
use super::programs::Programs;
use testkit::scratch;
use testkit::tls::Tls;

/// How long a start may take on a busy machine.
const START_DEADLINE: Duration = Duration::from_mins(2);
/// How often it is asked whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The port is chosen before the server binds it, so another process may be faster.
const PORT_ATTEMPTS: usize = 5;
/// What the API server writes then.
const PORT_TAKEN: &str = "address already in use";
/// etcd listens on sockets in the cluster's folder, which it calls by URLs without a path.
const ETCD_CLIENTS: &str = "unix://etcd:0";
const ETCD_PEERS: &str = "unix://peers:0";
/// Nobody but the tests reaches the API server, and only while they run.
const ADMIN_TOKEN: &str = "admin";

pub(super) struct Servers {
    // Dropped in this order: who uses something goes before it.
    apiserver: Option<Process>,
    etcd: Process,
    programs: Programs,
    tls: Tls,
    port: u16,
    folder: TempDir,
}

impl Servers {
    /// Starts both and waits until they are ready.
    pub fn start(programs: Programs) -> anyhow::Result<Self> {
        let folder = scratch::folder("image-mirror-cluster-")?;
        write_configuration(folder.path())?;
        let mut servers = Self {
            apiserver: None,
            etcd: start_etcd(&programs, folder.path())?,
            programs,
            tls: Tls::generate()?,
            port: 0,
            folder,
        };
        let mut attempts = 0;
        loop {
            servers.port = scratch::free_port()?;
            attempts += 1;
            match servers.restart() {
                Err(error)
                    if attempts < PORT_ATTEMPTS && error.to_string().contains(PORT_TAKEN) => {}
                result => return result.map(|()| servers),
            }
        }
    }

    /// Kills the API server. etcd goes on.
    pub fn stop(&mut self) {
        self.apiserver = None;
    }

    /// Starts the API server again on the same port, and waits until it is ready.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.stop();
        let admin = self.admin().client()?;
        let process = Process::start(
            &self.programs.apiserver,
            self.arguments(),
            self.folder(),
            "apiserver.log",
            None,
        )?;
        let process = self.apiserver.insert(process);
        let start = Instant::now();
        while !is_ready(&admin) {
            let problem = match (process.ended()?, self.etcd.ended()?) {
                (Some(status), _) => format!("kube-apiserver ended with {status}"),
                (_, Some(status)) => format!("etcd ended with {status}:\n{}", self.etcd.log()),
                _ if start.elapsed() > START_DEADLINE => "kube-apiserver is not ready".to_owned(),
                _ => {
                    thread::sleep(POLL_INTERVAL);
                    continue;
                }
            };
            bail!("{problem}; its log ends with:\n{}", process.log());
        }
        Ok(())
    }

    /// How to reach the API server with a token.
    pub fn access(&self, token: &str) -> Access {
        Access {
            url: format!("https://{}", self.address()),
            ca_pem: self.tls.ca_pem().to_owned(),
            token: token.to_owned(),
        }
    }

    /// How to reach it with all rights.
    pub fn admin(&self) -> Access {
        self.access(ADMIN_TOKEN)
    }

    /// Where the API server listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The folder that holds all that the servers write; it goes away with them.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The API server's audit log so far.
    pub fn audit_log(&self) -> String {
        fs::read_to_string(self.folder().join("audit.log")).unwrap_or_default()
    }

    fn arguments(&self) -> Vec<String> {
        let file = |name: &str| self.folder().join(name).display().to_string();
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
