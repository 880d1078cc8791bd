//! An axum server with a thread and a runtime of its own, so that stopping it drops every connection.

pub(crate) mod connection;
#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use rustix::net::{Shutdown, shutdown};
use rustls::ServerConfig;
use tokio::sync::oneshot;

use connection::{PlainListener, Switch, TlsListener};

/// A running server. It stops when this is dropped.
pub struct Server {
    listener: TcpListener,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `app` on a bound port: HTTPS with a configuration, else plain HTTP.
    pub fn start(
        name: &str,
        listener: TcpListener,
        tls: Option<Arc<ServerConfig>>,
        app: Router,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let ours = listener.try_clone()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let serve = async move {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    let app = app.into_make_service_with_connect_info::<Switch>();
                    match tls {
                        Some(config) => axum::serve(TlsListener::new(listener, config)?, app).await,
                        None => axum::serve(PlainListener::new(listener)?.0, app).await,
                    }
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
        Ok(Self {
            listener: ours,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// `127.0.0.1:port`.
    ///
    /// # Panics
    /// Never: the port is bound.
    #[must_use]
    pub fn address(&self) -> String {
        let address = self.listener.local_addr();
        address.expect("the port is bound").to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A child that another test is about to start has a copy of the socket until it has become its program: closing
        // ours alone would leave the port open for that long.
        let _ = shutdown(&self.listener, Shutdown::Both);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
