//! Copies one blob: the target has it, mounts it from another of its repositories, or gets it sent.
//!
//! One request finds out where possible: a mount from the target repository itself responds 201 if the blob is there, and
//! opens an upload session if it is not. Not every registry does so; what each does is remembered.

use super::error::CopyError;
use super::graph::LARGE;
use super::job::Job;
use super::node::Blob;
use super::progress::Event;
use super::report::one_more;
use crate::registry::{BlobReader, MountResponse, Registry, SelfMount, Session, TransferPermit};
use oci_spec::image::Digest;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Blobs of one copy that are in flight concurrently; each registry and the memory have limits of their own.
pub(super) const BLOBS_AT_ONCE: usize = 64;

enum BlobProbe {
    Present,
    /// The target mounted it from this repository.
    Mounted(Arc<str>),
    /// The target needs the content, in this session.
    Missing(Session),
}

impl Job<'_> {
    /// Copies a blob to the target. Concurrent copies share it: the first one sends it, the others find it present.
    pub(super) async fn copy_blob(&self, blob: &Blob) -> Result<(), CopyError> {
        if self.same_repository() {
            self.skipped(blob);
            return Ok(());
        }
        if self.options.resend.contains(&blob.digest) {
            return self.send_again(blob).await;
        }
        let turn = self.turn(blob).await;
        if self.was_present_recently(blob) {
            self.skipped(blob);
            return Ok(());
        }
        // Only the first one sends it; once it is somewhere, all others may mount it concurrently.
        let may_mount = self.mount_candidate(&blob.digest).is_some();
        let turn = (!may_mount).then_some(turn);
        if may_mount || self.target_has_parts.load(Ordering::Relaxed) {
            Box::pin(self.probe_then_send(blob, turn)).await
        } else {
            let _permit = self.transfer_permit(blob).await;
            Box::pin(self.probe_and_open(blob)).await
        }
    }

    /// Probes the target first, which takes no memory, since it most likely has the blob or can mount it.
    async fn probe_then_send<T>(&self, blob: &Blob, turn: Option<T>) -> Result<(), CopyError> {
        let probe = {
            let (source, target) = (self.source.registry(), self.target.registry());
            let _permit = Registry::probe_permit(source, target).await;
            self.probe(blob).await?
        };
        let session = match probe {
            BlobProbe::Present => {
                self.found(blob);
                return Ok(());
            }
            BlobProbe::Mounted(from) => {
                self.mounted(blob, &from);
                return Ok(());
            }
            BlobProbe::Missing(session) => session,
        };
        let _turn = if turn.is_none() {
            // Not mounted after all: only one copy sends it, and the others find it present.
            let turn = self.turn(blob).await;
            if self.was_present_recently(blob) {
                self.target.cancel(&session).await;
                self.skipped(blob);
                return Ok(());
            }
            Some(turn)
        } else {
            None
        };
        let _permit = self.transfer_permit(blob).await;
        self.send(blob, Some(session), None).await
    }

    /// Probes the target and opens the source concurrently, since the target most likely needs the blob.
    async fn probe_and_open(&self, blob: &Blob) -> Result<(), CopyError> {
        let (mut probing, mut opening) = (pin!(self.probe(blob)), pin!(self.open(blob)));
        let (probe, reader) = tokio::select! {
            // Does not wait for a source that is not needed.
            probe = &mut probing => (probe?, None),
            reader = &mut opening => (probing.await?, Some(reader)),
        };
        match probe {
            BlobProbe::Present => self.found(blob),
            BlobProbe::Mounted(from) => self.mounted(blob, &from),
            BlobProbe::Missing(session) => {
                let (session, reader) = self.opened(session, reader, opening).await?;
                self.send(blob, session, Some(reader)).await?;
            }
        }
        Ok(())
    }

    /// Sends a blob that the target claimed to have and does not have, without another probe.
    pub(super) async fn send_again(&self, blob: &Blob) -> Result<(), CopyError> {
        let _turn = self.turn(blob).await;
        let _permit = self.transfer_permit(blob).await;
        self.send(blob, None, None).await
    }

    async fn send(
        &self,
        blob: &Blob,
        session: Option<Session>,
        reader: Option<BlobReader>,
    ) -> Result<(), CopyError> {
        Box::pin(self.transfer(blob, session, reader)).await?;
        self.sent.add(&blob.digest);
        self.remember(blob);
        one_more(&self.tally.copied);
        self.tally.bytes.fetch_add(blob.size, Ordering::Relaxed);
        let Blob { digest, size, .. } = blob;
        self.progress.event(Event::BlobCopied {
            digest,
            size: *size,
        });
        Ok(())
    }

    /// Waits until no other copy sends this blob, for 30 s at most.
    async fn turn(&self, blob: &Blob) -> impl Sized + use<> {
        let locations = self.target.registry().blob_locations();
        locations.turn(&blob.digest).await
    }

    async fn transfer_permit(&self, blob: &Blob) -> TransferPermit<'_> {
        let (source, target) = (self.source.registry(), self.target.registry());
        Registry::transfer_permit(source, target, blob.size).await
    }

    fn was_present_recently(&self, blob: &Blob) -> bool {
        let locations = self.target.registry().blob_locations();
        self.trusts_target() && locations.was_seen_recently(&blob.digest, self.target.name())
    }

    fn found(&self, blob: &Blob) {
        self.remember(blob);
        self.skipped(blob);
    }

    fn skipped(&self, blob: &Blob) {
        self.target_has_parts.store(true, Ordering::Relaxed);
        one_more(&self.tally.skipped);
        self.progress.event(Event::BlobSkipped {
            digest: &blob.digest,
            size: blob.size,
        });
    }

    fn mounted(&self, blob: &Blob, from: &str) {
        self.target_has_parts.store(true, Ordering::Relaxed);
        self.sent.add(&blob.digest);
        self.remember(blob);
        one_more(&self.tally.mounted);
        self.progress.event(Event::BlobMounted {
            digest: &blob.digest,
            size: blob.size,
            from,
        });
    }

    fn remember(&self, blob: &Blob) {
        let locations = self.target.registry().blob_locations();
        locations.add(&blob.digest, self.target.name());
    }

    pub(super) fn forget(&self, blob: &Blob) {
        let locations = self.target.registry().blob_locations();
        locations.forget(&blob.digest, self.target.name());
    }

    async fn probe(&self, blob: &Blob) -> Result<BlobProbe, CopyError> {
        if let Some(probe) = self.try_mount(blob).await? {
            return Ok(probe);
        }
        let probe = match self.target.registry().self_mount().get() {
            SelfMount::Useless | SelfMount::Never => None,
            SelfMount::Unknown if blob.size >= LARGE => self.self_mount_and_head(blob).await?,
            SelfMount::Unknown | SelfMount::Works => self.try_self_mount(&blob.digest).await?,
        };
        match probe {
            Some(probe) => Ok(probe),
            None if self.is_present(&blob.digest).await? => Ok(BlobProbe::Present),
            None => {
                let session = self.target.start_upload(&blob.digest).await;
                session.map(BlobProbe::Missing).map_err(CopyError::Target)
            }
        }
    }

    /// Tries to mount from another repository that is known to have the blob. A refusal is not final: a plain upload does
    /// the same, only slower.
    async fn try_mount(&self, blob: &Blob) -> Result<Option<BlobProbe>, CopyError> {
        let digest = &blob.digest;
        let Some(from) = self.mount_candidate(digest) else {
            return Ok(None);
        };
        let target = self.target.registry();
        match self.target.mount(digest, &from).await {
            Ok(MountResponse::Mounted) => Ok(Some(BlobProbe::Mounted(from))),
            Ok(MountResponse::Session(session)) => {
                // Either the blob is gone from there, or this registry mounts nothing.
                target.blob_locations().forget(digest, &from);
                if blob.size < LARGE {
                    return Ok(Some(BlobProbe::Missing(session)));
                }
                self.use_unless_present(digest, session).await.map(Some)
            }
            Err(error) if error.retry().is_transient() => Err(CopyError::Target(error)),
            Err(error) => {
                tracing::debug!(%digest, %from, %error, "not mounted");
                target.blob_locations().forget(digest, &from);
                if let Some(405 | 501) = error.status() {
                    target.self_mount().refused(SelfMount::Never);
                }
                Ok(None)
            }
        }
    }

    fn mount_candidate(&self, digest: &Digest) -> Option<Arc<str>> {
        let target = self.target.registry();
        if target.self_mount().get() == SelfMount::Never {
            return None;
        }
        if self.source.registry().same_host(target) {
            return Some(Arc::clone(self.source.name()));
        }
        target.blob_locations().find(digest, self.target.name())
    }

    /// Mounts from the target repository itself. A registry that does not know that opens a session even if the blob is
    /// present; the blob is then sent for nothing, which is cheap for small ones.
    async fn try_self_mount(&self, digest: &Digest) -> Result<Option<BlobProbe>, CopyError> {
        let self_mount = self.target.registry().self_mount();
        match self.target.mount(digest, self.target.name()).await {
            Ok(MountResponse::Mounted) => {
                self_mount.set(SelfMount::Works);
                Ok(Some(BlobProbe::Present))
            }
            Ok(MountResponse::Session(session)) => Ok(Some(BlobProbe::Missing(session))),
            Err(error) if error.retry().is_transient() => Err(CopyError::Target(error)),
            Err(error) => {
                tracing::debug!(%digest, %error, "no mount from the repository itself");
                self_mount.refused(match error.status() {
                    Some(405 | 501) => SelfMount::Never,
                    _ => SelfMount::Useless,
                });
                Ok(None)
            }
        }
    }

    /// Uses a session that was opened instead of a mount, unless the blob turns out to be present.
    async fn use_unless_present(
        &self,
        digest: &Digest,
        session: Session,
    ) -> Result<BlobProbe, CopyError> {
        match self.is_present(digest).await {
            Ok(false) => Ok(BlobProbe::Missing(session)),
            present => {
                self.target.cancel(&session).await;
                present.map(|_| BlobProbe::Present)
            }
        }
    }

    /// Mounts from the target repository itself, and sends `HEAD` concurrently: for a blob that is too large to be sent
    /// for nothing.
    async fn self_mount_and_head(&self, blob: &Blob) -> Result<Option<BlobProbe>, CopyError> {
        let digest = &blob.digest;
        let (present, probe) = tokio::join!(self.is_present(digest), self.try_self_mount(digest));
        match (present, probe?) {
            (Ok(true), Some(BlobProbe::Missing(session))) => {
                self.target.registry().self_mount().set(SelfMount::Useless);
                self.target.cancel(&session).await;
                Ok(Some(BlobProbe::Present))
            }
            (Ok(true), _) => Ok(Some(BlobProbe::Present)),
            (Err(error), Some(BlobProbe::Missing(session))) => {
                self.target.cancel(&session).await;
                Err(error)
            }
            (Err(error), _) => Err(error),
            (Ok(false), probe) => Ok(probe),
        }
    }

    async fn is_present(&self, digest: &Digest) -> Result<bool, CopyError> {
        match self.target.has_blob(digest).await {
            Ok(has) => Ok(has),
            // The upload that follows is the better judge of what is allowed.
            Err(error) if matches!(error.status(), Some(400..=405)) => Ok(false),
            Err(error) => Err(CopyError::Target(error)),
        }
    }
}
