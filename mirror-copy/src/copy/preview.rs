//! What a copy would read and send, without sending it. Reads manifests and the configuration of an image with one platform,
//! asks the target for everything else by `HEAD`, and writes nothing.

use super::copy_graph::{Child, Found, MAX_BLOBS, MAX_DEPTH, MAX_MANIFESTS};
use super::error::CopyError;
use super::job::{Job, Part};
use super::node::{Blob, Node, Origin, Read};
use super::options::{CopyOptions, Source, Target};
use crate::error::RegistryError;
use crate::manifest::{self, Descriptor};
use crate::platform::Platform;
use crate::reference::TagOrDigest;
use crate::registry::{BlobReader, Located, Manifest, Repository};
use futures_util::stream::{self, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use oci_spec::image::Digest;
use serde::Deserialize;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// Concurrent requests of one preview to one side.
const AT_ONCE: usize = 8;

/// Longest configuration of an image that is read, in bytes. Real ones have up to 100 KiB.
const MAX_CONFIG: u64 = 1024 * 1024;

/// Platforms of one image that are listed. Real images have up to a dozen.
const MAX_PLATFORMS: usize = 64;

/// The result of [`preview`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Digest of the original.
    pub digest: Digest,
    /// What the target has of it.
    pub presence: Presence,
    /// The platforms of the image, each once, at most 64; empty if it names none.
    pub platforms: Vec<Platform>,
    /// Manifests that the copy reads from the source, with the image itself and without referrers.
    pub manifest_reads: u64,
    /// Blobs that the target repository lacks, each once.
    pub missing: Vec<MissingBlob>,
}

/// What the target has of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The image, under all wanted tags.
    Complete,
    /// The image; a tag would be added or moved.
    Untagged,
    /// The tag of the copy stands for another image, which the copy replaces.
    Other(Digest),
    /// Nothing under this name.
    Absent,
}

/// A blob that a copy sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingBlob {
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// Determines what [`copy`](super::copy()) would do, with the requests of a copy that read.
///
/// # Errors
/// [`CopyError`] if the copy would fail before it sends anything: the source lacks the image or a part of it, a side does not
/// respond or denies access, or the image exceeds a limit.
pub async fn preview(
    source: &Source,
    target: &Target,
    options: &CopyOptions,
) -> Result<Preview, CopyError> {
    let job = Job::new(source, target, options, &())?;
    Box::pin(job.preview(source, target)).await
}

impl Job<'_> {
    async fn preview(&self, source: &Source, target: &Target) -> Result<Preview, CopyError> {
        let tag = target.tag.clone().map(TagOrDigest::Tag);
        let (located, tagged) = tokio::try_join!(
            self.locate_source(&source.reference),
            self.locate_at_target(tag.as_ref())
        )?;
        self.target_has_parts
            .store(tagged.is_some(), Ordering::Relaxed);
        let replaced = tagged.as_ref().map(|tagged| tagged.resolved.digest.clone());
        let digest = located.resolved.digest.clone();
        let state = self.target_state(target, tagged, &digest).await?;
        if state.complete {
            let is_tagged = state.missing.references.is_empty();
            return Ok(Preview {
                presence: if is_tagged {
                    Presence::Complete
                } else {
                    Presence::Untagged
                },
                platforms: self.platforms_at_target(located, &digest).await,
                digest,
                manifest_reads: 0,
                missing: Vec::new(),
            });
        }
        let root = self.read_root(&source.reference, located).await?;
        let digest = root.digest.clone();
        let (platforms, contents) = tokio::join!(platforms(&self.source, &root), self.walk(&root));
        let Walked { blobs, reads } = contents?;
        Ok(Preview {
            digest,
            presence: replaced.map_or(Presence::Absent, Presence::Other),
            platforms,
            manifest_reads: reads,
            missing: self.missing(blobs).await?,
        })
    }

    /// Reads the platforms of a complete copy. They are an extra: a failure leaves them out.
    async fn platforms_at_target(&self, located: Located, digest: &Digest) -> Vec<Platform> {
        if let Some(manifest) = located.manifest {
            return platforms(&self.target, &manifest).await;
        }
        let reference = TagOrDigest::Digest(digest.clone());
        match self.target.manifest(&reference).await {
            Ok(manifest) => platforms(&self.target, &manifest).await,
            Err(error) => {
                tracing::debug!(%error, "cannot read the platforms of a copy");
                Vec::new()
            }
        }
    }

    /// Reads all manifests below `root` that the target lacks.
    async fn walk(&self, root: &Manifest) -> Result<Walked, CopyError> {
        let _lease = self.hold(Part::Image, root, 0).await?;
        let mut walk = Walk {
            job: self,
            queued: HashSet::from([root.digest.clone()]),
            known: HashSet::new(),
            waiting: Vec::new(),
            walked: Walked {
                blobs: Vec::new(),
                reads: 1,
            },
        };
        walk.read(root.clone(), 1)?;
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(child) = walk.waiting.pop()
            {
                running.push(async move {
                    let found = self.find_child(&child, Part::Image).await?;
                    Ok::<_, CopyError>((child, found))
                });
            }
            let Some(found) = running.next().await else {
                return Ok(walk.walked);
            };
            let (child, found) = found?;
            walk.found(child, found)?;
        }
    }

    /// Returns the blobs that the target lacks.
    async fn missing(&self, blobs: Vec<Blob>) -> Result<Vec<MissingBlob>, CopyError> {
        if self.same_repository() {
            return Ok(Vec::new());
        }
        let checks = stream::iter(blobs).map(|blob| async move {
            let is_missing = match self.target.has_blob(&blob.digest).await {
                Ok(has_it) => !has_it,
                // A repository that does not exist may be hidden; the first upload shows whether it may be written.
                Err(error) if error.is_denied() => true,
                Err(error) => return Err(CopyError::Target(error)),
            };
            Ok(is_missing.then_some(MissingBlob {
                digest: blob.digest,
                size: blob.size,
            }))
        });
        let found = checks.buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
        Ok(found.into_iter().flatten().collect())
    }
}

