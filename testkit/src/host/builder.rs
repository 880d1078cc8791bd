//! How a [`PolicyHost`] is configured.

use std::sync::Arc;
use std::time::Duration;

use super::callback::{ImageSource, Replay};
use super::capabilities::Capabilities;
use super::engine::{Deadline, Engine};
use super::oci::OciCallbacks;
use super::response::Mode;
use super::sources::Sources;
use super::{HostError, PolicyHost};

/// The real host keeps successful OCI answers this long, and it cannot be changed there.
const CACHE_TTL: Duration = Duration::from_mins(1);
/// The real host's `--policy-timeout`, in ticks.
const EPOCH_TICKS: u64 = 2;
/// The real host advances the epoch once a second.
const EPOCH_TICK: Duration = Duration::from_secs(1);

/// Everything that can be set on a host. The defaults are a policy server's for a `ClusterAdmissionPolicy`.
pub struct PolicyHostBuilder {
    wasm: Vec<u8>,
    name: String,
    sources: Sources,
    capabilities: Result<Capabilities, HostError>,
    cache_ttl: Duration,
    deadline: Option<Deadline>,
    mode: Mode,
    replay: Option<Arc<Replay>>,
    interpreted: bool,
}

impl PolicyHostBuilder {
    pub(super) fn new(wasm: Vec<u8>) -> Self {
        Self {
            wasm,
            name: "image-mirror".to_owned(),
            sources: Sources::default(),
            capabilities: Ok(Capabilities::everything()),
            cache_ttl: CACHE_TTL,
            deadline: Some(Deadline {
                ticks: EPOCH_TICKS,
                tick: EPOCH_TICK,
            }),
            mode: Mode::default(),
            replay: None,
            interpreted: !cfg!(feature = "wasmtime"),
        }
    }

    /// The policy's name in messages; default `image-mirror`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Trusts a CA (PEM) for the registry `host:port`.
    #[must_use]
    pub fn source_authority(mut self, registry: impl Into<String>, ca: impl Into<String>) -> Self {
        self.sources = self.sources.authority(registry, ca);
        self
    }

    /// Lets the registry `host:port` fall back to unverified HTTPS, then plain HTTP.
    #[must_use]
    pub fn insecure_source(mut self, registry: impl Into<String>) -> Self {
        self.sources = self.sources.insecure(registry);
        self
    }

    /// User and password for the registry `host:port`, as in docker's `config.json`.
    #[must_use]
    pub fn credential(
        mut self,
        registry: impl Into<String>,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.sources = self.sources.credential(registry, user, password);
        self
    }

    /// Allows only these host capabilities; default `*`, an empty list allows none.
    #[must_use]
    pub fn allow_capabilities<P: AsRef<str>>(
        mut self,
        patterns: impl IntoIterator<Item = P>,
    ) -> Self {
        self.capabilities = Capabilities::parse(patterns);
        self
    }

    /// How long successful OCI answers are kept; default 60 s. Zero switches the cache off.
    #[must_use]
    pub fn cache_ttl(mut self, time_to_live: Duration) -> Self {
        self.cache_ttl = time_to_live;
        self
    }

    /// After how many ticks a guest is stopped; default 2.
    #[must_use]
    pub fn epoch_ticks(mut self, ticks: u64) -> Self {
        let tick = self.deadline.map_or(EPOCH_TICK, |deadline| deadline.tick);
        self.deadline = Some(Deadline { ticks, tick });
        self
    }

    /// How long a tick is; default 1 s.
    #[must_use]
    pub fn epoch_tick(mut self, tick: Duration) -> Self {
        let ticks = self.deadline.map_or(EPOCH_TICKS, |deadline| deadline.ticks);
        self.deadline = Some(Deadline { ticks, tick });
        self
    }

    /// What becomes of the policy's verdict; default [`Mode::Protect`].
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Answers questions about images without a registry: `replay` gets the operation, such as `v1/oci_manifest`, and the
    /// image, and gives the payload or the text of an error. Nothing is cached then, as in a replay of kwctl's.
    #[must_use]
    pub fn replay(
        mut self,
        replay: impl Fn(&str, &str) -> Result<String, String> + Send + Sync + 'static,
    ) -> Self {
        self.replay = Some(Arc::new(replay));
        self
    }

    /// Runs the module in an interpreter: the same host in another engine, which is built in a small part of the time.
    ///
    /// Without the feature `wasmtime` there is no other engine.
    #[must_use]
    pub fn interpreted(mut self) -> Self {
        self.interpreted = true;
        self
    }

    /// Compiles the module and starts the host.
    ///
    /// # Errors
    /// When the module cannot be compiled, a CA is not PEM, or a capability pattern names nothing.
    pub fn build(self) -> Result<PolicyHost, HostError> {
        let images = if let Some(replay) = self.replay {
            ImageSource::Replay(replay)
        } else {
            let oci = OciCallbacks::new(self.sources, self.cache_ttl)?;
            ImageSource::Registries(Arc::new(oci))
        };
        Ok(PolicyHost {
            name: self.name,
            engine: match self.interpreted {
                #[cfg(feature = "wasmtime")]
                false => Engine::compile(&self.wasm, self.deadline)?,
                _ => Engine::interpret(&self.wasm, self.deadline)?,
            },
            capabilities: self.capabilities?,
            images,
            mode: self.mode,
        })
    }
}
