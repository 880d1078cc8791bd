//! Runs the real `mirror-sidecar serve` as a child process, and ends it with its test.

mod builder;
mod output;
mod probe;

use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::host::PolicyHostBuilder;
use crate::registry::Credential;
use crate::tls::Tls;
use builder::registry_password_file;
use output::Output;

pub use builder::SidecarBuilder;

/// How long a start may take on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long the sidecar may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A running sidecar. It is killed when this is dropped.
pub struct Sidecar {
    process: Child,
    output: Output,
    facade: Credential,
    facade_address: String,
    admin_address: String,
    tls: Arc<Tls>,
    encrypted: bool,
    folder: TempDir,
}

impl Sidecar {
    /// A sidecar without a cluster, with TLS and a facade credential, and no registry yet.
    #[must_use]
    pub fn builder() -> SidecarBuilder {
        SidecarBuilder::new()
    }

    /// `localhost:port` of the facade: what the policy's `sidecar` setting names.
    #[must_use]
    pub fn facade(&self) -> String {
        self.facade_address.replace("127.0.0.1", "localhost")
    }

    /// User and password that the facade asks for.
    #[must_use]
    pub fn facade_credential(&self) -> &Credential {
        &self.facade
    }

    /// CA and certificate of the facade.
    #[must_use]
    pub fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// Tells a policy host how to reach the facade: its CA and its credential.
    #[must_use]
    pub fn trusted_by(&self, host: PolicyHostBuilder) -> PolicyHostBuilder {
        self.trusted_at(self.facade(), host)
    }

    /// The same for a host that reaches the facade, or one of several with its certificate and password, by another
    /// `localhost:port`.
    #[must_use]
    pub fn trusted_at(&self, facade: String, host: PolicyHostBuilder) -> PolicyHostBuilder {
        let host = host.credential(&facade, &self.facade.user, &self.facade.password);
        if self.encrypted {
            host.source_authority(facade, self.tls.ca_pem())
        } else {
            host.insecure_source(facade)
        }
    }

    /// `127.0.0.1:port` of the facade.
    #[must_use]
    pub fn facade_address(&self) -> &str {
        &self.facade_address
    }

    /// `127.0.0.1:port` of the admin endpoint.
    #[must_use]
    pub fn admin(&self) -> &str {
        &self.admin_address
    }

    /// File with the password of the backup registry: rewriting it is how a password is rotated.
    #[must_use]
    pub fn registry_password_file(&self) -> PathBuf {
        registry_password_file(self.folder.path())
    }

    /// GETs a path of the admin endpoint: status and body.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn admin_get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        probe::get(&format!("http://{}{path}", self.admin_address))
    }

    /// All lines written so far, stdout and stderr as they came.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.output.lines()
    }

    /// All lines written so far that are JSON.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let lines = self.output.lines();
        let events = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok());
        events.collect()
    }

    /// Waits for a log event, also one that came before the call.
    ///
    /// # Errors
    /// When it does not come in time; the whole log is in the error.
    pub fn wait_for(
        &self,
        timeout: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        self.output
            .wait(timeout, |line| {
                serde_json::from_str(line)
                    .ok()
                    .filter(|event| wanted(event))
            })
            .with_context(|| self.describe("the event did not come"))
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system refuses to tell.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Process id, for measurements.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(pid.context("the process has no id")?, Signal::TERM)?;
        let start = Instant::now();
        while start.elapsed() < STOP_DEADLINE {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            thread::sleep(POLL_INTERVAL);
        }
        bail!(self.describe("the sidecar did not end after SIGTERM"))
    }

    /// Kills it as a crash does: no warning, no clean-up.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> anyhow::Result<ExitStatus> {
        self.process.kill()?;
        Ok(self.process.wait()?)
    }

    fn describe(&self, problem: &str) -> String {
        format!("{problem}; its log:\n{}", self.output.lines().join("\n"))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sidecar {
    /// The two addresses come from the log, then `/readyz` decides.
    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        self.wait_until(|sidecar| matches!(sidecar.admin_get("/readyz"), Ok((200, _))))
    }

    fn wait_until_listening(&mut self) -> anyhow::Result<()> {
        self.wait_until(|_| true)
    }

    fn wait_until(&mut self, is_ready: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let address = |message: &str| {
                let events = self.events();
                let event = events
                    .iter()
                    .find(|event| field(event, "message") == Some(message));
                event.and_then(|event| field(event, "address").map(str::to_owned))
            };
            if let (Some(facade), Some(admin)) = (
                address("facade is listening"),
                address("admin is listening"),
            ) {
                self.facade_address = facade;
                self.admin_address = admin;
                if is_ready(self) {
                    return Ok(());
                }
            }
            if let Some(status) = self.process.try_wait()? {
                self.output.finish();
                bail!(self.describe(&format!("the sidecar ended with {status}")));
            }
            if start.elapsed() > START_DEADLINE {
                bail!(self.describe("the sidecar is not ready in time"));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// A field of a log event: at the top, or below `fields` as tracing's own JSON format has it.
fn field<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event[name]
        .as_str()
        .or_else(|| event["fields"][name].as_str())
}
