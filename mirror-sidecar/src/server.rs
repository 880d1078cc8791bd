//! HTTP and TLS connections.
//!
//! Every connection is accepted, and every one is bounded: in number, by peer and in total; in time, until the peer has
//! authenticated, between two requests, and while it does not read; and in bytes. Nobody waits for a place that a hostile
//! peer holds: where there are too many connections, an old one is closed for the new one.

mod certificate;
mod connection;
mod connection_table;
mod handshake_queue;
mod limited_stream;
mod limits;
mod peer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;

use crate::logging::Throttle;
pub use certificate::{CertificateError, CertificateTrouble, CertificateTroubleKind, Certificates};
pub use connection::Connection;
use connection::Stage;
use connection_table::{ConnectionTable, Place};
use handshake_queue::HandshakeQueue;
use limited_stream::LimitedStream;
pub use limits::Limits;
use peer::Peer;

/// Bytes of a request's headers. Queries are a few hundred bytes long; hyper allows no less.
const HEADER_BYTES: usize = 8 * 1024;

/// Headers of a request. Those of the policy server are less than ten.
const HEADERS: usize = 64;

/// Bytes that the kernel keeps of a connection in each direction (it doubles them), instead of some MiB: a peer that sends
/// much, or does not read, uses no more. Requests and responses of the facade are shorter.
const SOCKET_BUFFER: u32 = 16 * 1024;

/// Connections that the kernel keeps before they are accepted; its own limit is 4,096 (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Sockets beyond the limit of connections: those of connections that were closed for others, until their tasks notice.
const CLOSING: usize = 64;

/// For what is being answered when a connection ends.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Pause after a failed accept that closing another connection did not help: without it the loop would use a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Between two warnings about connections: peers cause them.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// A port with a service behind it.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    table: Arc<ConnectionTable>,
    /// One for each open socket. Waiting for one is never waiting for a peer: the table closes what is too much, which only
    /// takes the processor's time.
    sockets: Arc<Semaphore>,
    accept_failures: Throttle,
    evictions: Throttle,
}

/// What every connection needs.
struct Shared {
    tls: Option<Tls>,
    service: TowerToHyperService<Router>,
    limits: Limits,
}

struct Tls {
    config: Arc<ServerConfig>,
    queue: Arc<HandshakeQueue>,
}

impl Server {
    /// Listens on `address`; with certificates it speaks TLS.
    ///
    /// # Errors
    /// If the address is in use or may not be used.
    pub fn bind(
        address: SocketAddr,
        certificates: Option<&Certificates>,
        router: Router,
        limits: Limits,
    ) -> std::io::Result<Self> {
        // A defect in a handler costs one request, not the service.
        let router = router.layer(CatchPanicLayer::new());
        let tls = certificates.map(|certificates| Tls {
            config: certificates.server_config(),
            queue: Arc::new(HandshakeQueue::new()),
        });
        Ok(Self {
            listener: listen(address)?,
            shared: Arc::new(Shared {
                tls,
                service: TowerToHyperService::new(router),
                limits,
            }),
            table: Arc::new(ConnectionTable::new(limits)),
            sockets: Arc::new(Semaphore::new(limits.connections + CLOSING)),
            accept_failures: Throttle::new(WARN_EVERY),
            evictions: Throttle::new(WARN_EVERY),
        })
    }

    /// Returns the address that it listens on, with the real port.
    ///
    /// # Errors
    /// If the operating system does not know it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then accepts no more connections and lets running requests end.
    pub async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        while let Some((stream, peer, socket)) = stop.run_until_cancelled(self.accept()).await {
            let Some(place) = self.admit(peer) else {
                continue;
            };
            let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
            tasks.spawn(async move {
                let _socket = socket;
                tokio::select! {
                    biased;
                    () = place.connection.evicted() => {}
                    () = overdue(&place.connection, &shared.limits) => {}
                    () = shared.handle(stream, peer, &place, &stop) => {}
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn accept(&self) -> (TcpStream, Peer, Option<OwnedSemaphorePermit>) {
        // It is never closed, so there always is one.
        let socket = Arc::clone(&self.sockets).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (stream, address.ip().into(), socket),
                Err(error) => {
                    if let Some(times) = self.accept_failures.count() {
                        tracing::warn!(%error, times, "cannot accept connections; raise the limit of open files (ulimit -n)");
                    }
                    // Most likely there are no file descriptors left; a closed connection frees one.
                    if self.table.make_room() {
                        tokio::task::yield_now().await;
                    } else {
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    fn admit(&self, peer: Peer) -> Option<Place> {
        let added = self.table.add(peer);
        let evicted = added.as_ref().is_none_or(|added| added.evicted);
        if evicted && let Some(times) = self.evictions.count() {
            let port = self.address().map_or(0, |address| address.port());
            tracing::warn!(
                port,
                times,
                "too many connections, closed the oldest that had not authenticated; check who connects to this port, or restrict it with a NetworkPolicy"
            );
        }
        added.map(|added| added.place)
    }
}

/// Opens a listening socket whose connections have small buffers.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart need not wait for the last connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Ends when the peer has not authenticated in time.
async fn overdue(connection: &Connection, limits: &Limits) {
    if let Some(limit) = limits.authenticate_within {
        sleep(limit).await;
        if !connection.is_authenticated() {
            return tracing::debug!("closed a connection without authentication");
        }
    }
    std::future::pending::<()>().await;
}

impl Shared {
    async fn handle(&self, stream: TcpStream, peer: Peer, place: &Place, stop: &CancellationToken) {
        // Without it a response in two segments waits 40 ms for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let stream = LimitedStream::new(stream, Arc::clone(&place.connection), &self.limits);
        // The futures of both are large, and most hostile connections get to neither.
        let result = match &self.tls {
            None => Box::pin(self.serve(stream, &place.connection, stop)).await,
            Some(tls) => match tls.accept(stream, peer).await {
                Ok(stream) => {
                    place.connection.reached(Stage::Secure);
                    Box::pin(self.serve(stream, &place.connection, stop)).await
                }
                Err(error) => return tracing::debug!(%error, "TLS handshake failed"),
            },
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection failed");
        }
    }

    async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        connection: &Arc<Connection>,
        stop: &CancellationToken,
    ) -> hyper::Result<()> {
        let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
            let connection = Arc::clone(connection);
            request.extensions_mut().insert(Arc::clone(&connection));
            let response = self.service.call(request);
            async move {
                let _running = connection.request();
                response.await
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.headers)
            .keep_alive(self.limits.keep_alive)
            .max_headers(HEADERS)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let mut served = std::pin::pin!(served);
        tokio::select! {
            result = served.as_mut() => return result,
            () = sleep(self.limits.age) => {}
            () = stop.cancelled() => {}
        }
        served.as_mut().graceful_shutdown();
        timeout(FINISH_WITHIN, served).await.unwrap_or(Ok(()))
    }
}

impl Tls {
    async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: Peer,
    ) -> std::io::Result<tokio_rustls::server::TlsStream<S>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        // The key exchange and the signature are made here, at once.
        let permit = self.queue.acquire(peer).await;
        let accept = start.into_stream(Arc::clone(&self.config));
        drop(permit);
        Box::pin(accept).await
    }
}
