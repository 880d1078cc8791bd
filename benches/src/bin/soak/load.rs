//! Requests of the facade, as Kubewarden's host sends them: for each a new TLS connection, a challenge and Basic
//! authentication.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::{Certificate, Client};
use testkit::sidecar::Sidecar;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::Args;
use super::registry::Registries;

/// Requests that may wait at the same time; beyond it the load counts them as late instead of starting them.
const WAITING: usize = 400;
/// The longest that Kubewarden's callback could wait; the sidecar promises half a second.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A load that runs.
pub struct Load {
    task: JoinHandle<anyhow::Result<Requests>>,
    ended: Arc<AtomicBool>,
}

/// What became of all requests.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// How long each of them took, ascending.
    pub times: Vec<Duration>,
    /// Those without any response.
    pub failed: usize,
    /// Those that could not be started because too many waited.
    pub late: usize,
    /// Those for which there was a copy.
    pub mirrored: usize,
}

/// What a request needs.
#[derive(Clone)]
struct Facade {
    url: String,
    user: String,
    password: String,
    authority: Certificate,
}

impl Facade {
    fn of(sidecar: &Sidecar) -> anyhow::Result<Self> {
        let credential = sidecar.facade_credential();
        Ok(Self {
            url: format!("https://{}", sidecar.facade()),
            user: credential.user.clone(),
            password: credential.password.clone(),
            authority: Certificate::from_pem(sidecar.tls().ca_pem().as_bytes())?,
        })
    }

    /// A client with no connection yet. Making one costs some milliseconds of CPU, which are not measured.
    fn client(&self) -> anyhow::Result<Client> {
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([self.authority.clone()])
            .pool_max_idle_per_host(0)
            .timeout(TIMEOUT);
        client.build().context("the client cannot be made")
    }

    /// Asks for an image; returns the status. First the ping, as OCI clients do, then the request.
    async fn ask(&self, client: &Client, upstream: &str, number: usize) -> anyhow::Result<u16> {
        let host = upstream.replace(':', "_");
        let path = format!("/v2/tag/{host}/team/app-{number}/manifests/v1");
        let request = client.get(format!("{}{path}", self.url));
        let response = request
            .basic_auth(&self.user, Some(&self.password))
            .send()
            .await?;
        let status = response.status().as_u16();
        response.bytes().await?;
        Ok(status)
    }
}

impl Load {
    pub fn start(
        runtime: &Runtime,
        sidecar: &Sidecar,
        upstream: &str,
        args: &Args,
    ) -> anyhow::Result<Self> {
        let facade = Facade::of(sidecar)?;
        let ended = Arc::new(AtomicBool::new(false));
        let task = runtime.spawn(run(
            facade,
            upstream.to_owned(),
            args.clone(),
            Arc::clone(&ended),
        ));
        Ok(Self { task, ended })
    }

    /// Ends the load and waits for its last requests.
    pub async fn end(self) -> anyhow::Result<Requests> {
        self.ended.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn run(
    facade: Facade,
    upstream: String,
    args: Args,
    ended: Arc<AtomicBool>,
) -> anyhow::Result<Requests> {
    let client = facade.client()?;
    let places = Arc::new(Semaphore::new(WAITING));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(args.rate)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut running: JoinSet<Option<(Duration, u16)>> = JoinSet::new();
    let mut requests = Requests::default();
    let number = AtomicUsize::new(0);
    while !ended.load(Ordering::Relaxed) {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(done) = running.join_next() => {
                requests.count(done?);
                continue;
            }
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            requests.late += 1;
            continue;
        };
        // Every image in turn, and again; those of a cluster are asked for as their Pods come.
        let image = number.fetch_add(1, Ordering::Relaxed) % args.images;
        let (facade, client, upstream) = (facade.clone(), client.clone(), upstream.clone());
        running.spawn(async move {
            let _place = place;
            let started = Instant::now();
            let status = facade.ask(&client, &upstream, image).await.ok()?;
            Some((started.elapsed(), status))
        });
    }
    while let Some(done) = running.join_next().await {
        requests.count(done?);
    }
    requests.times.sort_unstable();
    Ok(requests)
}

impl Requests {
    fn count(&mut self, done: Option<(Duration, u16)>) {
        match done {
            Some((took, status)) => {
                self.times.push(took);
                self.mirrored += usize::from(status == 200);
            }
            None => self.failed += 1,
        }
    }

    /// The time that so many of a thousand requests stay below.
    pub fn percentile(&self, per_mille: usize) -> Duration {
        let place = self.times.len().saturating_sub(1) * per_mille / 1000;
        self.times.get(place).copied().unwrap_or_default()
    }
}

/// Asks once for each image that is not in the backup.
pub async fn ask_for_missing(
    sidecar: &Sidecar,
    registries: &Registries,
    images: usize,
) -> anyhow::Result<()> {
    let facade = Facade::of(sidecar)?;
    let client = facade.client()?;
    let upstream = registries.upstream();
    let copied = registries.copied();
    for number in (0..images).filter(|number| !copied.contains(number)) {
        // The copy is what is waited for, not this response.
        let _ = facade.ask(&client, &upstream, number).await;
    }
    Ok(())
}
