//! An in-memory registry in this process, after the OCI distribution specification 1.1.
//!
//! It verifies digests, refuses manifests whose parts are missing, and knows mounts, ranges, chunked uploads, tag
//! lists and referrers. It has a thread and a runtime of its own, so that stopping it drops every connection.

mod handlers;
mod listener;
mod route;
mod store;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::sync::oneshot;

use super::{Credential, Registry, Request};
use crate::tls::Tls;
use handlers::Shared;
use listener::TlsListener;

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

struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
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
        listener.set_nonblocking(true)?;
        let tls = self.tls.as_ref().map(Tls::server_config).transpose()?;
        let app = Router::new()
            .fallback(handlers::handle)
            .with_state(Arc::clone(&self.shared));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || {
                let serve = async move {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    if let Some(config) = tls {
                        return axum::serve(TlsListener::new(listener, config)?, app).await;
                    }
                    let listener = listener.tap_io(|stream| {
                        // Small answers must not wait for the peer's acknowledgement.
                        let _ = stream.set_nodelay(true);
                    });
                    axum::serve(listener, app).await
                };
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        _ = serve => {}
                    }
                });
                // Dropping the runtime drops the tasks of all connections, and with them their sockets.
                drop(runtime);
            })?;
        self.server = Some(Server { stop, thread });
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

    fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(Tls::ca_pem)
    }

    fn requests(&self) -> Vec<Request> {
        self.shared.requests()
    }

    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            let _ = server.stop.send(());
            let _ = server.thread.join();
        }
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        self.stop();
        let listener = TcpListener::bind(self.address)
            .with_context(|| format!("{} cannot be bound again", self.address))?;
        self.serve(listener)
    }
}

impl Drop for EmbeddedRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}
