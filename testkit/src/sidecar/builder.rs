//! What a sidecar can be started with.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Context as _;
use tempfile::TempDir;

use super::Sidecar;
use super::output::Output;
use crate::artifacts;
use crate::registry::{Credential, Registry};
use crate::tls::Tls;

/// What a sidecar inherits from the test's environment; proxies are not among it.
const KEPT_VARIABLES: [&str; 6] = [
    "HOME",
    "LLVM_PROFILE_FILE",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TMPDIR",
];

/// A sidecar to be started. [`SidecarBuilder::start`] runs it.
pub struct SidecarBuilder {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    facade: Credential,
    is_facade_open: bool,
    registry: Option<Credential>,
    listen: String,
    tls: Option<Arc<Tls>>,
    encrypted: bool,
    launcher: Vec<OsString>,
}

impl SidecarBuilder {
    pub(super) fn new() -> Self {
        Self {
            arguments: Vec::new(),
            environment: Vec::new(),
            facade: Credential::new("policy-server", "facade password"),
            is_facade_open: false,
            registry: None,
            listen: "127.0.0.1:0".to_owned(),
            tls: None,
            encrypted: true,
            launcher: Vec::new(),
        }
    }

    /// A command in front of the program, such as one that puts it into a control group and then becomes it.
    #[must_use]
    pub fn launcher(mut self, command: Vec<OsString>) -> Self {
        self.launcher = command;
        self
    }

    /// Copies to this registry, below `repository`, with the registry's own credential.
    #[must_use]
    pub fn registry(mut self, registry: &dyn Registry, repository: &str) -> Self {
        self.registry = registry.credential().cloned();
        let address = registry.address();
        self = self.argument("--registry").argument(&address);
        self = self.argument("--repository").argument(repository);
        if registry.ca_pem().is_none() {
            self = self.insecure_registry(&address);
        }
        self
    }

    /// Lets `host:port` be reached by plain HTTP; for registries that images come from.
    #[must_use]
    pub fn insecure_registry(self, registry: &str) -> Self {
        self.argument("--insecure-registry").argument(registry)
    }

    /// User and password that the facade shall ask for.
    #[must_use]
    pub fn facade_credential(mut self, credential: Credential) -> Self {
        self.facade = credential;
        self
    }

    /// Answers everybody, without a password.
    #[must_use]
    pub fn without_facade_credential(mut self) -> Self {
        self.is_facade_open = true;
        self
    }

    /// Runs it with this limit of open files (`ulimit -n`).
    #[must_use]
    pub fn open_files(self, limit: u32) -> Self {
        let script = format!("ulimit -n {limit} && exec \"$@\"");
        self.launcher(["sh", "-c", &script, "sh"].map(OsString::from).to_vec())
    }

    /// Listens on a given `127.0.0.1:port`, to take the place of a sidecar that ended.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// Uses the certificate of another sidecar instead of a new one.
    #[must_use]
    pub fn tls(mut self, tls: Arc<Tls>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Serves the facade by plain HTTP.
    #[must_use]
    pub fn insecure_http(mut self) -> Self {
        self.encrypted = false;
        self
    }

    /// One more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs it and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be built, ends at once or is not ready in time; its log is in the error then.
    pub fn start(self) -> anyhow::Result<Sidecar> {
        let mut sidecar = self.spawn()?;
        sidecar.wait_until_ready()?;
        Ok(sidecar)
    }

    /// Runs it and waits until it listens, ready or not.
    ///
    /// # Errors
    /// The same.
    pub fn start_listening(self) -> anyhow::Result<Sidecar> {
        let mut sidecar = self.spawn()?;
        sidecar.wait_until_listening()?;
        Ok(sidecar)
    }

    fn spawn(self) -> anyhow::Result<Sidecar> {
        let program = artifacts::sidecar_program()?;
        let folder = TempDir::new()?;
        let mut command = match self.launcher.split_first() {
            Some((launcher, arguments)) => {
                let mut command = Command::new(launcher);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .args(["serve", "--log-format", "json"])
            .args(["--listen", &self.listen, "--admin-listen", "127.0.0.1:0"])
            // Its flags have environment names, which must not come from the machine that runs the tests.
            .env_clear()
            .envs(
                KEPT_VARIABLES
                    .iter()
                    .filter_map(|name| Some((name, env::var_os(name)?))),
            );
        self.add_credentials(&mut command, folder.path())?;
        let tls = match self.tls {
            Some(tls) => tls,
            None => Arc::new(Tls::generate()?),
        };
        if self.encrypted {
            command
                .arg("--tls-cert")
                .arg(tls.cert_path())
                .arg("--tls-key")
                .arg(tls.key_path());
        } else {
            command.arg("--insecure-http");
        }
        let mut process = command
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let output = Output::collect(&mut process);
        Ok(Sidecar {
            process,
            output,
            facade: self.facade,
            facade_address: String::new(),
            admin_address: String::new(),
            tls,
            encrypted: self.encrypted,
            folder,
        })
    }

    /// Passwords go through files, as they do in a cluster.
    fn add_credentials(&self, command: &mut Command, folder: &Path) -> anyhow::Result<()> {
        if !self.is_facade_open {
            let facade_file = folder.join("facade-password");
            std::fs::write(&facade_file, &self.facade.password)?;
            command
                .args(["--facade-username", &self.facade.user])
                .arg("--facade-password-file")
                .arg(facade_file);
        }
        if let Some(Credential { user, password }) = &self.registry {
            let file = registry_password_file(folder);
            std::fs::write(&file, password)?;
            command
                .args(["--registry-username", user])
                .arg("--registry-password-file")
                .arg(file);
        }
        Ok(())
    }
}

pub(super) fn registry_password_file(folder: &Path) -> PathBuf {
    folder.join("registry-password")
}
