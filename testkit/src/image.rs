//! Images made on the fly: real gzip tar layers, deterministic from a seed.
//!
//! Pushing and reading back goes over plain HTTP with [`RegistryClient`], never through the copy engine.

mod build;
mod layer;
mod pull;
mod random;
mod sized;

use bytes::Bytes;
use futures_util::stream;
use reqwest::Body;

pub use build::media_type;
pub use pull::{Pulled, pull_all};
pub use sized::SizedLayer;

use crate::blocking;
use crate::registry::{Document, RegistryClient};
use layer::BigLayer;

/// How much of a big layer is in memory at a time while it is pushed.
const CHUNK: usize = 1 << 20;

/// An image, a multi-platform image or an artifact: everything that has to be pushed for one tag.
#[derive(Debug, Clone)]
pub struct Image {
    blobs: Vec<Blob>,
    /// Children come before what refers to them; the last one is the root.
    manifests: Vec<Document>,
}

/// A layer or a config.
#[derive(Debug, Clone)]
struct Blob {
    digest: String,
    size: u64,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Bytes(Bytes),
    /// Made anew each time it is read, and never in memory as a whole.
    Big(BigLayer),
}

impl Image {
    /// The manifest or index that the tag points at.
    ///
    /// # Panics
    /// Never: every image has a root.
    #[must_use]
    pub fn root(&self) -> &Document {
        self.manifests.last().expect("every image has a root")
    }

    /// The digest that the tag points at.
    #[must_use]
    pub fn digest(&self) -> String {
        self.root().digest()
    }

    /// All manifests; children come before what refers to them.
    #[must_use]
    pub fn manifests(&self) -> &[Document] {
        &self.manifests
    }

    /// Digest and size of every blob.
    pub fn blobs(&self) -> impl Iterator<Item = (&str, u64)> {
        self.blobs
            .iter()
            .map(|blob| (blob.digest.as_str(), blob.size))
    }

    /// Bytes of all blobs and manifests together.
    #[must_use]
    pub fn size(&self) -> u64 {
        let manifests: usize = self.manifests.iter().map(|m| m.bytes.len()).sum();
        self.blobs.iter().map(|blob| blob.size).sum::<u64>() + manifests as u64
    }

    /// What [`pull_all`] gives when a registry has this image, byte for byte.
    #[must_use]
    pub fn expected(&self) -> Pulled {
        Pulled {
            root: self.digest(),
            manifests: self
                .manifests
                .iter()
                .map(|document| (document.digest(), document.clone()))
                .collect(),
            blobs: self
                .blobs
                .iter()
                .map(|blob| (blob.digest.clone(), blob.size))
                .collect(),
        }
    }

    /// Pushes everything and sets the tag; gives the root's digest. Blobs that are there already stay.
    ///
    /// # Errors
    /// When the registry refuses something.
    pub fn push(
        &self,
        registry: &RegistryClient,
        repository: &str,
        tag: &str,
    ) -> anyhow::Result<String> {
        blocking::run(async {
            for blob in &self.blobs {
                if !registry.head_blob(repository, &blob.digest).await? {
                    registry
                        .put_blob(repository, &blob.digest, blob.size, blob.content.body())
                        .await?;
                }
            }
            for manifest in &self.manifests {
                let digest = manifest.digest();
                registry.put_manifest(repository, &digest, manifest).await?;
            }
            registry.put_manifest(repository, tag, self.root()).await?;
            Ok(self.digest())
        })
    }

    fn add_blob(&mut self, blob: Blob) {
        if self.blobs.iter().all(|other| other.digest != blob.digest) {
            self.blobs.push(blob);
        }
    }
}

impl Blob {
    fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: crate::digest::of(&bytes),
            size: bytes.len() as u64,
            content: Content::Bytes(bytes),
        }
    }
}

impl Content {
    fn body(&self) -> Body {
        match self {
            Self::Bytes(bytes) => Body::from(bytes.clone()),
            Self::Big(layer) => Body::wrap_stream(stream::iter(layer.chunks(CHUNK))),
        }
    }
}
