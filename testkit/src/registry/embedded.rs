//! An in-memory registry in this process, after the OCI distribution specification 1.1.
//!
//! It verifies digests, refuses manifests whose parts are missing, and knows mounts, ranges, chunked uploads, tag
//! lists and referrers.

mod handlers;
mod route;
mod store;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use axum::Router;

use super::{Credential, Registry, Request};
use crate::server::Server;
use crate::tls::Tls;
use handlers::Shared;

/// What an embedded registry can be asked for. The default is plain HTTP without authentication.
#[derive(Default)]
pub struct EmbeddedOptions {
    /// Asks for HTTP Basic authentication on every request.
    pub credential: Option<Credential>,
    /// Speaks HTTPS with this certificate.
    pub tls: Option<Tls>,
}

/// A running embedded registry. It stops when this is dropped.
pub struct EmbeddedRegistry {
    address: SocketAddr,
    tls: Option<Tls>,
    shared: Arc<Shared>,
    server: Option<Server>,
}

impl EmbeddedRegistry {
    /// Starts the registry on a free port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(options: EmbeddedOptions) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut registry = Self {
            address: listener.local_addr()?,
            tls: options.tls,
            shared: Arc::new(Shared::new(options.credential)),
            server: None,
        };
        registry.serve(listener)?;
        Ok(registry)
    }

    fn serve(&mut self, listener: TcpListener) -> anyhow::Result<()> {
        let tls = self.tls.as_ref().map(Tls::server_config).transpose()?;
        let app = Router::new()
            .fallback(handlers::handle)
            .with_state(Arc::clone(&self.shared));
        self.server = Some(Server::start("registry", listener, tls, app)?);
        Ok(())
    }
}

impl Registry for EmbeddedRegistry {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn address(&self) -> String {
        self.address.to_string()
    }

    fn credential(&self) -> Option<&Credential> {
        self.shared.credential()
    }

    fn set_other_users(&self, users: &[Credential]) -> anyhow::Result<()> {
        ensure!(
            self.shared.set_other_users(users),
            "the registry asks for no credential"
        );
        Ok(())
    }

    fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(Tls::ca_pem)
    }

    fn requests(&self) -> Vec<Request> {
        self.shared.requests()
    }

    fn stop(&mut self) {
        self.server = None;
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        self.stop();
        let listener = TcpListener::bind(self.address)
            .with_context(|| format!("{} cannot be bound again", self.address))?;
        self.serve(listener)
    }
}
