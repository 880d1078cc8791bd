//! Verifies an image in one repository: reads and hashes every manifest, checks every blob, and on request reads the blobs
//! as well. Sends only `HEAD` and `GET`.

mod closure;
mod damage;
mod parts;
mod referrers;

pub use damage::{Damage, DamageKind};

use crate::error::RegistryError;
use crate::lock::lock;
use crate::reference::TagOrDigest;
use crate::registries::metadata_budget::Reservation;
use crate::registry::{Access, Registry, Repository};
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Concurrent requests for manifests of one image: with 8 MiB each, they fit into the memory of one copy.
const MANIFESTS_AT_ONCE: usize = 4;

/// Maximum number of parts that are remembered as good, at about 150 bytes each. Further ones are checked for each image
/// that names them.
const MAX_REMEMBERED: usize = 50_000;

/// How images are verified.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Read every blob and verify its digest. Otherwise its existence and size are checked by `HEAD`.
    pub deep: bool,
    /// A digest tag that is no statement about the image and is not verified: the anchor of this program's own copies.
    pub ignored_digest_tag: Option<fn(&Digest) -> String>,
    /// Counts what was checked.
    pub counters: Arc<VerifyCounters>,
}

/// Running totals, shared by all verifiers of one run.
#[derive(Debug, Default)]
pub struct VerifyCounters {
    manifests: AtomicU64,
    blobs: AtomicU64,
    bytes: AtomicU64,
}

/// The result of verifying an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Everything that is wrong, each object once.
    pub damage: Vec<Damage>,
    /// Number of manifests of the image and its referrers.
    pub manifests: u64,
    /// Number of different blobs, without foreign layers.
    pub blobs: u64,
    /// Number of referrers, such as signatures.
    pub referrers: u64,
    /// Total size of the blobs in bytes, as the manifests state it.
    pub bytes: u64,
}

/// Verifies images of one repository. Parts that several of them share are checked once.
pub struct Verifier {
    registry: Registry,
    repository: Repository,
    options: VerifyOptions,
    /// Blobs with their sizes, and manifests with everything below them, that were found to be good.
    good: Mutex<HashSet<(Digest, u64)>>,
}

impl VerifyCounters {
    /// Returns the number of manifests that were read.
    #[must_use]
    pub fn manifests(&self) -> u64 {
        self.manifests.load(Ordering::Relaxed)
    }

    /// Returns the number of blobs that were checked.
    #[must_use]
    pub fn blobs(&self) -> u64 {
        self.blobs.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes of blobs that were read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Verifier {
    /// Creates a verifier for a repository. Requests the right to push along with the right to pull, as copies do: some
    /// registries hide repositories otherwise.
    ///
    /// # Errors
    /// [`RegistryError::Name`] if `repository` is not a valid name.
    pub fn new(
        registry: &Registry,
        repository: &str,
        options: VerifyOptions,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            repository: registry.repository(repository, Access::Push)?,
            registry: registry.clone(),
            options,
            good: Mutex::default(),
        })
    }

    /// Returns the digest that a tag stands for; `None` if there is no such tag. With [`VerifyOptions::deep`] the manifest is
    /// read by the tag and hashed, as a container runtime does.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond, denies access, or returns no manifest.
    pub async fn tag(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let reference = TagOrDigest::Tag(tag.to_owned());
        let found = if self.options.deep {
            self.repository.read(&reference).await?
        } else {
            self.repository.locate(&reference).await?
        };
        Ok(found.map(|found| found.resolved.digest))
    }

    /// Verifies the image with this digest: its index, manifests, configs and layers, and the same of its referrers and
    /// digest tags.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond or denies access, so that the result is unknown.
    pub async fn image(&self, root: &Digest) -> Result<Verified, RegistryError> {
        let reservation = self.registry.reservation_of_copy();
        let repository = self.of_image(&reservation);
        let mut verified = Verified::default();
        let image = self.closure(&repository, root, &mut verified).await?;
        self.referrers(&repository, root, image.subjects, &mut verified)
            .await?;
        Ok(verified)
    }

    fn of_image(&self, reservation: &Arc<Reservation>) -> Repository {
        let repository = self.repository.clone().of_copy(reservation);
        repository.with_metadata_requests(MANIFESTS_AT_ONCE)
    }

    fn is_good(&self, digest: &Digest, size: u64) -> bool {
        lock(&self.good).contains(&(digest.clone(), size))
    }

    fn remember(&self, digest: &Digest, size: u64) {
        let mut good = lock(&self.good);
        if good.len() < MAX_REMEMBERED {
            good.insert((digest.clone(), size));
        }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("repository", &self.repository.name())
            .finish_non_exhaustive()
    }
}
