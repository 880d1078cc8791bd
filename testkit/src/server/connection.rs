//! Listeners whose connections a handler can break.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections that have finished their handshake and wait to be served.
const BACKLOG: usize = 64;

/// Breaks one connection: nothing more is written to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switch(Arc<AtomicBool>);

impl Switch {
    pub(crate) fn off(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_off(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A connection that ends when its switch is off.
pub(crate) struct Breakable<S> {
    inner: S,
    pub(crate) switch: Switch,
}

impl<S: AsyncRead + Unpin> AsyncRead for Breakable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Breakable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.switch.is_off() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Closes a listener; opens it again after the time, if there is one.
pub(crate) type Closing = UnboundedSender<Option<Duration>>;

/// Accepts plain connections.
pub(crate) struct PlainListener {
    /// `None` while connections are refused.
    inner: Option<TcpListener>,
    address: SocketAddr,
    closings: UnboundedReceiver<Option<Duration>>,
}

impl PlainListener {
    /// A listener and what closes it.
    pub(crate) fn new(inner: TcpListener) -> io::Result<(Self, Closing)> {
        let (closing, closings) = unbounded_channel();
        let listener = Self {
            address: inner.local_addr()?,
            inner: Some(inner),
            closings,
        };
        Ok((listener, closing))
    }

    async fn reopen(&mut self, after: Option<Duration>) {
        self.inner = None;
        let Some(after) = after else {
            return std::future::pending().await;
        };
        tokio::time::sleep(after).await;
        while self.inner.is_none() {
            self.inner = TcpListener::bind(self.address).await.ok();
            tokio::task::yield_now().await;
        }
    }
}

impl Listener for PlainListener {
    type Io = Breakable<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Some(inner) = &mut self.inner else {
                return std::future::pending().await;
            };
            tokio::select! {
                (stream, peer) = Listener::accept(inner) => return (breakable(without_delay(stream)), peer),
                Some(after) = self.closings.recv() => self.reopen(after).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Accepts connections and does their TLS handshakes. A client that never finishes its handshake does not block others.
pub(crate) struct TlsListener {
    address: SocketAddr,
    ready: Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    pub(crate) fn new(inner: TcpListener, config: Arc<ServerConfig>) -> io::Result<Self> {
        let address = inner.local_addr()?;
        let (sender, ready) = channel(BACKLOG);
        let acceptor = TlsAcceptor::from(config);
        tokio::spawn(async move {
            while let Ok((stream, peer)) = inner.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    // A client that does not trust the certificate ends the handshake; the next one may trust it.
                    if let Ok(stream) = acceptor.accept(without_delay(stream)).await {
                        let _ = sender.send((stream, peer)).await;
                    }
                });
            }
        });
        Ok(Self { address, ready })
    }
}

impl Listener for TlsListener {
    type Io = Breakable<TlsStream<TcpStream>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some((stream, peer)) => (breakable(stream), peer),
            // The accepting task ended: there will be no more connections.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Small responses must not wait for the peer's acknowledgement.
fn without_delay(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    stream
}

pub(crate) fn breakable<S>(inner: S) -> Breakable<S> {
    let switch = Switch::default();
    Breakable { inner, switch }
}

impl Connected<IncomingStream<'_, PlainListener>> for Switch {
    fn connect_info(stream: IncomingStream<'_, PlainListener>) -> Self {
        stream.io().switch.clone()
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Switch {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        stream.io().switch.clone()
    }
}
