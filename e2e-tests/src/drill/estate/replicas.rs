//! The sidecars: started, killed, ended, and put behind one address.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;

use super::{Estate, PULL_SECRET, PULLER, REPOSITORY};
use testkit::proxy::Proxy;
use testkit::sidecar::Sidecar;

/// One sidecar, and the network between it and the API server.
pub struct Replica {
    pub(super) name: String,
    /// What it reaches the API server through.
    pub api: Proxy,
    sidecar: Option<Sidecar>,
}

impl Replica {
    /// A replica whose sidecar does not run yet.
    pub(super) fn new(name: String, api: Proxy) -> Self {
        Self {
            name,
            api,
            sidecar: None,
        }
    }

    /// The sidecar, if it runs.
    #[must_use]
    pub fn sidecar(&self) -> Option<&Sidecar> {
        self.sidecar.as_ref()
    }

    /// How it ended, if it ended by itself, with the last lines of its log.
    pub(super) fn death(&mut self) -> Option<String> {
        let sidecar = self.sidecar.as_mut()?;
        let status = sidecar.ended().ok()??;
        let lines = sidecar.lines();
        let last = lines.len().saturating_sub(20);
        Some(format!(
            "{} ended with {status}: {}",
            self.name,
            lines[last..].join("\n")
        ))
    }
}

impl Estate {
    /// Starts a sidecar, in the place of one that ended.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn revive(&mut self, number: usize) -> anyhow::Result<()> {
        let replica = self.replicas.get(number).context("no such replica")?;
        let kubeconfig = self.account.kubeconfig_through(replica.api.address())?;
        let mut builder = Sidecar::builder()
            .registry(self.backup.as_ref(), REPOSITORY)
            .insecure_registry(&self.upstream.localhost())
            .tls(Arc::clone(&self.tls))
            .environment("KUBECONFIG", kubeconfig)
            .argument("--kubernetes=on");
        for (flag, value) in [
            ("--pull-secret", PULL_SECRET),
            ("--pull-username", PULLER),
            ("--replica", &replica.name),
            ("--own-namespace", self.home.name()),
        ] {
            builder = builder.argument(flag).argument(value);
        }
        builder = builder
            .argument("--pull-password-file")
            .argument(self.password_file());
        for argument in &self.options.arguments {
            builder = builder.argument(argument);
        }
        let sidecar = builder.start()?;
        if let Some(replica) = self.replicas.get_mut(number) {
            replica.sidecar = Some(sidecar);
        }
        self.join_service()
    }

    /// Ends a sidecar as a crash does.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let replica = self.replicas.get_mut(number);
        if let Some(sidecar) = replica.and_then(|replica| replica.sidecar.take()) {
            sidecar.kill()?;
        }
        self.join_service()
    }

    /// Ends a sidecar as a rollout does.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self, number: usize) -> anyhow::Result<()> {
        let replica = self.replicas.get_mut(number);
        if let Some(sidecar) = replica.and_then(|replica| replica.sidecar.take()) {
            sidecar.stop()?;
        }
        self.join_service()
    }

    /// Where new connections to the Service go.
    fn join_service(&self) -> anyhow::Result<()> {
        let sidecars = self.replicas.iter().filter_map(Replica::sidecar);
        let targets: Result<Vec<SocketAddr>, _> = sidecars
            .map(|sidecar| sidecar.facade_address().parse())
            .collect();
        self.service.set_targets(targets?);
        Ok(())
    }
}
