//! Everything that belongs to a tag, read by another client than ours: oci-client.
//!
//! Two closures are equal when two registries hold the same image: every manifest byte for byte and with the same
//! media type, the real content of every blob, and the same referrers. Nothing is taken on trust: bytes are hashed
//! here, whatever the registry says about them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Deserialize;

use crate::digest;
use crate::tls::install_crypto_provider;

/// Every type of manifest that a registry may be asked for; some serve nothing else.
const MANIFEST_TYPES: [&str; 6] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.artifact.manifest.v1+json",
    "*/*",
];

/// All that a tag stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closure {
    /// Digest of the manifest or index behind the tag.
    pub root: String,
    /// Media type and bytes of every manifest by its digest, those of referrers included.
    pub manifests: BTreeMap<String, (String, Bytes)>,
    /// Length of every blob by the digest of what really came.
    pub blobs: BTreeMap<String, u64>,
    /// What refers to a manifest, by that manifest's digest, from the referrers API or the fallback tag
    /// (distribution-spec, "Listing Referrers"). Manifests to which nothing refers are not listed.
    pub referrers: BTreeMap<String, BTreeSet<String>>,
}

/// What a manifest names.
#[derive(Default, Deserialize)]
struct Links {
    config: Option<Named>,
    #[serde(default)]
    layers: Vec<Named>,
    #[serde(default)]
    blobs: Vec<Named>,
    #[serde(default)]
    manifests: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    #[serde(default)]
    media_type: String,
    digest: String,
}

impl Named {
    /// Registries need not have these layers.
    fn is_foreign(&self) -> bool {
        self.media_type.contains(".foreign.") || self.media_type.contains(".nondistributable.")
    }
}

/// Reads everything behind `repository:tag` of the registry at `host:port`, by plain HTTP and without a login.
///
/// # Errors
/// When something that is named is not there, or is not what its digest says.
pub async fn read(registry: &str, repository: &str, tag: &str) -> anyhow::Result<Closure> {
    let reader = Reader::new(registry, repository)?;
    let root = reader.digest_of_tag(tag).await?;
    let mut closure = Closure {
        root: root.clone(),
        manifests: BTreeMap::new(),
        blobs: BTreeMap::new(),
        referrers: BTreeMap::new(),
    };
    let mut open = vec![root];
    while let Some(name) = open.pop() {
        if closure.manifests.contains_key(&name) {
            continue;
        }
        let (media_type, bytes) = reader.manifest(&name).await?;
        // What is no JSON names nothing.
        let links: Links = serde_json::from_slice(&bytes).unwrap_or_default();
        let blobs = links.config.iter().chain(&links.layers).chain(&links.blobs);
        for blob in blobs.filter(|blob| !blob.is_foreign()) {
            if !closure.blobs.contains_key(&blob.digest) {
                let size = reader.blob(&blob.digest).await?;
                closure.blobs.insert(blob.digest.clone(), size);
            }
        }
        open.extend(links.manifests.into_iter().map(|child| child.digest));
        let referrers = reader.referrers(&name).await?;
        open.extend(referrers.iter().cloned());
        if !referrers.is_empty() {
            closure.referrers.insert(name.clone(), referrers);
        }
        closure.manifests.insert(name, (media_type, bytes));
    }
    Ok(closure)
}

/// One repository, seen by oci-client.
struct Reader {
    client: Client,
    /// oci-client does not tell media types; a plain `HEAD` asks for them.
    http: reqwest::Client,
    registry: String,
    repository: String,
}

impl Reader {
    fn new(registry: &str, repository: &str) -> anyhow::Result<Self> {
        install_crypto_provider();
        let config = ClientConfig {
            protocol: ClientProtocol::Http,
            ..ClientConfig::default()
        };
        Ok(Self {
            client: Client::new(config),
            http: reqwest::Client::builder().no_proxy().build()?,
            registry: registry.to_owned(),
            repository: repository.to_owned(),
        })
    }

    fn by_digest(&self, digest: &str) -> Reference {
        let (registry, repository) = (self.registry.clone(), self.repository.clone());
        Reference::with_digest(registry, repository, digest.to_owned())
    }

    async fn raw(&self, reference: &Reference) -> anyhow::Result<Bytes> {
        let anonymous = RegistryAuth::Anonymous;
        let pulled = self
            .client
            .pull_manifest_raw(reference, &anonymous, &MANIFEST_TYPES)
            .await;
        let (bytes, _) = pulled.with_context(|| reference.to_string())?;
        Ok(bytes)
    }

    async fn digest_of_tag(&self, tag: &str) -> anyhow::Result<String> {
        let (registry, repository) = (self.registry.clone(), self.repository.clone());
        let reference = Reference::with_tag(registry, repository, tag.to_owned());
        Ok(digest::of(&self.raw(&reference).await?))
    }

    async fn manifest(&self, name: &str) -> anyhow::Result<(String, Bytes)> {
        let bytes = self.raw(&self.by_digest(name)).await?;
        let really = digest::of(&bytes);
        ensure!(really == name, "{name} is {really}");
        let (registry, repository) = (&self.registry, &self.repository);
        let url = format!("http://{registry}/v2/{repository}/manifests/{name}");
        let request = self
            .http
            .request(Method::HEAD, url)
            .header(ACCEPT, MANIFEST_TYPES.join(", "));
        let answer = request.send().await?.error_for_status()?;
        let media_type = answer
            .headers()
            .get(CONTENT_TYPE)
            .context("a manifest has a type")?;
        Ok((media_type.to_str()?.to_owned(), bytes))
    }

    /// The length of a blob whose content has this digest.
    async fn blob(&self, name: &str) -> anyhow::Result<u64> {
        let reference = self.by_digest(name);
        let mut stream = self
            .client
            .pull_blob_stream(&reference, name)
            .await
            .with_context(|| name.to_owned())?
            .stream;
        let mut hasher = digest::Hasher::default();
        while let Some(piece) = stream.next().await {
            hasher.update(&piece?);
        }
        let size = hasher.length();
        let really = hasher.finish();
        // oci-client verifies the other algorithms itself.
        ensure!(
            really == name || !name.starts_with("sha256:"),
            "{name} is {really}"
        );
        Ok(size)
    }

    async fn referrers(&self, name: &str) -> anyhow::Result<BTreeSet<String>> {
        let index = self
            .client
            .pull_referrers(&self.by_digest(name), None)
            .await
            .with_context(|| format!("referrers of {name}"))?;
        let digests = index.manifests.into_iter().map(|entry| entry.digest);
        Ok(digests.collect())
    }
}
