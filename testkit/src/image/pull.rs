//! Reads an image back from a registry, everything in it, and verifies every digest.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Deserialize;

use crate::blocking;
use crate::registry::{Document, RegistryClient};

/// An image as a registry has it. Two of them are equal when the images are the same byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Digest of the manifest or index that was asked for.
    pub root: String,
    /// Every manifest by its digest, with media type and bytes.
    pub manifests: BTreeMap<String, Document>,
    /// Length of every blob by its (verified) digest.
    pub blobs: BTreeMap<String, u64>,
}

/// The parts of a manifest that have to be fetched too.
#[derive(Deserialize)]
struct Links {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

/// Pulls the manifest behind a tag or digest, every manifest below it, and every blob.
///
/// # Errors
/// When anything is missing or does not have its digest.
pub fn pull_all(
    registry: &RegistryClient,
    repository: &str,
    reference: &str,
) -> anyhow::Result<Pulled> {
    blocking::run(async {
        let root = get(registry, repository, reference).await?;
        let mut pulled = Pulled {
            root: root.digest(),
            manifests: BTreeMap::new(),
            blobs: BTreeMap::new(),
        };
        let mut open = vec![root];
        while let Some(document) = open.pop() {
            let links: Links = serde_json::from_slice(&document.bytes)?;
            for blob in links.config.iter().chain(&links.layers) {
                if !pulled.blobs.contains_key(&blob.digest) {
                    let size = registry.read_blob(repository, &blob.digest).await?;
                    pulled.blobs.insert(blob.digest.clone(), size);
                }
            }
            for child in &links.manifests {
                open.push(get(registry, repository, &child.digest).await?);
            }
            pulled.manifests.insert(document.digest(), document);
        }
        Ok(pulled)
    })
}

async fn get(
    registry: &RegistryClient,
    repository: &str,
    reference: &str,
) -> anyhow::Result<Document> {
    registry
        .get_manifest(repository, reference)
        .await?
        .with_context(|| format!("{repository} has no manifest {reference}"))
}
