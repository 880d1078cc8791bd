//! Debian's docker-registry (the reference implementation, version 2.8) as a child process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use super::{Credential, Registry, Request};
use crate::scratch;
use crate::tls::Tls;

/// Where Debian's package `docker-registry` puts the program.
const PROGRAM: &str = "/usr/bin/docker-registry";
/// How long a start may take on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often the log is looked at while it starts.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The port is chosen before the program binds it, so another process may be faster.
const PORT_ATTEMPTS: usize = 5;
/// The lowest cost that bcrypt knows: the hash protects nothing here.
const BCRYPT_COST: u32 = 4;

/// What a docker-registry can be asked for. The default is plain HTTP without authentication.
#[derive(Default)]
pub struct DebianOptions {
    /// Asks for HTTP Basic authentication on every request.
    pub credential: Option<Credential>,
    /// Speaks HTTPS with this certificate.
    pub tls: Option<Arc<Tls>>,
    /// A folder of the caller that keeps what is stored; without it the storage goes with the registry.
    pub storage: Option<PathBuf>,
    /// Answers with a path as `Location` of an upload, not a URL: for clients that come through a proxy.
    pub relative_locations: bool,
    /// Is a pull-through cache of the registry at this URL.
    pub cache_of: Option<String>,
}

/// A running docker-registry. It stops, and its storage is removed, when this is dropped.
pub struct DebianRegistry {
    port: u16,
    folder: TempDir,
    options: DebianOptions,
    process: Option<Child>,
}

impl DebianRegistry {
    /// Whether the program is there.
    #[must_use]
    pub fn is_installed() -> bool {
        Path::new(PROGRAM).exists()
    }

    /// Starts the registry on a free port.
    ///
    /// # Errors
    /// When it is not installed or does not start; its log is in the error then.
    pub fn start(credential: Option<Credential>) -> anyhow::Result<Self> {
        Self::start_with(DebianOptions {
            credential,
            ..DebianOptions::default()
        })
    }

    /// Starts the registry on a free port, as these options say.
    ///
    /// # Errors
    /// When it is not installed or does not start; its log is in the error then.
    pub fn start_with(options: DebianOptions) -> anyhow::Result<Self> {
        let mut registry = Self {
            port: 0,
            folder: scratch::folder("image-mirror-registry-")?,
            options,
            process: None,
        };
        registry.write_htpasswd(&[])?;
        let mut last = None;
        for _ in 0..PORT_ATTEMPTS {
            registry.port = scratch::free_port()?;
            match registry.spawn() {
                Ok(()) => return Ok(registry),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no port was tried")?)
    }

    /// What the registry wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        fs::write(self.path("config.yml"), self.config())?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))?;
        let before = self.log().len();
        let process = Command::new(PROGRAM)
            .arg("serve")
            .arg(self.path("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{PROGRAM} cannot be run"))?;
        self.process = Some(process);
        let result = self.wait_until_it_listens(before);
        if result.is_err() {
            self.stop();
        }
        result
    }

    /// The port alone proves nothing: another process may have taken it. The log line is ours.
    fn wait_until_it_listens(&mut self, log_offset: usize) -> anyhow::Result<()> {
        let needle = format!("listening on {}", self.address());
        let start = Instant::now();
        loop {
            let log = self.log();
            if log
                .get(log_offset..)
                .is_some_and(|new| new.contains(&needle))
            {
                return Ok(());
            }
            let process = self.process.as_mut().context("it was not started")?;
            if let Some(status) = process.try_wait()? {
                bail!("docker-registry ended with {status}:\n{log}");
            }
            ensure!(
                start.elapsed() < START_DEADLINE,
                "docker-registry did not start within {START_DEADLINE:?}:\n{log}"
            );
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn config(&self) -> String {
        let auth = if self.options.credential.is_some() {
            format!(
                "auth: {{htpasswd: {{realm: test, path: \"{}\"}}}}\n",
                self.path("htpasswd").display()
            )
        } else {
            String::new()
        };
        let tls = match &self.options.tls {
            Some(tls) => format!(
                ", tls: {{certificate: \"{}\", key: \"{}\"}}",
                tls.cert_path().display(),
                tls.key_path().display()
            ),
            None => String::new(),
        };
        let cache = match &self.options.cache_of {
            Some(url) => format!("proxy: {{remoteurl: \"{url}\"}}\n"),
            None => String::new(),
        };
        let own = self.path("storage");
        let storage = self.options.storage.as_ref().unwrap_or(&own);
        format!(
            "version: 0.1\n\
             log: {{level: info, formatter: text}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{}\", secret: test, relativeurls: {}{tls}}}\n{auth}{cache}",
            storage.display(),
            self.address(),
            self.options.relative_locations,
        )
    }

    /// The registry reads the file again when its time of change is another one.
    fn write_htpasswd(&self, others: &[Credential]) -> anyhow::Result<()> {
        let Some(main) = &self.options.credential else {
            ensure!(others.is_empty(), "the registry asks for no credential");
            return Ok(());
        };
        let mut lines = String::new();
        for Credential { user, password } in others.iter().chain([main]) {
            let hash = bcrypt::hash(password, BCRYPT_COST)?;
            lines = format!("{lines}{user}:{hash}\n");
        }
        // Never half a file.
        fs::write(self.path("htpasswd.new"), lines)?;
        fs::rename(self.path("htpasswd.new"), self.path("htpasswd"))?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Registry for DebianRegistry {
    fn name(&self) -> &'static str {
        "docker-registry"
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn credential(&self) -> Option<&Credential> {
        self.options.credential.as_ref()
    }

    fn set_other_users(&self, users: &[Credential]) -> anyhow::Result<()> {
        self.write_htpasswd(users)
    }

    fn ca_pem(&self) -> Option<&str> {
        self.options.tls.as_deref().map(Tls::ca_pem)
    }

    fn requests(&self) -> Vec<Request> {
        self.log().lines().filter_map(parse_access_line).collect()
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        self.stop();
        self.spawn()
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads a line of the access log: `addr - - [time] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`.
fn parse_access_line(line: &str) -> Option<Request> {
    let mut parts = line.split('"').skip(1);
    let mut request = parts.next()?.split(' ');
    let (method, path, protocol) = (request.next()?, request.next()?, request.next()?);
    if !protocol.starts_with("HTTP/") {
        return None;
    }
    let status = parts.next()?.split_whitespace().next()?.parse().ok()?;
    Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_line_is_read() {
        let line = r#"127.0.0.1 - - [22/Nov/2026:20:00:00 +0000] "PUT /v2/a/blobs/uploads/x?digest=y HTTP/1.1" 201 0 "" "reqwest""#;
        let request = parse_access_line(line).unwrap();
        assert_eq!(request.method, "PUT");
        assert_eq!(request.path, "/v2/a/blobs/uploads/x?digest=y");
        assert_eq!(request.status, 201);
    }

    #[test]
    fn other_lines_are_not() {
        assert_eq!(parse_access_line("level=info msg=\"listening on x\""), None);
        assert_eq!(parse_access_line(""), None);
    }
}
