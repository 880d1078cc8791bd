//! A client that only wants to be a burden.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use super::Kind;

/// Between two bytes of what is sent slowly.
const SLOWLY: Duration = Duration::from_millis(200);

/// Without credentials. `/metrics` is the longest response that there is without any.
const REQUEST: &[u8] = b"GET /v2/ HTTP/1.1\r\nHost: sidecar\r\n\r\n";
const METRICS_REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: sidecar\r\n\r\n";

pub(super) struct Client {
    pub(super) kind: Kind,
    pub(super) server: SocketAddr,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The first bytes of a TLS handshake.
    pub(super) hello: Arc<[u8]>,
    pub(super) address: Ipv4Addr,
}

impl Client {
    /// One connection, until it is closed.
    pub(super) async fn connect(&self) -> io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        socket.bind(SocketAddr::new(self.address.into(), 0))?;
        let mut stream = socket.connect(self.server).await?;
        match self.kind {
            Kind::Idle => return until_closed(&mut stream).await,
            Kind::HalfTls if self.tls.is_some() => stream.write_all(&self.hello).await?,
            Kind::HalfTls => stream.write_all(b"GET /hea").await?,
            _ => return self.speak(stream).await,
        }
        until_closed(&mut stream).await
    }

    async fn speak(&self, stream: TcpStream) -> io::Result<()> {
        match &self.tls {
            None => self.be_hostile(stream, METRICS_REQUEST).await,
            Some(tls) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let tls = TlsConnector::from(Arc::clone(tls));
                self.be_hostile(tls.connect(name, stream).await?, REQUEST)
                    .await
            }
        }
    }

    async fn be_hostile(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        request: &[u8],
    ) -> io::Result<()> {
        match self.kind {
            Kind::Idle | Kind::HalfTls => until_closed(&mut stream).await,
            Kind::SlowHeaders => {
                stream.write_all(b"GET /v2/ HTTP/1.1\r\nX-Slow: ").await?;
                slowly(&mut stream).await
            }
            Kind::SlowBody => {
                let head =
                    b"POST /v2/ HTTP/1.1\r\nHost: sidecar\r\nContent-Length: 1000000\r\n\r\n";
                stream.write_all(head).await?;
                slowly(&mut stream).await
            }
            Kind::Unauthenticated => {
                let mut response = vec![0; 16 * 1024];
                loop {
                    stream.write_all(request).await?;
                    if stream.read(&mut response).await? == 0 {
                        return Ok(());
                    }
                }
            }
            Kind::Pipelining => {
                stream.write_all(&request.repeat(100)).await?;
                until_closed(&mut stream).await
            }
            Kind::NeverReading => loop {
                stream.write_all(request).await?;
                stream.flush().await?;
                sleep(SLOWLY).await;
            },
        }
    }
}

async fn slowly(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        sleep(SLOWLY).await;
        stream.write_all(b"x").await?;
        stream.flush().await?;
    }
}

async fn until_closed(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// The bytes with which a TLS client begins.
pub(super) fn client_hello(tls: &Arc<ClientConfig>) -> anyhow::Result<Arc<[u8]>> {
    let name = ServerName::try_from("localhost")?;
    let mut connection = ClientConnection::new(Arc::clone(tls), name)?;
    let mut hello = Vec::new();
    connection
        .write_tls(&mut hello)
        .context("writing to memory failed")?;
    Ok(hello.into())
}
