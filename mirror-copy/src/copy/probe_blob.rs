//! Asks the target whether it has a blob, or can take it from another of its repositories.
//!
//! One request does it where possible: a mount from the repository itself answers 201 if the blob is there
//! and opens an upload session if it is not. Not every registry plays along; each is watched.

use super::error::CopyError;
use super::job::Job;
use super::node::Blob;
use super::queue::LARGE;
use crate::registry::{MountAnswer, SelfMount, Session};
use oci_spec::image::Digest;
use std::sync::Arc;

/// What the target makes of a blob.
pub(super) enum BlobProbe {
    /// It has it.
    Present,
    /// It took it from this repository.
    Mounted(Arc<str>),
    /// It wants the content.
    Wanted(Session),
}

impl Job<'_> {
    pub(super) async fn offer(&self, blob: &Blob) -> Result<BlobProbe, CopyError> {
        if let Some(offer) = self.offer_mount(blob).await? {
            return Ok(offer);
        }
        let learned = self.target.registry().own_mount();
        let offer = match learned.get() {
            SelfMount::Useless | SelfMount::Never => None,
            SelfMount::Unknown if blob.size >= LARGE => self.ask_twice(blob).await?,
            SelfMount::Unknown | SelfMount::Works => self.ask_once(&blob.digest).await?,
        };
        match offer {
            Some(offer) => Ok(offer),
            None if self.is_there(&blob.digest).await? => Ok(BlobProbe::Present),
            None => self.plain_session(&blob.digest).await,
        }
    }

    /// Tries to mount from another repository that is known to have the blob. A refusal is not final: a
    /// plain upload does the same, only slower.
    async fn offer_mount(&self, blob: &Blob) -> Result<Option<BlobProbe>, CopyError> {
        let digest = &blob.digest;
        let Some(from) = self.mount_candidate(digest) else {
            return Ok(None);
        };
        let seen = self.target.registry().seen();
        match self.target.mount(digest, &from).await {
            Ok(MountAnswer::Mounted) => Ok(Some(BlobProbe::Mounted(from))),
            Ok(MountAnswer::Session(session)) => {
                // Either the blob is gone from there, or this registry mounts nothing.
                seen.forget(digest, &from);
                if blob.size < LARGE {
                    return Ok(Some(BlobProbe::Wanted(session)));
                }
                self.unless_there(digest, session).await.map(Some)
            }
            Err(error) if error.retry().is_transient() => Err(CopyError::Target(error)),
            Err(error) => {
                tracing::debug!(%digest, %from, %error, "not mounted");
                seen.forget(digest, &from);
                if let Some(405 | 501) = error.status() {
                    self.target.registry().own_mount().refused(SelfMount::Never);
                }
                Ok(None)
            }
        }
    }

    pub(super) fn mount_candidate(&self, digest: &Digest) -> Option<Arc<str>> {
        if self.target.registry().own_mount().get() == SelfMount::Never {
            return None;
        }
        if self.source.registry().same_host(self.target.registry()) {
            return Some(Arc::clone(self.source.name()));
        }
        let seen = self.target.registry().seen();
        seen.find(digest, self.target.name())
    }

    /// The mount from the repository itself, on its own. A registry that does not know it opens a session
    /// even if the blob is there; the blob is sent in vain then, which is cheap for small ones.
    async fn ask_once(&self, digest: &Digest) -> Result<Option<BlobProbe>, CopyError> {
        let learned = self.target.registry().own_mount();
        match self.target.mount(digest, self.target.name()).await {
            Ok(MountAnswer::Mounted) => {
                learned.set(SelfMount::Works);
                Ok(Some(BlobProbe::Present))
            }
            Ok(MountAnswer::Session(session)) => Ok(Some(BlobProbe::Wanted(session))),
            Err(error) if error.retry().is_transient() => Err(CopyError::Target(error)),
            Err(error) => {
                tracing::debug!(%digest, %error, "no mount from the repository itself");
                learned.refused(match error.status() {
                    Some(405 | 501) => SelfMount::Never,
                    _ => SelfMount::Useless,
                });
                Ok(None)
            }
        }
    }

    /// Uses a session that was opened in place of a mount, unless the blob turns out to be there.
    async fn unless_there(
        &self,
        digest: &Digest,
        session: Session,
    ) -> Result<BlobProbe, CopyError> {
        match self.is_there(digest).await {
            Ok(false) => Ok(BlobProbe::Wanted(session)),
            there => {
                self.target.cancel(&session).await;
                there.map(|_| BlobProbe::Present)
            }
        }
    }

    /// The same, and `HEAD` at the same time: for a blob that is too large to be sent in vain.
    async fn ask_twice(&self, blob: &Blob) -> Result<Option<BlobProbe>, CopyError> {
        let digest = &blob.digest;
        let (there, offer) = tokio::join!(self.is_there(digest), self.ask_once(digest));
        match (there, offer?) {
            (Ok(true), Some(BlobProbe::Wanted(session))) => {
                self.target.registry().own_mount().set(SelfMount::Useless);
                self.target.cancel(&session).await;
                Ok(Some(BlobProbe::Present))
            }
            (Ok(true), _) => Ok(Some(BlobProbe::Present)),
            (Err(error), Some(BlobProbe::Wanted(session))) => {
                self.target.cancel(&session).await;
                Err(error)
            }
            (Err(error), _) => Err(error),
            (Ok(false), offer) => Ok(offer),
        }
    }

    async fn plain_session(&self, digest: &Digest) -> Result<BlobProbe, CopyError> {
        let session = self.target.start_upload(digest).await;
        session.map(BlobProbe::Wanted).map_err(CopyError::Target)
    }

    async fn is_there(&self, digest: &Digest) -> Result<bool, CopyError> {
        match self.target.has_blob(digest).await {
            Ok(has) => Ok(has),
            // The upload that follows is the better judge of what is allowed.
            Err(error) if matches!(error.status(), Some(400..=405)) => Ok(false),
            Err(error) => Err(CopyError::Target(error)),
        }
    }
}
