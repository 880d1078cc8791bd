//! Closer looks at images in use: is the whole copy there, is the original still there, and is it the same?
//!
//! They pass by what is remembered, put back what can be put back from the backup itself, and have no hurry: nobody waits
//! for an answer.

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::naming::anchor_tag;
use mirror_contract::{Digest, ImageRef};
use mirror_copy::{Completeness, Registry, RegistryError, Resolved, SetupError, TagOrDigest};
use tokio::sync::broadcast;
use tokio::time::{Instant, timeout};

use super::parts::Pacing;
use super::{Lookup, PartsPlan};
use crate::copy_queue::{Requester, Status, Task};
use crate::locations::{contract_digest, engine_digest, reference};

/// How long a look at the backup may take, the client's own retries included.
pub(super) const BACKUP_CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the check of an image's parts may take, and when it sends its last request: it waits for its turns, and the
/// rest is left to the next check.
const PARTS_CHECK_TIMEOUT: Duration = Duration::from_mins(5);
const LAST_PART_TIMEOUT: Duration = Duration::from_mins(4);

/// How long a look at an original may take. Its registry is anybody's: one that never answers must not keep the slots of
/// the others for long.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// What the backup has of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The copy, with its anchor.
    Complete {
        digest: Digest<'static>,
        /// Whether its tag or anchor was missing and was put back.
        repaired: bool,
    },
    /// No copy.
    Missing,
    /// The registry does not say whether there is one: it responds with 401 or 403, and accepts the login otherwise.
    Hidden,
}

/// What the registry of the original says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The original is this now.
    Is(Digest<'static>),
    /// It has no such image.
    Absent,
    /// Nothing that could be relied on: it does not answer, or does not let us see the image (any more).
    Unknown {
        /// Why, in one sentence that everybody may read.
        reason: String,
        /// Whether it will say the same until somebody changes something.
        lasting: bool,
    },
}

/// The backup registry could not be looked at, so nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It answered with an error, or not at all.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It took too long.
    #[error("the backup registry did not respond within {} s", .0.as_secs())]
    TooSlow(Duration),
}

impl Lookup {
    /// How far the copy of `image` is; `None` when none is being made.
    #[must_use]
    pub fn job(&self, image: &ImageRef<'static>) -> Option<Status> {
        self.queue.status(image)
    }

