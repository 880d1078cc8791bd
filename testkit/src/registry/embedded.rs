//! The scripted registry as an ordinary one: it behaves well, and can be stopped and started again.

use std::net::TcpListener;

use anyhow::{Context as _, ensure};

use super::{Credential, Registry, Request};
use crate::scripted::{Auth, Fake};
use crate::server::Server;
use crate::tls::Tls;

/// Options of an embedded registry. The default is plain HTTP without authentication.
#[derive(Default)]
pub struct EmbeddedOptions {
    /// Requires HTTP Basic authentication on every request.
    pub credential: Option<Credential>,
    /// Serves HTTPS with this certificate.
    pub tls: Option<Tls>,
}

/// A running embedded registry. It stops when this is dropped.
pub struct EmbeddedRegistry {
    registry: Fake,
    options: EmbeddedOptions,
    server: Option<Server>,
}

impl EmbeddedRegistry {
    /// Starts the registry on a free port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(options: EmbeddedOptions) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let registry = Fake::unserved(listener.local_addr()?);
        if let Some(Credential { user, password }) = options.credential.clone() {
            registry.set(|knobs| knobs.auth = Auth::Basic { user, password });
        }
        let mut embedded = Self {
            registry,
            options,
            server: None,
        };
        embedded.serve(listener)?;
        Ok(embedded)
    }

    fn serve(&mut self, listener: TcpListener) -> anyhow::Result<()> {
        let tls = self.options.tls.as_ref().map(Tls::server_config);
        let app = self.registry.router();
        self.server = Some(Server::start("registry", listener, tls.transpose()?, app)?);
        Ok(())
    }
}

impl Registry for EmbeddedRegistry {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn address(&self) -> String {
        self.registry.host()
    }

    fn credential(&self) -> Option<&Credential> {
        self.options.credential.as_ref()
    }

    fn set_other_users(&self, users: &[Credential]) -> anyhow::Result<()> {
        ensure!(
            self.options.credential.is_some() || users.is_empty(),
            "the registry requires no credential"
        );
        let users = users.iter().cloned();
        self.registry.set(|knobs| {
            knobs.other_users = users.map(|other| (other.user, other.password)).collect();
        });
        Ok(())
    }

    fn ca_pem(&self) -> Option<&str> {
        self.options.tls.as_ref().map(Tls::ca_pem)
    }

    fn requests(&self) -> Vec<Request> {
        let state = self.registry.state();
        let answered = state.log.iter().filter(|entry| entry.status != 0);
        let request = answered.map(|entry| Request {
            method: entry.method.to_string(),
            path: match entry.query.as_str() {
                "" => entry.path.clone(),
                query => format!("{}?{query}", entry.path),
            },
            status: entry.status,
        });
        request.collect()
    }

    fn stop(&mut self) {
        self.server = None;
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        self.stop();
        let listener = TcpListener::bind(self.registry.address)
            .with_context(|| format!("{} cannot be bound again", self.registry.address))?;
        self.serve(listener)
    }
}
