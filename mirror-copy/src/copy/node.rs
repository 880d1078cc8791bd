//! A manifest to push, with everything that it names.

use super::error::CopyError;
use super::options::CopyOptions;
use crate::hash::Hasher;
use crate::manifest::{self, Contents, Descriptor};
use crate::registry::Manifest;
use bytes::Bytes;
use oci_spec::image::Digest;

pub(super) struct Node {
    pub(super) manifest: Manifest,
    pub(super) media_type: String,
    /// The manifest that this one refers to (image-spec, manifest.md, `subject`).
    pub(super) subject: Option<Digest>,
    pub(super) children: Vec<Digest>,
    /// Blobs that the target must have, without foreign layers that stay where they are.
    pub(super) blobs: Vec<Blob>,
    /// The first layers with addresses of their own, which a registry may refuse.
    pub(super) foreign_layers: Vec<Digest>,
}

/// Maximum number of foreign layers that an error names.
const MAX_FOREIGN_NAMED: usize = 4;

#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
    pub(super) origin: Origin,
}

/// The place where the content of a blob is read.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Registry,
    /// The content is in the manifest itself.
    Inline(Bytes),
    /// The addresses of a foreign layer.
    Urls(Vec<String>),
}

/// A parsed manifest, and the descriptors of its child manifests.
pub(super) struct Read {
    pub(super) node: Node,
    pub(super) children: Vec<Descriptor>,
    /// Number of foreign layers that stay where they are.
    pub(super) foreign: u64,
}

impl Node {
    /// Parses a manifest. `object` is its name in errors.
    pub(super) fn read(
        manifest: Manifest,
        options: &CopyOptions,
        object: impl FnOnce() -> String,
    ) -> Result<Read, CopyError> {
        let contents = manifest::read(&manifest.bytes, &manifest.media_type);
        let Contents {
            media_type,
            subject,
            children,
            blobs: named,
        } = contents.map_err(|source| CopyError::Manifest {
            object: object(),
            source,
        })?;
        let mut foreign = 0;
        let layers = named.iter().filter(|layer| layer.is_foreign());
        let layers = layers.map(|layer| layer.digest.clone());
        let foreign_layers = layers.take(MAX_FOREIGN_NAMED).collect();
        let mut blobs = Vec::with_capacity(named.len());
        for descriptor in named {
            match Origin::of(&descriptor, options) {
                Some(origin) => {
                    origin.check(&descriptor)?;
                    blobs.push(Blob {
                        digest: descriptor.digest,
                        size: descriptor.size,
                        origin,
                    });
                }
                None => foreign += 1,
            }
        }
        let node = Self {
            manifest,
            media_type,
            subject,
            children: children.iter().map(|child| child.digest.clone()).collect(),
            blobs,
            foreign_layers,
        };
        Ok(Read {
            node,
            children,
            foreign,
        })
    }

    /// Returns all digests that must be at the target before this manifest.
    pub(super) fn names(&self) -> impl Iterator<Item = &Digest> {
        let blobs = self.blobs.iter().map(|blob| &blob.digest);
        self.children.iter().chain(blobs)
    }
}

impl Origin {
    /// Verifies inline content before anything is sent.
    fn check(&self, descriptor: &Descriptor) -> Result<(), CopyError> {
        let Self::Inline(content) = self else {
            return Ok(());
        };
        let digest = &descriptor.digest;
        match Hasher::for_digest(digest).map(|hasher| hasher.of(content)) {
            Some(actual) if actual != digest.as_ref() => Err(CopyError::BlobDigest {
                object: digest.to_string(),
                actual,
            }),
            _ => Ok(()),
        }
    }

    /// Returns `None` for a foreign layer that stays where it is.
    fn of(descriptor: &Descriptor, options: &CopyOptions) -> Option<Self> {
        if descriptor.is_foreign() {
            return options
                .foreign_layers
                .then(|| Self::Urls(descriptor.urls.clone()));
        }
        Some(descriptor.inline().map_or(Self::Registry, Self::Inline))
    }
}
