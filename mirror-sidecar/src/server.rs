//! HTTP and TLS connections.
//!
//! Every connection is accepted and bounded: in number, per peer and in total; in time, until the peer has authenticated,
//! between requests, and while it does not read; and in bytes. Hostile peers cannot block others: if there are too many
//! connections, an old one is closed for the new one.

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
pub use certificate::{CertificateTrouble, CertificateTroubleKind, Certificates};
pub use connection::Connection;
use connection::Stage;
use connection_table::{ConnectionTable, Place};
use handshake_queue::HandshakeQueue;
use limited_stream::LimitedStream;
pub use limits::Limits;
use peer::Peer;

/// Maximum bytes of a request's headers. Queries have a few hundred; hyper does not allow less.
const HEADER_BYTES: usize = 8 * 1024;

/// Maximum headers of a request. The policy server sends less than ten.
const HEADERS: usize = 64;

/// Bytes of a connection that the kernel buffers in each direction (it doubles them), instead of some MiB. Requests and
/// responses are shorter.
const SOCKET_BUFFER: u32 = 16 * 1024;

/// Connections that the kernel queues before they are accepted. Its own limit is 4,096 (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Sockets beyond the limit of connections, for evicted connections whose tasks have not ended.
const CLOSING: usize = 64;

/// Time for a running request when its connection ends.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Pause after a failed accept if no connection can be closed: without it the loop would use a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Shortest time between two warnings about connections, which peers cause.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// A port with a service behind it.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    table: Arc<ConnectionTable>,
    /// One permit for each open socket. The wait for a permit never depends on a peer: the table evicts connections.
    sockets: Arc<Semaphore>,
    accept_failures: Throttle,
    evictions: Throttle,
}

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
    /// Listens on `address`, with TLS if there are certificates.
    pub fn bind(
        address: SocketAddr,
        certificates: Option<&Certificates>,
        router: Router,
        limits: Limits,
    ) -> std::io::Result<Self> {
        // A panic in a handler ends one request, not the service.
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

    /// Returns the address with the actual port.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then finishes running requests.
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
        // The semaphore is never closed.
        let socket = Arc::clone(&self.sockets).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (stream, address.ip().into(), socket),
                Err(error) => {
                    if let Some(times) = self.accept_failures.count() {
                        tracing::warn!(%error, times, "cannot accept connections; raise the limit of open files (ulimit -n)");
                    }
                    // Most likely there are no file descriptors left. A closed connection frees one.
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
    // A restart does not wait for connections of the previous process.
    socket.set_reuseaddr(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Returns if the peer has not authenticated in time.
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
        // These futures are large, and most hostile connections never need them.
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
        // The key exchange and the signature are computed here.
        let permit = self.queue.acquire(peer).await;
        let accept = start.into_stream(Arc::clone(&self.config));
        drop(permit);
        Box::pin(accept).await
    }
}
