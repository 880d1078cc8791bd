//! Checks of single manifests and blobs.

use super::Verifier;
use super::damage::DamageKind;
use crate::error::RegistryError;
use crate::manifest::Descriptor;
use crate::reference::TagOrDigest;
use crate::registry::{BlobReader, Manifest, Repository};
use oci_spec::image::Digest;
use std::sync::atomic::Ordering;

/// Attempts to find a missing part, and to read one with wrong content: the servers of one registry can be seconds apart,
/// and a cache in between may be corrupt.
const ATTEMPTS: usize = 2;

/// The result of a check.
pub(super) type Checked<T> = Result<Result<T, DamageKind>, RegistryError>;

impl Verifier {
    /// Reads a manifest and verifies its digest; with a size, its size too.
    pub(super) async fn read_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        descriptor: Option<&Descriptor>,
    ) -> Checked<Manifest> {
        let reference = TagOrDigest::Digest(digest.clone());
        let read = self
            .repeated(DamageKind::MissingManifest, async || match descriptor {
                Some(descriptor) => repository.manifest_of(descriptor).await,
                None => repository.manifest(&reference).await,
            })
            .await?;
        self.options
            .counters
            .manifests
            .fetch_add(1, Ordering::Relaxed);
        Ok(read)
    }

    /// Checks a blob by `HEAD`, or reads it.
    pub(super) async fn check_blob(&self, digest: &Digest, size: u64) -> Checked<()> {
        if self.is_good(digest, size) {
            return Ok(Ok(()));
        }
        let checked = self
            .repeated(DamageKind::MissingBlob, async || {
                // An empty blob is not requested by a reader.
                if self.options.deep && size > 0 {
                    self.read_blob(digest, size).await.map(|()| Some(size))
                } else {
                    self.find_blob(digest, size).await
                }
            })
            .await?;
        self.options.counters.blobs.fetch_add(1, Ordering::Relaxed);
        let checked = checked.and_then(|found| match found {
            None => Err(DamageKind::MissingBlob),
            Some(actual) if actual != size => Err(DamageKind::WrongSize {
                expected: size,
                actual,
            }),
            Some(_) => Ok(()),
        });
        if checked.is_ok() {
            self.remember(digest, size);
        }
        Ok(checked)
    }

    /// Returns the size of a blob, `expected` if the registry does not report it; `None` if it is missing.
    async fn find_blob(
        &self,
        digest: &Digest,
        expected: u64,
    ) -> Result<Option<u64>, RegistryError> {
        for _ in 0..ATTEMPTS {
            if let Some(found) = self.repository.head_blob(digest).await? {
                return Ok(Some(found.size.unwrap_or(expected)));
            }
        }
        Ok(None)
    }

    /// Reads a whole blob piece by piece; the reader verifies size and digest.
    async fn read_blob(&self, digest: &Digest, size: u64) -> Result<(), RegistryError> {
        let _permit = self.registry.read_permit(size).await;
        let repository = self.repository.clone();
        let mut reader = BlobReader::open(repository, digest.clone(), size).await?;
        while let Some(piece) = reader.next().await? {
            let bytes = piece.len() as u64;
            self.options
                .counters
                .bytes
                .fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Repeats a request that finds damage. A server error counts as damage if the registry responds otherwise.
    async fn repeated<T>(
        &self,
        missing: DamageKind,
        request: impl AsyncFn() -> Result<T, RegistryError>,
    ) -> Checked<T> {
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            let error = match request().await {
                Ok(found) => return Ok(Ok(found)),
                Err(error) => error,
            };
            let of_failure = DamageKind::of_failure(&error);
            match (DamageKind::of(error, missing.clone()), of_failure) {
                (Ok(_), _) if attempts > 0 => {}
                (Ok(damage), _) => return Ok(Err(damage)),
                // It was retried already.
                (Err(_), Some(damage)) if self.registry.probe().await.is_ok() => {
                    return Ok(Err(damage));
                }
                (Err(error), _) => return Err(error),
            }
        }
    }
}
