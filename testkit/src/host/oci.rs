//! The two OCI callbacks, `v1/oci_manifest` and `v1/manifest_digest`, on a real registry client.

use std::time::Duration;

use oci_client::Reference;
use oci_client::client::Client;
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciManifest;
use oci_client::secrets::RegistryAuth;
use serde_json::json;
use url::Url;

use super::HostError;
use super::cache::{Cached, SerialCache};
use super::sources::Sources;
use crate::blocking;
use crate::tls::install_crypto_provider;

/// What a callback gives the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The response's bytes, or the error text before waPC puts `Host error: ` in front of it.
    pub payload: Result<Vec<u8>, String>,
    /// Whether it came from the host's cache.
    pub cached: bool,
}

/// The OCI side of the host. One per policy server: all its policies share the caches.
///
/// Safe to share between threads; calls block. All calls of one operation run one after the other.
pub struct OciCallbacks {
    sources: Sources,
    manifests: SerialCache<OciManifest>,
    digests: SerialCache<String>,
}

/// Texts as the real host words them; guests search them for markers.
#[derive(Debug, thiserror::Error)]
enum CallbackError {
    #[error("Fail to interact with OCI registry: {0}")]
    Registry(#[from] OciDistributionError),
    #[error(transparent)]
    Reference(#[from] oci_client::ParseError),
    #[error(transparent)]
    Url(#[from] url::ParseError),
    #[error("invalid URL: {0}")]
    NoHost(String),
}

impl OciCallbacks {
    /// Callbacks that reach registries as `sources` say and keep successes for `time_to_live` (60 s in the real host).
    ///
    /// # Errors
    /// [`HostError::Authority`] when a CA of `sources` is not a PEM certificate.
    pub fn new(sources: Sources, time_to_live: Duration) -> Result<Self, HostError> {
        install_crypto_provider();
        if let Some(registry) = sources.broken_authority() {
            return Err(HostError::Authority {
                registry: registry.to_owned(),
            });
        }
        Ok(Self {
            sources,
            manifests: SerialCache::new(time_to_live),
            digests: SerialCache::new(time_to_live),
        })
    }

    /// `oci` `v1/oci_manifest`: the manifest or index behind a reference, parsed and serialised again, so that
    /// fields which the host's types do not know are lost.
    pub fn manifest(&self, image: &str) -> Answer {
        let answer = blocking::run(
            self.manifests
                .get_or_fetch(image, self.fetch_manifest(image)),
        );
        Answer::new(answer, |manifest| serde_json::to_vec(&manifest))
    }

    /// `oci` `v1/manifest_digest`: `{"digest": "sha256:…"}`.
    pub fn manifest_digest(&self, image: &str) -> Answer {
        let answer = blocking::run(self.digests.get_or_fetch(image, self.fetch_digest(image)));
        Answer::new(answer, |digest| {
            serde_json::to_vec(&json!({ "digest": digest }))
        })
    }

    /// Forgets every cached answer, as a restart of the policy server does.
    pub fn clear_cache(&self) {
        blocking::run(async {
            self.manifests.clear().await;
            self.digests.clear().await;
        });
    }

    async fn fetch_manifest(&self, image: &str) -> Result<OciManifest, CallbackError> {
        self.with_registry(image, async |client, reference, auth| {
            client
                .pull_manifest(reference, auth)
                .await
                .map(|(manifest, _digest)| manifest)
        })
        .await
    }

    async fn fetch_digest(&self, image: &str) -> Result<String, CallbackError> {
        self.with_registry(image, async |client, reference, auth| {
            client.fetch_manifest_digest(reference, auth).await
        })
        .await
    }

    /// Tries every way that the sources allow; the last error counts.
    async fn with_registry<T>(
        &self,
        image: &str,
        operation: impl AsyncFn(&Client, &Reference, &RegistryAuth) -> Result<T, OciDistributionError>,
    ) -> Result<T, CallbackError> {
        let reference: Reference = image.parse()?;
        let registry = host_and_port(&reference)?;
        let auth = self.sources.auth(reference.registry());
        let mut last = None;
        for attempt in self.sources.attempts(&registry) {
            match operation(&attempt.client(), &reference, &auth).await {
                Ok(value) => return Ok(value),
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| OciDistributionError::GenericError(None));
        Err(CallbackError::Registry(error))
    }
}

impl Answer {
    fn new<V>(
        answer: Result<Cached<V>, CallbackError>,
        encode: impl FnOnce(V) -> serde_json::Result<Vec<u8>>,
    ) -> Self {
        let cached = matches!(&answer, Ok(Cached { hit: true, .. }));
        let payload = answer
            .map_err(anyhow::Error::from)
            .and_then(|answer| Ok(encode(answer.value)?))
            .map_err(|error| callback_failure(&error));
        Self { payload, cached }
    }
}

/// The host prints the error with its causes on lines of their own. Where `RUST_BACKTRACE` is set it adds a backtrace,
/// which no test can compare.
pub(super) fn callback_failure(error: &anyhow::Error) -> String {
    let error = format!("{error:?}");
    let causes = error.split("\n\nStack backtrace:").next();
    format!(
        "Callback evaluation failure: {}",
        causes.unwrap_or_default()
    )
}

fn host_and_port(reference: &Reference) -> Result<String, CallbackError> {
    let url = Url::parse(&format!("registry://{reference}"))?;
    let host = url
        .host_str()
        .ok_or_else(|| CallbackError::NoHost(url.to_string()))?;
    Ok(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}
