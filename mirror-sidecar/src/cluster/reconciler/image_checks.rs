//! Checks of images in use: is the copy complete, does the original still exist, and does it have the same digest?
//!
//! They ignore cached results and restore lost tags from the backup itself. No request waits for them.

use std::time::Duration;

use mirror_contract::naming::anchor_tag;
use mirror_contract::{Digest, ImageRef};
use mirror_copy::{Completeness, ImageContents, Registry, RegistryError, SetupError, TagOrDigest};
use tokio::time::{Instant, timeout};

use crate::locations::{contract_digest, engine_digest, reference};
use crate::lookup::{Lookup, PartsPlan};

/// Timeout of a check in the backup, including the retries of the client.
pub(super) const BACKUP_CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of the check of an image's parts, and the time of its last request. It waits for its turns, and the next check
/// continues it.
const PARTS_CHECK_TIMEOUT: Duration = Duration::from_mins(5);
const LAST_PART_TIMEOUT: Duration = Duration::from_mins(4);

/// Timeout of the check of an original. Users choose its registry: one that never responds must not hold its slot for long.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a check in the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The copy, with its anchor.
    Complete {
        digest: Digest<'static>,
        /// Its tag or anchor was missing and was restored.
        repaired: bool,
    },
    Missing,
    /// The registry responds with 401 or 403 to this request and accepts the login otherwise.
    Hidden,
}

/// The result of a check of the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The original has this digest now.
    Is(Digest<'static>),
    Absent,
    /// Inconclusive: the registry does not respond or denies access.
    Unknown {
        /// One public sentence.
        reason: String,
        /// The result stays the same until somebody fixes its cause.
        lasting: bool,
    },
}

/// The check in the backup is inconclusive.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the backup registry did not respond within {} s", .0.as_secs())]
    TooSlow(Duration),
}

impl Lookup {
    /// Checks the tag `copy` and its anchor. If one of them is missing and the manifest exists, the tag is restored: from
    /// the other one, or with the digest that a lost tag was `known` to have.
    pub(super) async fn inspect(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        known: Option<&Digest<'static>>,
    ) -> Result<Presence, CheckError> {
        let asked_at = Instant::now();
        let inspection = async {
            match copy.digest() {
                Some(digest) => self.with_anchor(copy.path(), digest).await,
                None => self.with_tag(copy, known).await,
            }
        };
        let presence = match within(BACKUP_CHECK_TIMEOUT, inspection).await {
            Err(CheckError::Registry(error)) if error.is_denied() && self.accepts_login().await => {
                tracing::debug!(%image, %error, "the backup registry denies access to the copy");
                Presence::Hidden
            }
            presence => presence?,
        };
        match &presence {
            Presence::Complete { digest, .. } => self.record_found(image, copy, digest).await,
            Presence::Missing | Presence::Hidden => self.record_missing(image, asked_at).await,
        }
        Ok(presence)
    }

    /// Checks the parts of the copy with this digest. Also returns its contents, if all of it was read.
    ///
    /// # Errors
    /// [`CheckError`] if the check is inconclusive.
    pub async fn check_parts(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        digest: &Digest<'static>,
        plan: PartsPlan,
    ) -> Result<(Completeness, Option<ImageContents>), CheckError> {
        let until = Instant::now() + LAST_PART_TIMEOUT;
        let check = self.check_parts_until(image, copy, digest, plan, until);
        within(PARTS_CHECK_TIMEOUT, check).await
    }

    /// Resets the tag `copy` to `digest` if the backup still has the manifest, then inspects the copy.
    pub(super) async fn reset(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        digest: &Digest<'static>,
    ) -> Result<Presence, CheckError> {
        let tag = copy.tag().unwrap_or_default();
        let reset = self.restore_tag(copy.path(), digest, tag);
        let is_back = within(BACKUP_CHECK_TIMEOUT, reset).await?;
        let presence = self.inspect(image, copy, Some(digest)).await?;
        Ok(if is_back {
            presence.as_repaired()
        } else {
            presence
        })
    }

