//! Connections that a handler can break.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Breaks one connection: nothing more is written to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Switch(Arc<AtomicBool>);

impl Switch {
    pub(super) fn off(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_off(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A connection that ends when its switch is off.
pub(super) struct Breakable<S> {
    inner: S,
    pub(super) switch: Switch,
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
pub(super) type Closing = UnboundedSender<Option<Duration>>;

/// Accepts plain connections.
pub(super) struct PlainListener {
    /// `None` while connections are refused.
    inner: Option<TcpListener>,
    address: SocketAddr,
    closings: UnboundedReceiver<Option<Duration>>,
}

impl PlainListener {
    /// A listener and what closes it.
    pub(super) fn new(inner: TcpListener, address: SocketAddr) -> (Self, Closing) {
        let (closing, closings) = unbounded_channel();
        let listener = Self {
            inner: Some(inner),
            address,
            closings,
        };
        (listener, closing)
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
                (stream, peer) = Listener::accept(inner) => return (breakable(stream), peer),
                Some(after) = self.closings.recv() => self.reopen(after).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Accepts connections and does their TLS handshake.
pub(super) struct TlsListener {
    pub(super) inner: TcpListener,
    pub(super) acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = Breakable<TlsStream<TcpStream>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.inner).await;
            // A client that does not trust the certificate ends the handshake; the next one may trust it.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (breakable(stream), peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

pub(super) fn breakable<S>(inner: S) -> Breakable<S> {
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
