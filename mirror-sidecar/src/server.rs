//! HTTP and TLS connections: accepted in bounded number, with a time limit on everything that a peer can drag out.

mod certificate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;

pub use certificate::{CertificateError, Certificates};

/// Open connections per port. The policy server opens one per question and asks one at a time.
const MAX_CONNECTIONS: usize = 512;

/// For a TLS handshake, and for the headers of a request; also ends idle connections.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest life of a connection. The policy server's last for two requests; a peer that never reads its answers must not
/// keep a place.
const LONGEST_CONNECTION: Duration = Duration::from_secs(30);

/// Bytes that a connection buffers. Questions are a few hundred bytes long; hyper allows no less.
const BUFFER: usize = 8 * 1024;

/// Pause after a failed accept (out of file descriptors): without it the loop would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port with a service behind it.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: TowerToHyperService<Router>,
    permits: Arc<Semaphore>,
}

impl Server {
    /// Takes the port; with certificates it speaks TLS.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn bind(
        address: SocketAddr,
        certificates: Option<&Certificates>,
        router: Router,
    ) -> std::io::Result<Self> {
        // A defect in a handler costs one request, not the service.
        let router = router.layer(CatchPanicLayer::new());
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            tls: certificates.map(|certificates| TlsAcceptor::from(certificates.server_config())),
            service: TowerToHyperService::new(router),
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        })
    }

    /// Where it listens, with the real port.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then takes no more connections and lets running requests end.
    pub async fn run(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let server = Arc::new(self);
        while let Some((stream, permit)) = stop.run_until_cancelled(server.accept()).await {
            let (server, stop) = (Arc::clone(&server), stop.clone());
            connections.spawn(async move {
                let _permit = permit;
                server.handle(stream, stop).await;
            });
        }
        connections.close();
        connections.wait().await;
    }

    async fn accept(&self) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return (stream, permit),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn handle(&self, stream: TcpStream, stop: CancellationToken) {
        // Without it a response in two segments waits 40 ms for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.serve(stream, stop).await;
        };
        match timeout(PATIENCE, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, stop).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        stop: CancellationToken,
    ) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_headers(64)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), self.service.clone());
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = tokio::time::sleep(LONGEST_CONNECTION) => return,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                timeout(PATIENCE, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    }
}