struct Walked {
    /// Each once.
    blobs: Vec<Blob>,
    /// Manifests that were read from the source.
    reads: u64,
}

struct Walk<'j> {
    job: &'j Job<'j>,
    /// Manifests that were ever queued.
    queued: HashSet<Digest>,
    /// Blobs that were found.
    known: HashSet<Digest>,
    waiting: Vec<Child>,
    walked: Walked,
}

impl Walk<'_> {
    fn found(&mut self, child: Child, found: Found) -> Result<(), CopyError> {
        match found {
            Found::Present | Found::LeftOut => Ok(()),
            Found::Blob => {
                let blob = Blob {
                    digest: child.descriptor.digest,
                    size: child.descriptor.size,
                    origin: Origin::Registry,
                };
                self.add(blob, &child.parent)
            }
            Found::Manifest(manifest, _lease) => {
                self.walked.reads += 1;
                self.read(manifest, child.depth + 1)
            }
        }
    }

    fn read(&mut self, manifest: Manifest, depth: usize) -> Result<(), CopyError> {
        let job = self.job;
        let digest = manifest.digest.clone();
        let read = Node::read(manifest, job.options, || {
            job.source.object(&format!("@{digest}"))
        })?;
        let Read { node, children, .. } = read;
        if depth > MAX_DEPTH && !children.is_empty() {
            return Err(job.beyond(&digest, "its indexes are nested deeper than 8"));
        }
        for blob in node.blobs {
            self.add(blob, &digest)?;
        }
        for descriptor in children {
            if self.queued.insert(descriptor.digest.clone()) {
                self.waiting.push(Child {
                    descriptor,
                    parent: digest.clone(),
                    depth,
                });
            }
        }
        if self.queued.len() > MAX_MANIFESTS {
            return Err(job.beyond(&digest, "it names more than 20000 manifests"));
        }
        Ok(())
    }

    fn add(&mut self, blob: Blob, parent: &Digest) -> Result<(), CopyError> {
        if self.known.insert(blob.digest.clone()) {
            self.job.weigh(&blob, parent)?;
            self.walked.blobs.push(blob);
        }
        if self.walked.blobs.len() > MAX_BLOBS {
            return Err(self.job.beyond(parent, "it has more than 20000 blobs"));
        }
        Ok(())
    }
}

/// Returns the platforms of an index, or the one in the configuration of an image. They are an extra: what cannot be read is
/// left out.
async fn platforms(repository: &Repository, root: &Manifest) -> Vec<Platform> {
    let Ok(contents) = manifest::read(&root.bytes, &root.media_type) else {
        return Vec::new();
    };
    if contents.children.is_empty() {
        let mut blobs = contents.blobs.iter();
        let config = blobs.find(|blob| is_config(blob));
        let Some(config) = config.filter(|config| config.size <= MAX_CONFIG) else {
            return Vec::new();
        };
        return match platform_in(repository, config).await {
            Ok(platform) => platform.into_iter().collect(),
            Err(error) => {
                tracing::debug!(%error, "cannot read the platform of an image");
                Vec::new()
            }
        };
    }
    let mut platforms = Vec::new();
    for child in contents.children {
        let is_image = child.annotations.describes.is_none();
        let platform = child.platform.filter(|_| is_image);
        if let Some(platform) = platform.filter(|platform| platform.os != "unknown")
            && platforms.len() < MAX_PLATFORMS
            && !platforms.contains(&platform)
        {
            platforms.push(platform);
        }
    }
    platforms
}

fn is_config(blob: &Descriptor) -> bool {
    const CONFIGS: [&str; 2] = [
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
    ];
    CONFIGS.contains(&&*blob.media_type)
}

/// The fields of an image configuration that are a platform (OCI image-spec, config.md).
#[derive(Deserialize)]
struct Config {
    os: String,
    architecture: String,
    variant: Option<String>,
}

async fn platform_in(
    repository: &Repository,
    config: &Descriptor,
) -> Result<Option<Platform>, RegistryError> {
    let mut bytes = Vec::new();
    if let Some(content) = config.inline() {
        bytes.extend_from_slice(&content);
    } else {
        let (repository, digest) = (repository.clone(), config.digest.clone());
        let mut reader = BlobReader::open(repository, digest, config.size).await?;
        while let Some(piece) = reader.next().await? {
            bytes.extend_from_slice(&piece);
        }
    }
    let platform = serde_json::from_slice::<Config>(&bytes).ok();
    let platform = platform.and_then(|config| {
        let variant = config.variant.filter(|variant| !variant.is_empty());
        let variant = variant.map_or_else(String::new, |variant| format!("/{variant}"));
        let name = format!("{}/{}{variant}", config.os, config.architecture);
        // The grammar bounds what a registry may write to a terminal.
        name.parse().ok()
    });
    Ok(platform)
}