    /// Checks that an image that is not a copy exists in the backup.
    pub(super) async fn look_for(&self, image: &ImageRef<'static>) -> Result<Presence, CheckError> {
        let reference = reference(image);
        let found = within(
            BACKUP_CHECK_TIMEOUT,
            self.digest_of(image.path(), &reference),
        )
        .await?;
        Ok(
            found.map_or(Presence::Missing, |digest| Presence::Complete {
                digest,
                repaired: false,
            }),
        )
    }

    pub(super) fn upstream_of(&self, image: &ImageRef<'static>) -> Result<Registry, SetupError> {
        Ok(self.locations().source(image)?.registry)
    }

    /// Resolves the original.
    pub(super) async fn look_upstream(&self, image: &ImageRef<'static>) -> Upstream {
        let unknown = |reason: String, lasting| Upstream::Unknown { reason, lasting };
        let source = match self.locations().source(image) {
            Ok(source) => source,
            Err(error) => return unknown(error.to_string(), true),
        };
        let request = source
            .registry
            .resolve(&source.repository, &source.reference);
        match timeout(UPSTREAM_TIMEOUT, request).await {
            Ok(Ok(Some(found))) => match contract_digest(&found.digest) {
                Some(digest) => Upstream::Is(digest),
                None => unknown("its digest has an unknown algorithm".into(), true),
            },
            Ok(Ok(None)) => Upstream::Absent,
            Ok(Err(error)) => {
                tracing::debug!(%image, %error, "cannot check the original");
                let reason = source.registry.public_text(&error);
                unknown(reason, !error.retry().is_transient())
            }
            Err(_) => {
                tracing::debug!(%image, within = ?UPSTREAM_TIMEOUT, "the registry of the original does not respond");
                unknown("the registry cannot be reached".to_owned(), false)
            }
        }
    }

    async fn with_tag(
        &self,
        copy: &ImageRef<'static>,
        known: Option<&Digest<'static>>,
    ) -> Result<Presence, RegistryError> {
        let tag = copy.tag().unwrap_or_default();
        let reference = TagOrDigest::Tag(tag.to_owned());
        if let Some(digest) = self.digest_of(copy.path(), &reference).await? {
            return self.with_anchor(copy.path(), &digest).await;
        }
        match known {
            Some(digest) if self.restore_tag(copy.path(), digest, tag).await? => {
                let found = self.with_anchor(copy.path(), digest).await?;
                Ok(found.as_repaired())
            }
            _ => Ok(Presence::Missing),
        }
    }

    async fn with_anchor(
        &self,
        repository: &str,
        digest: &Digest<'_>,
    ) -> Result<Presence, RegistryError> {
        let anchor = anchor_tag(digest);
        let complete = |repaired| Presence::Complete {
            digest: digest.clone().into_owned(),
            repaired,
        };
        let reference = TagOrDigest::Tag(anchor.clone());
        if self.digest_of(repository, &reference).await?.as_ref() == Some(digest) {
            return Ok(complete(false));
        }
        if self.restore_tag(repository, digest, &anchor).await? {
            Ok(complete(true))
        } else {
            Ok(Presence::Missing)
        }
    }

    /// Tags a manifest of the backup. Returns `false` if there is no such manifest.
    async fn restore_tag(
        &self,
        repository: &str,
        digest: &Digest<'_>,
        tag: &str,
    ) -> Result<bool, RegistryError> {
        let Some(own) = engine_digest(digest) else {
            return Ok(false);
        };
        let is_back = self.registry().tag(repository, &own, tag).await?;
        if is_back {
            tracing::warn!(
                repository, %digest, tag,
                "the backup registry lost or changed this tag and it was restored; check what deletes or overwrites tags there"
            );
        }
        Ok(is_back)
    }

    async fn digest_of(
        &self,
        repository: &str,
        reference: &TagOrDigest,
    ) -> Result<Option<Digest<'static>>, RegistryError> {
        let found = self
            .registry()
            .resolve_to_write(repository, reference)
            .await?;
        Ok(found.and_then(|found| contract_digest(&found.digest)))
    }
}

pub(super) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, CheckError> {
    let result = timeout(limit, request).await;
    Ok(result.map_err(|_| CheckError::TooSlow(limit))??)
}

impl Presence {
    fn as_repaired(&self) -> Self {
        match self {
            Self::Complete { digest, .. } => Self::Complete {
                digest: digest.clone(),
                repaired: true,
            },
            other => other.clone(),
        }
    }
}
