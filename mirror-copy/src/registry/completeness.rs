//! Checks that a repository has everything that an image names, without reading its layers.

use super::Registry;
use super::check_state::Entry;
use super::image_contents::{ContentsSeen, ImageContents};
use super::manifests::Resolved;
use super::repository::{Access, Repository};
use crate::error::RegistryError;
use crate::manifest;
use crate::reference::TagOrDigest;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

/// Concurrent requests of one check.
const AT_ONCE: usize = 8;

/// Maximum number of manifests of an image that are checked. Large indexes have a few dozen.
const MAX_MANIFESTS: usize = 1000;

/// Maximum number of blobs of one check.
const MAX_BLOBS: usize = 500;

/// Maximum nesting of indexes, as for copies.
const MAX_DEPTH: usize = 8;

/// The parts of an image to check, and the pace of the requests.
#[derive(Clone, Debug)]
pub struct PartsQuery<B, W> {
    /// Returns whether to check the config and layers of this manifest. All manifests are checked.
    pub blobs_of: B,
    /// Number of blobs to skip, because an earlier check covered them.
    pub skip: usize,
    /// Parts that are known to be missing, because the original lacks them. They are skipped.
    pub excused: Arc<HashSet<Digest>>,
    /// Completes when another request may be sent, with `false` to end the check.
    pub wait: W,
    /// Set by a check that read all manifests, before their blobs are checked.
    pub contents: OnceLock<ImageContents>,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// All checked parts are present.
    Complete {
        /// The number of blobs to [`skip`](PartsQuery::skip) next, if there are more than one check covers.
        next: Option<usize>,
    },
    /// This manifest or blob is missing.
    Missing(Digest),
    /// [`PartsQuery::wait`] ended the check; all parts that were checked are present.
    Unfinished {
        /// The number of blobs to [`skip`](PartsQuery::skip) next.
        next: usize,
    },
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Presence {
    #[default]
    Present,
    Absent,
    /// The check was ended.
    Unchecked,
}

/// The parts that one manifest names.
#[derive(Default)]
struct Named {
    presence: Presence,
    entries: Arc<[Entry]>,
    /// With their sizes; `None` if they were not read.
    blobs: Option<Vec<(Digest, u64)>>,
}

impl Registry {
    /// Checks everything that an image names: manifests, and the blobs that `query` selects, by `HEAD`. Reads indexes once,
    /// and the manifests whose blobs are selected. `root` is the result of [`Self::resolve`].
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond or denies access, so that the result is unknown.
    pub async fn check_parts<B, W, F>(
        &self,
        repository: &str,
        root: &Resolved,
        query: &PartsQuery<B, W>,
    ) -> Result<Completeness, RegistryError>
    where
        B: Fn(&Digest) -> bool + Sync,
        W: Fn() -> F + Sync,
        F: Future<Output = bool> + Send,
    {
        let repository = &self.repository(repository, Access::Push)?;
        let mut known: HashSet<Digest> = HashSet::from([root.digest.clone()]);
        let is_excused = |digest: &Digest| query.excused.contains(digest);
        let mut level = vec![Entry::of_root(&root.digest, &root.media_type)];
        let mut blobs = Vec::new();
        let mut number = 0_usize;
        let mut seen = ContentsSeen::default();
        for depth in 0..MAX_DEPTH {
            let mut visits = stream::iter(level.clone())
                .map(|entry| repository.visit(entry, depth == 0, query))
                .buffered(AT_ONCE);
            let mut below = Vec::new();
            let mut index = 0;
            while let Some(named) = visits.try_next().await? {
                if named.presence == Presence::Unchecked {
                    return Ok(Completeness::Unfinished { next: query.skip });
                }
                if named.presence == Presence::Absent {
                    let missing = level.get(index).map(|entry| entry.digest.clone());
                    return Ok(Completeness::Missing(
                        missing.unwrap_or_else(|| root.digest.clone()),
                    ));
                }
                index += 1;
                for entry in &*named.entries {
                    seen.add_entry(entry);
                    if known.len() >= MAX_MANIFESTS || is_excused(&entry.digest) {
                        seen.leave_out();
                    }
                    if known.len() < MAX_MANIFESTS
                        && known.insert(entry.digest.clone())
                        && !is_excused(&entry.digest)
                    {
                        below.push(entry.clone());
                    }
                }
                if named.blobs.is_none() && named.entries.is_empty() {
                    seen.leave_out();
                }
                for (blob, size) in named.blobs.into_iter().flatten() {
                    seen.add_blob(&blob, size);
                    if number >= query.skip && blobs.len() < MAX_BLOBS {
                        blobs.push((number, blob));
                    }
                    number += 1;
                }
            }
            drop(visits);
            if below.is_empty() {
                break;
            }
            if depth + 1 == MAX_DEPTH {
                seen.leave_out();
            }
            level = below;
        }
        if let Some(contents) = seen.finish() {
            // A query is for one check.
            let _ = query.contents.set(contents);
        }
        let checked = query.skip + blobs.len();
        let mut selected = HashSet::new();
        blobs.retain(|(_, blob)| selected.insert(blob.clone()) && !is_excused(blob));
        // In order, so that the rest is known if the check is ended.
        let mut checks = stream::iter(blobs)
            .map(|(number, blob)| async move {
                let presence = repository
                    .presence(query, || repository.has_blob(&blob))
                    .await?;
                Ok::<_, RegistryError>((number, blob, presence))
            })
            .buffered(AT_ONCE);
        while let Some((number, blob, presence)) = checks.try_next().await? {
            match presence {
                Presence::Present => {}
                Presence::Absent => return Ok(Completeness::Missing(blob)),
                Presence::Unchecked => return Ok(Completeness::Unfinished { next: number }),
            }
        }
        Ok(Completeness::Complete {
            next: (number > checked).then_some(checked),
        })
    }