    /// Tells of which image an attempt to copy it ended. Who lags behind must look at the [`Self::job`] of all.
    #[must_use]
    pub fn attempts(&self) -> broadcast::Receiver<ImageRef<'static>> {
        self.queue.ended()
    }

    /// Requests a copy of an image that these namespaces use; it is made in their turns.
    #[must_use]
    pub fn copy_in_use(
        &self,
        image: &ImageRef<'static>,
        task: Task,
        namespaces: Vec<Arc<str>>,
    ) -> Status {
        let requester = Requester::Namespaces(namespaces);
        self.queue.request(image, task, &requester)
    }

    /// These namespaces use an image whose copy was requested.
    pub fn join_in_use(&self, image: &ImageRef<'static>, namespaces: Vec<Arc<str>>) {
        if self.queue.status(image).is_some() {
            let _ = self.copy_in_use(image, Task::Copy, namespaces);
        }
    }

    /// Looks for the copy that `copy` names, and for its anchor. What is missing of the two is put back if the manifest is
    /// there: by the other one, or as the digest that a lost tag was `known` to stand for.
    ///
    /// # Errors
    /// [`CheckError`] when nothing can be said.
    pub async fn inspect(
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
                tracing::debug!(%image, %error, "the backup registry shows no such copy");
                Presence::Hidden
            }
            presence => presence?,
        };
        match &presence {
            // Otherwise the facade checks the parts itself.
            Presence::Complete { digest, .. } if self.is_whole(copy, digest) => {
                self.seen.insert(image.clone(), digest.clone()).await;
            }
            Presence::Complete { .. } => {}
            Presence::Missing | Presence::Hidden => {
                self.seen.invalidate(image).await;
                self.losses.missing(image, asked_at);
            }
        }
        Ok(presence)
    }

    /// Looks for the parts of the copy that `copy` names, which is this digest.
    ///
    /// # Errors
    /// [`CheckError`] when nothing can be said.
    pub async fn check_parts(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        digest: &Digest<'static>,
        plan: PartsPlan,
    ) -> Result<Completeness, CheckError> {
        let Some(digest) = engine_digest(digest) else {
            return Ok(Completeness::Complete { next: None });
        };
        let root = Resolved {
            digest,
            media_type: String::new(),
            size: 0,
        };
        let until = Instant::now() + LAST_PART_TIMEOUT;
        let found = within(
            PARTS_CHECK_TIMEOUT,
            self.parts
                .check(copy.path(), &root, plan, Pacing::InUse(until)),
        )
        .await?;
        if let Completeness::Missing(part) = &found {
            self.parts
                .report_missing(image, copy.path(), &root.digest, part)
                .await;
            self.seen.invalidate(image).await;
        }
        Ok(found)
    }

    fn is_whole(&self, copy: &ImageRef<'static>, digest: &Digest<'static>) -> bool {
        engine_digest(digest).is_some_and(|digest| self.parts.is_whole(copy.path(), &digest))
    }

    /// Makes the tag that `copy` names stand for `digest` again, if the backup still has that, and looks what it is then.
    ///
    /// # Errors
    /// [`CheckError`] when nothing can be said.
    pub async fn reset(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        digest: &Digest<'static>,
    ) -> Result<Presence, CheckError> {
        let tag = copy.tag().unwrap_or_default();
        let reset = self.put_back(copy.path(), digest, tag);
        let is_back = within(BACKUP_CHECK_TIMEOUT, reset).await?;
        let presence = self.inspect(image, copy, Some(digest)).await?;
        Ok(if is_back {
            presence.as_repaired()
        } else {
            presence
        })
    }

    /// Looks for an image in the backup that is no copy: only whether it is there.
    ///
    /// # Errors
    /// [`CheckError`] when nothing can be said.
    pub async fn look_for(&self, image: &ImageRef<'static>) -> Result<Presence, CheckError> {
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

    /// The registry of the original.
    ///
    /// # Errors
    /// [`SetupError`] when its name is not usable.
    pub fn upstream_of(&self, image: &ImageRef<'static>) -> Result<Registry, SetupError> {
        Ok(self.images.source(image)?.registry)
    }

    /// Asks the registry of the original what it has, without reading it.
    pub async fn look_upstream(&self, image: &ImageRef<'static>) -> Upstream {
        let unknown = |reason: String, lasting| Upstream::Unknown { reason, lasting };
        let source = match self.images.source(image) {
            Ok(source) => source,
            Err(error) => return unknown(error.to_string(), true),
        };
        let look = source
            .registry
            .resolve(&source.repository, &source.reference);
        match timeout(UPSTREAM_TIMEOUT, look).await {
            Ok(Ok(Some(found))) => match contract_digest(&found.digest) {
                Some(digest) => Upstream::Is(digest),
                None => unknown(
                    "its digest is of a kind that is not known here".into(),
                    true,
                ),
            },
            Ok(Ok(None)) => Upstream::Absent,
            Ok(Err(error)) => {
                tracing::debug!(%image, %error, "cannot check the original");
                let reason = source.registry.public_text(&error);
                unknown(reason, !error.retry().is_transient())
            }
            Err(_) => {
                tracing::debug!(%image, within = ?UPSTREAM_TIMEOUT, "the original's registry does not answer");
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
            Some(digest) if self.put_back(copy.path(), digest, tag).await? => {
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
        if self.put_back(repository, digest, &anchor).await? {
            Ok(complete(true))
        } else {
            Ok(Presence::Missing)
        }
    }

    /// Gives a manifest of the backup a tag that it lost; `false` if there is no such manifest.
    async fn put_back(
        &self,
        repository: &str,
        digest: &Digest<'_>,
        tag: &str,
    ) -> Result<bool, RegistryError> {
        let Some(own) = engine_digest(digest) else {
            return Ok(false);
        };
        let is_back = self.registry.tag(repository, &own, tag).await?;
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
            .registry
            .resolve_to_write(repository, reference)
            .await?;
        Ok(found.and_then(|found| contract_digest(&found.digest)))
    }
}

pub(super) async fn within<T>(
    limit: Duration,
    look: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, CheckError> {
    let result = timeout(limit, look).await;
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
