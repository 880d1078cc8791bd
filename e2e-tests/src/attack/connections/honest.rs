//! An authenticated client and a probe, whose time is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::Latencies;

/// What takes longer is an error.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Between two requests: a policy server makes one after the other, and does other things too.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Clone)]
pub(super) struct Client {
    pub(super) facade: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) authorization: String,
}

impl Client {
    /// Authenticated requests and probes for so long, on a runtime that the hostile clients do not share.
    pub(super) fn measure(&self, duration: Duration) -> anyhow::Result<(Latencies, Latencies)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(async {
            tokio::join!(
                repeat(duration, || self.query()),
                repeat(duration, || self.probe())
            )
        }))
    }

    async fn query(&self) -> anyhow::Result<()> {
        let stream = TcpStream::connect(self.facade).await.context("connect")?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let mut stream = tls.connect(name, stream).await.context("TLS handshake")?;
        request(&mut stream, "/v2/", "", 401)
            .await
            .context("challenge")?;
        let authorization = format!("Authorization: {}\r\n", self.authorization);
        request(&mut stream, "/v2/", &authorization, 200)
            .await
            .context("request with credentials")
    }

    async fn probe(&self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.admin).await.context("connect")?;
        request(&mut stream, "/healthz", "", 200).await
    }
}

async fn repeat<F: Future<Output = anyhow::Result<()>>>(
    duration: Duration,
    action: impl Fn() -> F,
) -> Latencies {
    let mut latencies = Latencies::default();
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let start = Instant::now();
        let result = timeout(TIMEOUT, action()).await;
        match result.unwrap_or_else(|_| Err(anyhow::anyhow!("no response within {TIMEOUT:?}"))) {
            Ok(()) => latencies.sorted.push(start.elapsed()),
            Err(error) => {
                latencies.errors += 1;
                latencies
                    .first_error
                    .get_or_insert_with(|| format!("{error:#}"));
            }
        }
        sleep(PAUSE).await;
    }
    latencies.sorted.sort_unstable();
    latencies
}

/// Sends a request, and reads the response as far as its length says.
async fn request(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
    headers: &str,
    status: u16,
) -> anyhow::Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut response = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&response);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            ensure!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                value.trim().parse::<usize>().ok().filter(|_| is_length)
            });
            if body.len() >= length.context("the response has no length")? {
                return Ok(());
            }
        }
        if stream.read_buf(&mut response).await? == 0 {
            bail!("the connection was closed");
        }
    }
}
