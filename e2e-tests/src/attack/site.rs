//! The attacked sidecar with its backup, and hostile registries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use axum::body::Body;
use axum::http::{Method, Response};
use bytes::Bytes;
use mirror_contract::{ImageRef, Mode, Query, Sidecar as Address};
use serde_json::Value;

use super::limits::{ControlGroup, peak};
use super::{Measured, Setup};
use testkit::blocking;
use testkit::registry::RegistryClient;
use testkit::scripted::{Fake, Other};
use testkit::sidecar::{Sidecar, SidecarBuilder};

/// The repository in the backup.
pub const REPOSITORY: &str = "acme/mirror";

/// Loopback addresses of hostile registries: fairness is grouped by address.
const HOSTILE_HOSTS: u8 = 8;

const LOOK: Duration = Duration::from_millis(50);

/// A running sidecar under attack.
pub struct Site {
    /// The sidecar, which ends first.
    pub sidecar: Sidecar,
    /// Where copies go.
    pub backup: Fake,
    client: RegistryClient,
    memory: u64,
    _group: Option<ControlGroup>,
}

/// The facade's response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status: 200 for an image that is mirrored.
    pub status: u16,
    /// The message of an error.
    pub message: String,
}

impl Site {
    /// Starts a sidecar that may read from these registries by plain HTTP.
    pub fn start(setup: Setup, sources: &[&Fake]) -> anyhow::Result<Self> {
        Self::start_with(setup, sources, |sidecar| sidecar)
    }

    /// The same with more flags.
    pub fn start_with(
        setup: Setup,
        sources: &[&Fake],
        configure: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> anyhow::Result<Self> {
        let backup = blocking::run(Fake::start());
        Self::start_again(setup, sources, backup, configure)
    }

    /// The same with a backup that is there already.
    pub fn start_again(
        setup: Setup,
        sources: &[&Fake],
        backup: Fake,
        configure: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> anyhow::Result<Self> {
        let group = setup
            .is_limited
            .then(|| ControlGroup::new(setup.memory))
            .flatten();
        let mut builder = Sidecar::builder()
            .insecure_registry(&backup.host())
            .argument("--registry")
            .argument(backup.host())
            .argument("--repository")
            .argument(REPOSITORY)
            .argument("--parallel-copies")
            .argument(setup.parallel_copies.to_string());
        for source in sources {
            builder = builder.insecure_registry(&source.host());
        }
        if let Some(group) = &group {
            builder = builder.launcher(group.launcher());
        }
        let sidecar = configure(builder).start()?;
        let client = RegistryClient::new(
            &sidecar.facade(),
            Some(sidecar.facade_credential().clone()),
            Some(sidecar.tls().ca_pem()),
        );
        Ok(Self {
            sidecar,
            backup,
            client,
            memory: setup.memory,
            _group: group,
        })
    }

    /// Asks the facade for an image, as the policy does.
    pub fn ask(&self, image: &str) -> anyhow::Result<Reply> {
        let path = self.path(image)?;
        blocking::run(async {
            let response = self.client.request(Method::GET, &path).send().await?;
            let status = response.status().as_u16();
            let body: Value = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
            let message = body["errors"][0]["message"].as_str().unwrap_or_default();
            Ok(Reply {
                status,
                message: message.to_owned(),
            })
        })
    }

    fn path(&self, image: &str) -> anyhow::Result<String> {
        let image = ImageRef::parse(image).map_err(|error| anyhow::anyhow!("{image}: {error}"))?;
        let facade = self.sidecar.facade();
        let address = Address::parse(&facade).context("the facade has no address")?;
        let reference = Query::image(image, Mode::Ensure)
            .encode(&address)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let query = reference
            .strip_prefix(&format!("{facade}/"))
            .and_then(|query| query.rsplit_once(':'));
        let (repository, tag) = query.context("the query is no reference")?;
        Ok(format!("/v2/{repository}/manifests/{tag}"))
    }

    /// Asks for an image until it is mirrored; returns how long that took.
    pub fn wait_until_mirrored(&self, image: &str, within: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        loop {
            // A sidecar that does not answer may answer the next time.
            if matches!(self.ask(image), Ok(Reply { status: 200, .. })) {
                return Ok(started.elapsed());
            }
            if started.elapsed() > within {
                bail!("not mirrored within {} s", within.as_secs());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The peak of the memory, or that the kernel ended the process.
    pub fn memory(&mut self) -> anyhow::Result<Measured> {
        if let Some(status) = self.sidecar.ended()? {
            return Ok(Measured {
                value: format!("**killed** ({status})"),
                is_within_bound: false,
            });
        }
        let peak = peak(self.sidecar.pid()).context("the memory cannot be read")?;
        Ok(Measured {
            value: format!("{} MiB", peak.div_ceil(1 << 20)),
            is_within_bound: peak <= self.memory,
        })
    }
}

/// Waits until a condition holds; `false` if it does not within this time.
pub fn wait(within: Duration, is_so: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > within {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

/// Hostile registries at several addresses, which all respond alike to method, path and query.
pub fn hostile(
    respond: impl Fn(&Method, &str, &str) -> Response<Body> + Send + Sync + 'static,
) -> Vec<Fake> {
    let respond: Other = Arc::new(move |method: &Method, path: &str, query: &str, _: &Bytes| {
        respond(method, path, query)
    });
    let hosts = 2..2 + HOSTILE_HOSTS;
    let start = |host| {
        let fake = blocking::run(Fake::start_at(&format!("127.0.0.{host}:0")));
        let respond = Arc::clone(&respond);
        fake.set(move |knobs| knobs.other = Some(respond));
        fake
    };
    hosts.map(start).collect()
}

/// A response with a type and a body.
pub fn response(status: u16, media_type: &str, body: impl Into<Body>) -> Response<Body> {
    let builder = Response::builder()
        .status(status)
        .header("content-type", media_type);
    builder.body(body.into()).unwrap_or_default()
}
