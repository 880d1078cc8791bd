//! Everything that one manifest names: manifests from the root down, then all blobs.

use super::damage::{Damage, DamageKind, beyond};
use super::parts::Checked;
use super::{MANIFESTS_AT_ONCE, Verified, Verifier};
use crate::error::{Operation, RegistryError};
use crate::manifest::{self, Descriptor};
use crate::registry::Repository;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci_spec::image::Digest;
use std::collections::{HashMap, HashSet};

/// Concurrent checks of blobs of one image.
const BLOBS_AT_ONCE: usize = 8;

/// The limits of copies: nesting of indexes, and numbers of manifests and blobs.
const MAX_DEPTH: usize = 8;
const MAX_MANIFESTS: usize = 20_000;
const MAX_BLOBS: usize = 20_000;

/// Marks a manifest with everything below it as good. No manifest is that large.
const WHOLE: u64 = u64::MAX;

/// The manifests of an image whose referrers are verified.
#[derive(Default)]
pub(super) struct Closure {
    /// The root, and the images that it names.
    pub(super) subjects: Vec<Digest>,
}

/// A manifest to read.
struct Entry {
    digest: Digest,
    parent: Option<Digest>,
    /// Absent for the root, whose size nobody states.
    descriptor: Option<Descriptor>,
}

/// A manifest that was read.
struct Node {
    children: Vec<Descriptor>,
    blobs: Vec<Descriptor>,
}

/// A blob with its size, and a manifest that names it.
type Blobs = HashMap<(Digest, u64), Digest>;

impl Verifier {
    /// Verifies `root` and everything below it, and adds the results to `verified`.
    pub(super) async fn closure(
        &self,
        repository: &Repository,
        root: &Digest,
        verified: &mut Verified,
    ) -> Result<Closure, RegistryError> {
        let limit = |reason| {
            let object = format!("@{root}");
            beyond(
                self.repository.subject(Operation::ReadManifest, &object),
                reason,
            )
        };
        let damage_before = verified.damage.len();
        let mut known = HashSet::from([root.clone()]);
        let mut subjects = vec![root.clone()];
        let mut blobs = Blobs::new();
        let mut level = vec![Entry::root(root)];
        for depth in 0.. {
            if level.is_empty() {
                break;
            }
            if depth == MAX_DEPTH {
                return Err(limit("its indexes are nested deeper than 8"));
            }
            let mut below = Vec::new();
            let visits = stream::iter(level)
                .map(async |entry| {
                    let node = self.visit(repository, &entry).await?;
                    Ok::<_, RegistryError>((entry, node))
                })
                .buffered(MANIFESTS_AT_ONCE);
            let mut visits = std::pin::pin!(visits);
            while let Some((entry, node)) = visits.try_next().await? {
                let node = match (node, entry.as_blob()) {
                    (Ok(node), _) => node,
                    // Build caches put blobs into an index.
                    (Err(DamageKind::MissingManifest), Some(blob)) => {
                        let parent = entry.parent.unwrap_or(entry.digest);
                        blobs.insert(blob, parent);
                        continue;
                    }
                    (Err(kind), _) => {
                        verified.damage.push(Damage {
                            digest: entry.digest,
                            parent: entry.parent,
                            kind,
                            is_of_referrer: false,
                        });
                        continue;
                    }
                };
                verified.manifests += 1;
                for child in node.children {
                    if known.insert(child.digest.clone()) {
                        if child.annotations.describes.is_none() && child.is_manifest() {
                            subjects.push(child.digest.clone());
                        }
                        below.push(Entry::child(child, &entry.digest));
                    }
                }
                for blob in node.blobs {
                    let blob = (blob.digest, blob.size);
                    blobs.entry(blob).or_insert_with(|| entry.digest.clone());
                }
                if known.len() > MAX_MANIFESTS {
                    return Err(limit("it names more than 20000 manifests"));
                }
                if blobs.len() > MAX_BLOBS {
                    return Err(limit("it has more than 20000 blobs"));
                }
            }
            level = below;
        }
        self.check_blobs(blobs, verified).await?;
        if verified.damage.len() == damage_before {
            self.remember(root, WHOLE);
        }
        Ok(Closure { subjects })
    }

    /// Returns whether a manifest and everything below it was found to be good.
    pub(super) fn is_whole(&self, root: &Digest) -> bool {
        self.is_good(root, WHOLE)
    }

    async fn visit(&self, repository: &Repository, entry: &Entry) -> Checked<Node> {
        let descriptor = entry.descriptor.as_ref();
        let read = self
            .read_manifest(repository, &entry.digest, descriptor)
            .await?;
        Ok(read.and_then(|read| {
            let contents = manifest::read(&read.bytes, &read.media_type);
            let contents = contents.map_err(|error| DamageKind::unparsable(&error))?;
            let blobs = contents.blobs.into_iter();
            Ok(Node {
                children: contents.children,
                blobs: blobs.filter(|blob| !blob.is_foreign()).collect(),
            })
        }))
    }

    async fn check_blobs(
        &self,
        blobs: Blobs,
        verified: &mut Verified,
    ) -> Result<(), RegistryError> {
        verified.blobs += blobs.len() as u64;
        let sizes = blobs.keys().map(|(_, size)| *size);
        let bytes = sizes.fold(0, u64::saturating_add);
        verified.bytes = verified.bytes.saturating_add(bytes);
        let checks = stream::iter(blobs).map(async |((digest, size), parent)| {
            let checked = self.check_blob(&digest, size).await?;
            Ok::<_, RegistryError>(checked.err().map(|kind| Damage {
                digest,
                parent: Some(parent),
                kind,
                is_of_referrer: false,
            }))
        });
        let mut checks = std::pin::pin!(checks.buffer_unordered(BLOBS_AT_ONCE));
        let mut damage = Vec::new();
        while let Some(found) = checks.try_next().await? {
            damage.extend(found);
        }
        // The checks end in any order.
        damage.sort_by(|one, other| one.digest.as_ref().cmp(other.digest.as_ref()));
        verified.damage.append(&mut damage);
        Ok(())
    }
}

impl Entry {
    fn root(digest: &Digest) -> Self {
        Self {
            digest: digest.clone(),
            parent: None,
            descriptor: None,
        }
    }

    fn child(descriptor: Descriptor, parent: &Digest) -> Self {
        Self {
            digest: descriptor.digest.clone(),
            parent: Some(parent.clone()),
            descriptor: Some(descriptor),
        }
    }

    /// Returns the digest and size of an entry that need not be a manifest.
    fn as_blob(&self) -> Option<(Digest, u64)> {
        let descriptor = self.descriptor.as_ref()?;
        let may_be_blob = !descriptor.is_manifest();
        may_be_blob.then(|| (descriptor.digest.clone(), descriptor.size))
    }
}
