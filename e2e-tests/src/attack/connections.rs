//! Hostile connections to the sidecar's ports, and what an authenticated client and a probe notice of them.
//!
//! All of it runs in one process over loopback. The number of connections that are opened in a second is bounded: this side
//! uses the same processors as the sidecar, and without a bound it would measure only itself.

mod honest;
mod hostile;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use testkit::sidecar::Sidecar;
use testkit::tls::install_crypto_provider;

/// Time for the hostile connections to come up before the measurement begins.
const WARM_UP: Duration = Duration::from_secs(3);

/// What a hostile client does. Each opens a new connection as soon as the last one was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It sends nothing.
    Idle,
    /// It sends the headers of a request byte by byte.
    SlowHeaders,
    /// It begins a TLS handshake and goes no further. On a port without TLS it sends half a request line.
    HalfTls,
    /// It sends requests without credentials, one after the other.
    Unauthenticated,
    /// It sends requests and does not read the responses.
    NeverReading,
    /// It sends a request whose body comes byte by byte.
    SlowBody,
    /// It sends a hundred requests at a time.
    Pipelining,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Idle,
        Self::SlowHeaders,
        Self::HalfTls,
        Self::Unauthenticated,
        Self::NeverReading,
        Self::SlowBody,
        Self::Pipelining,
    ];
}

/// A port of the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The facade, by TLS.
    Facade,
    /// Health and metrics, by plain HTTP.
    Admin,
}

/// The addresses that hostile connections come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// The one of the authenticated client, as behind NAT.
    Shared,
    /// A hundred others.
    Many,
}

/// Hostile connections to one port.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// What they do.
    pub kind: Kind,
    /// The port that they connect to.
    pub port: Port,
    /// Where they come from.
    pub addresses: Addresses,
    /// Clients at the same time; with none, an idle service is measured.
    pub clients: usize,
    /// Connections that all of them open in a second, at most.
    pub opened_per_second: u32,
    /// How long the measurement takes.
    pub duration: Duration,
}

/// The attacked sidecar.
#[derive(Clone)]
pub struct Service {
    facade: SocketAddr,
    admin: SocketAddr,
    tls: Arc<ClientConfig>,
    authorization: String,
}

impl Service {
    /// A running sidecar that speaks TLS.
    pub fn of(sidecar: &Sidecar) -> anyhow::Result<Self> {
        use base64::Engine as _;
        install_crypto_provider();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(
            sidecar.tls().ca_pem().as_bytes(),
        )?)?;
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let credential = sidecar.facade_credential();
        let pair = format!("{}:{}", credential.user, credential.password);
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        Ok(Self {
            facade: sidecar.facade_address().parse()?,
            admin: sidecar.admin().parse()?,
            tls: Arc::new(tls),
            authorization: format!("Basic {encoded}"),
        })
    }
}

/// What the attack did to others.
#[derive(Clone, Debug)]
pub struct Report {
    /// Authenticated requests: each a new connection, the challenge, and the request with credentials, as Kubewarden's host
    /// makes them.
    pub facade: Latencies,
    /// `GET /healthz`, each on a new connection, as a kubelet makes them.
    pub probes: Latencies,
    /// Hostile connections that were opened.
    pub opened: u64,
}

/// How long requests took.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    sorted: Vec<Duration>,
    /// Requests without the expected response, with the first reason.
    pub errors: usize,
    /// Why the first of them failed.
    pub first_error: Option<String>,
}

impl Latencies {
    /// The duration that this part of the requests, in percent, did not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        let index = (self.sorted.len() * percent)
            .div_ceil(100)
            .saturating_sub(1);
        self.sorted
            .get(index.min(last))
            .copied()
            .unwrap_or_default()
    }

    /// Requests that got their response.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sorted.len()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [50, 99, 100].map(|percent| self.percentile(percent).as_millis());
        let (count, errors) = (self.count(), self.errors);
        write!(
            formatter,
            "{count} requests, p50 {p50} ms, p99 {p99} ms, max {max} ms, {errors} errors"
        )?;
        match &self.first_error {
            Some(error) => write!(formatter, " (the first: {error})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            facade,
            probes,
            opened,
        } = self;
        write!(
            formatter,
            "facade: {facade}; probes: {probes}; {opened} hostile connections"
        )
    }
}

/// Runs an attack, and meanwhile an authenticated client and a probe on a thread of their own.
pub async fn run(service: &Service, attack: Attack) -> anyhow::Result<Report> {
    raise_descriptor_limit(attack.clients)?;
    let opened = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    let pace = Arc::new(tokio::sync::Mutex::new(pace(attack.opened_per_second)));
    let hello = hostile::client_hello(&service.tls)?;
    for number in 0..attack.clients {
        let client = hostile::Client {
            kind: attack.kind,
            server: match attack.port {
                Port::Facade => service.facade,
                Port::Admin => service.admin,
            },
            tls: (attack.port == Port::Facade).then(|| Arc::clone(&service.tls)),
            hello: Arc::clone(&hello),
            address: match attack.addresses {
                Addresses::Shared => Ipv4Addr::LOCALHOST,
                Addresses::Many => Ipv4Addr::new(127, 1, 1, u8::try_from(number % 100)? + 1),
            },
        };
        let (pace, opened) = (Arc::clone(&pace), Arc::clone(&opened));
        clients.spawn(async move {
            loop {
                pace.lock().await.tick().await;
                opened.fetch_add(1, Ordering::Relaxed);
                // It ends when the sidecar closes the connection; that is what is expected.
                let _ = client.connect().await;
            }
        });
    }
    if attack.clients > 0 {
        sleep_until(Instant::now() + WARM_UP).await;
    }
    let honest = honest::Client {
        facade: service.facade,
        admin: service.admin,
        tls: Arc::clone(&service.tls),
        authorization: service.authorization.clone(),
    };
    let measured = tokio::task::spawn_blocking(move || honest.measure(attack.duration));
    let (facade, probes) = measured.await.context("the measurement panicked")??;
    clients.shutdown().await;
    Ok(Report {
        facade,
        probes,
        opened: opened.load(Ordering::Relaxed),
    })
}

fn pace(opened_per_second: u32) -> tokio::time::Interval {
    let mut pace = interval(Duration::from_secs(1) / opened_per_second.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    pace
}

/// Each client has a connection, and a test program usually may open 1,024 files.
fn raise_descriptor_limit(clients: usize) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = u64::try_from(clients)? + 512;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .with_context(|| format!("{needed} open files are needed (ulimit -n)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let latencies = Latencies {
            sorted: (1..=200).map(Duration::from_millis).collect(),
            ..Latencies::default()
        };
        let percentiles = [0, 50, 99, 100].map(|percent| latencies.percentile(percent).as_millis());
        assert_eq!(percentiles, [1, 100, 198, 200]);
        assert_eq!(Latencies::default().percentile(99), Duration::ZERO);
    }
}