    /// Returns whether a repository has this manifest or blob.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond or denies access.
    pub async fn has_part(&self, repository: &str, digest: &Digest) -> Result<bool, RegistryError> {
        let repository = self.repository(repository, Access::Pull)?;
        Ok(repository.has_manifest(digest).await? || repository.has_blob(digest).await?)
    }
}

impl Repository {
    async fn visit<B, W, F>(
        &self,
        entry: Entry,
        is_root: bool,
        query: &PartsQuery<B, W>,
    ) -> Result<Named, RegistryError>
    where
        B: Fn(&Digest) -> bool + Sync,
        W: Fn() -> F + Sync,
        F: Future<Output = bool> + Send,
    {
        let state = &self.registry.shared.checks;
        let wants_blobs = (query.blobs_of)(&entry.digest);
        let known = state.indexes().entries.get(&entry.digest).cloned();
        let is_index = known.as_ref().map(|entries| !entries.is_empty());
        let must_read = match is_index {
            None => entry.may_be_index || wants_blobs,
            Some(is_index) => wants_blobs && !is_index,
        };
        if must_read {
            if !(query.wait)().await {
                return Ok(Named::unchecked());
            }
            let _reading = state.reads.acquire().await;
            let reference = TagOrDigest::Digest(entry.digest.clone());
            match self.manifest(&reference).await {
                Ok(read) => {
                    let contents = manifest::read(&read.bytes, &read.media_type);
                    let contents = contents.map_err(|source| RegistryError::Manifest {
                        object: self.object(&reference.suffix()),
                        source,
                    })?;
                    let entries: Arc<[Entry]> =
                        contents.children.iter().map(Entry::of_child).collect();
                    state.indexes().insert(&entry.digest, &entries);
                    let blobs = contents.blobs.into_iter();
                    let blobs = blobs.filter(|blob| !blob.is_foreign());
                    let blobs = blobs.map(|blob| (blob.digest, blob.size));
                    return Ok(Named {
                        presence: Presence::Present,
                        entries,
                        blobs: wants_blobs.then(|| blobs.collect()),
                    });
                }
                Err(error) if error.status() == Some(404) => {}
                Err(error) => return Err(error),
            }
        } else if is_root {
            // It was resolved just now.
            return Ok(Named {
                entries: known.unwrap_or_default(),
                ..Named::default()
            });
        }
        let digest = &entry.digest;
        let mut presence = self.presence(query, || self.has_manifest(digest)).await?;
        if presence == Presence::Absent && entry.may_be_blob {
            presence = self.presence(query, || self.has_blob(digest)).await?;
        }
        Ok(Named {
            presence,
            entries: known.unwrap_or_default(),
            ..Named::default()
        })
    }

    /// Requests a part twice before it counts as missing: the servers of one registry can be seconds apart.
    async fn presence<B, W, F, A>(
        &self,
        query: &PartsQuery<B, W>,
        request: impl Fn() -> A,
    ) -> Result<Presence, RegistryError>
    where
        W: Fn() -> F,
        F: Future<Output = bool>,
        A: Future<Output = Result<bool, RegistryError>>,
    {
        for _ in 0..2 {
            if !(query.wait)().await {
                return Ok(Presence::Unchecked);
            }
            if request().await? {
                return Ok(Presence::Present);
            }
        }
        Ok(Presence::Absent)
    }
}

impl Named {
    fn unchecked() -> Self {
        Self {
            presence: Presence::Unchecked,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
