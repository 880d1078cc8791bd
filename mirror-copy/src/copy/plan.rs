//! What there is to copy: reads all manifests below the root and collects what they name.

use super::Job;
use super::error::CopyError;
use super::progress::Event;
use super::report::one_more;
use crate::error::RegistryError;
use crate::manifest::{self, Descriptor};
use crate::reference::TagOrDigest;
use crate::registry::Manifest;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::collections::{HashMap, HashSet, VecDeque};

/// Deepest nesting of indexes. Two levels are in use; a limit keeps a hostile image bounded.
const MAX_DEPTH: usize = 8;

/// Most bytes of manifests held for one copy. Hundreds of ordinary manifests fit into one MiB.
const MAX_MANIFEST_BYTES: usize = 16 * 1024 * 1024;

/// Most blobs of one copy. Large images have some hundred, and each costs some hundred bytes of memory.
const MAX_BLOBS: usize = 20_000;

/// Manifests of one copy that are read or pushed at once.
pub(super) const MANIFESTS_AT_ONCE: usize = 16;

/// A manifest to push.
pub(super) struct Node {
    pub(super) manifest: Manifest,
    pub(super) media_type: String,
    /// Manifests that it names.
    pub(super) children: Vec<Digest>,
    /// Blobs that it names and that a registry must have.
    pub(super) blobs: Vec<Digest>,
}

/// Everything to copy, each digest once.
pub(super) struct Plan {
    root: Node,
    /// Manifests below the root that the target does not have.
    pub(super) below: HashMap<Digest, Node>,
    /// Blobs that they all name, with their sizes.
    pub(super) blobs: HashMap<Digest, u64>,
}

impl Plan {
    pub(super) fn root(&self) -> &Node {
        &self.root
    }
}

/// A child that an index names, and how deep it is.
struct Child {
    descriptor: Descriptor,
    parent: Digest,
    depth: usize,
}

enum Found {
    /// The target has it.
    Present,
    Manifest(Manifest),
    /// Build caches put blobs into an index.
    Blob,
}

impl Job<'_> {
    /// Reads everything below the root that the target does not have.
    pub(super) async fn plan(&self, root: Manifest) -> Result<Plan, CopyError> {
        let digest = root.digest.clone();
        let mut bytes = root.bytes.len();
        let mut queue = VecDeque::new();
        let mut asked = HashSet::from([digest]);
        let mut blobs = HashMap::new();
        let root = self.node(root, 1, &mut queue, &mut blobs)?;
        let mut below = HashMap::new();
        let mut reading = FuturesUnordered::new();
        loop {
            while reading.len() < MANIFESTS_AT_ONCE
                && let Some(child) = queue.pop_front()
            {
                if asked.insert(child.descriptor.digest.clone()) {
                    reading.push(self.find(child));
                }
            }
            let Some(found) = reading.next().await else {
                break;
            };
            let (child, found) = found?;
            let digest = child.descriptor.digest;
            match found {
                Found::Present => self
                    .progress
                    .event(Event::ManifestSkipped { digest: &digest }),
                Found::Blob => {
                    blobs.insert(digest, child.descriptor.size);
                }
                Found::Manifest(manifest) => {
                    bytes += manifest.bytes.len();
                    if bytes > MAX_MANIFEST_BYTES {
                        return Err(self.beyond(&digest, "its manifests exceed 16 MiB"));
                    }
                    let node = self.node(manifest, child.depth + 1, &mut queue, &mut blobs)?;
                    below.insert(digest, node);
                }
            }
        }
        self.progress.event(Event::Planned {
            blobs: blobs.len() as u64,
            // Sizes are what a manifest says, so the sum can be anything.
            bytes: blobs
                .values()
                .fold(0, |sum, size| sum.saturating_add(*size)),
            manifests: below.len() as u64 + 1,
        });
        Ok(Plan { root, below, blobs })
    }

    /// Reads what a manifest names; queues its children and notes its blobs.
    fn node(
        &self,
        manifest: Manifest,
        depth: usize,
        queue: &mut VecDeque<Child>,
        blobs: &mut HashMap<Digest, u64>,
    ) -> Result<Node, CopyError> {
        let object = || self.source.object(&format!("@{}", manifest.digest));
        let contents = manifest::read(&manifest.bytes, &manifest.media_type).map_err(|source| {
            CopyError::Manifest {
                object: object(),
                source,
            }
        })?;
        if depth > MAX_DEPTH && !contents.children.is_empty() {
            return Err(self.beyond(&manifest.digest, "its indexes are nested deeper than 8"));
        }
        let mut own = Vec::with_capacity(contents.blobs.len());
        for blob in contents.blobs {
            if blob.is_foreign() {
                one_more(&self.tally.foreign);
                continue;
            }
            own.push(blob.digest.clone());
            let known = blobs.entry(blob.digest).or_insert(blob.size);
            if *known != blob.size {
                return Err(self.beyond(&manifest.digest, "it gives one blob two sizes"));
            }
        }
        if blobs.len() > MAX_BLOBS {
            return Err(self.beyond(&manifest.digest, "it has more than 20000 blobs"));
        }
        let children = contents
            .children
            .iter()
            .map(|child| child.digest.clone())
            .collect();
        queue.extend(contents.children.into_iter().map(|descriptor| Child {
            descriptor,
            parent: manifest.digest.clone(),
            depth,
        }));
        Ok(Node {
            manifest,
            media_type: contents.media_type,
            children,
            blobs: own,
        })
    }

    /// Looks for a child at the target, then reads it from the source. In this order, because
    /// reading manifests is what public registries limit.
    async fn find(&self, child: Child) -> Result<(Child, Found), CopyError> {
        let descriptor = &child.descriptor;
        let reference = TagOrDigest::Digest(descriptor.digest.clone());
        if self.options.trust_present && self.is_at_target(&descriptor.digest).await? {
            return Ok((child, Found::Present));
        }
        match self.source.manifest(&reference).await {
            Ok(manifest) if manifest.bytes.len() as u64 != descriptor.size => {
                let subject = self
                    .source
                    .subject(crate::error::Operation::ReadManifest, &reference.suffix());
                let (expected, actual) = (descriptor.size, manifest.bytes.len() as u64);
                Err(CopyError::Source(RegistryError::Size {
                    subject,
                    expected,
                    actual,
                }))
            }
            Ok(manifest) => Ok((child, Found::Manifest(manifest))),
            Err(error) if error.status() == Some(404) && !descriptor.is_manifest() => {
                Ok((child, Found::Blob))
            }
            Err(error) if error.status() == Some(404) => {
                let (parent, missing) = (child.parent, child.descriptor.digest);
                Err(CopyError::SourceIncomplete { parent, missing })
            }
            Err(error) => Err(CopyError::Source(error)),
        }
    }

    async fn is_at_target(&self, digest: &Digest) -> Result<bool, CopyError> {
        match self.target.has_manifest(digest).await {
            Ok(has) => Ok(has),
            // "Not there" and "not to be told" are the same in many registries.
            Err(error) if matches!(error.status(), Some(400..=403)) => Ok(false),
            Err(error) => Err(CopyError::Target(error)),
        }
    }

    fn beyond(&self, digest: &Digest, limit: &'static str) -> CopyError {
        CopyError::Limit {
            object: self.source.object(&format!("@{digest}")),
            limit,
        }
    }
}
