//! Brings every planned blob to the target: it is there, it is mounted, or it is sent.

use super::Job;
use super::error::CopyError;
use super::plan::Plan;
use super::pool::Pool;
use super::progress::Event;
use super::report::one_more;
use crate::registry::{MountAnswer, Session};
use oci_spec::image::Digest;
use std::cmp::Reverse;
use std::sync::Arc;

/// Blobs of one copy that are in flight at once.
pub(super) const BLOBS_AT_ONCE: usize = 8;

/// What is left to do for a blob after asking for a mount.
enum AfterMount {
    Nothing,
    Fill(Session),
    /// There was nothing to mount from.
    LookFirst,
}

impl Job<'_> {
    /// Brings all blobs to the target, the largest first: what takes longest starts first, and small
    /// ones fill the gaps.
    pub(super) async fn copy_blobs(&self, plan: &Plan) -> Result<(), CopyError> {
        let mut blobs: Vec<_> = plan
            .blobs
            .iter()
            .map(|(digest, size)| (digest, *size))
            .collect();
        blobs.sort_by_key(|&(digest, size)| (Reverse(size), digest.as_ref()));
        let mut pool = Pool::new(BLOBS_AT_ONCE);
        for (digest, size) in blobs {
            pool.add(Box::pin(self.bring(digest, size))).await?;
        }
        pool.finish().await
    }

    async fn bring(&self, digest: &Digest, size: u64) -> Result<(), CopyError> {
        if self.same_repository() {
            self.skipped(digest, size);
            return Ok(());
        }
        let session = match self.mounted(digest, size).await {
            AfterMount::Nothing => return Ok(()),
            AfterMount::Fill(session) => Some(session),
            AfterMount::LookFirst if self.is_there(digest).await? => {
                self.skipped(digest, size);
                return Ok(());
            }
            AfterMount::LookFirst => None,
        };
        self.send_blob(digest, size, session).await
    }

    /// Sends a blob and remembers where it is.
    pub(super) async fn send_blob(
        &self,
        digest: &Digest,
        size: u64,
        session: Option<Session>,
    ) -> Result<(), CopyError> {
        self.transfer(digest, size, session).await?;
        self.remember(digest);
        one_more(&self.tally.copied);
        self.tally
            .bytes
            .fetch_add(size, std::sync::atomic::Ordering::Relaxed);
        self.progress.event(Event::BlobCopied { digest, size });
        Ok(())
    }

    /// Tries to mount from where the blob is known to be. No failure here is final: a plain upload
    /// does the same, only slower.
    async fn mounted(&self, digest: &Digest, size: u64) -> AfterMount {
        let Some(from) = self.mount_candidate(digest) else {
            return AfterMount::LookFirst;
        };
        match self.target.mount(digest, &from).await {
            Ok(MountAnswer::Mounted) => {
                self.remember(digest);
                one_more(&self.tally.mounted);
                self.progress.event(Event::BlobMounted {
                    digest,
                    size,
                    from: &from,
                });
                AfterMount::Nothing
            }
            Ok(MountAnswer::Session(session)) => {
                self.target.registry().seen().forget(digest, &from);
                AfterMount::Fill(session)
            }
            Err(error) => {
                tracing::debug!(%digest, %from, %error, "not mounted");
                self.target.registry().seen().forget(digest, &from);
                AfterMount::LookFirst
            }
        }
    }

    fn mount_candidate(&self, digest: &Digest) -> Option<Arc<str>> {
        if self.source.registry().same_host(self.target.registry()) {
            return Some(Arc::clone(self.source.name()));
        }
        self.target
            .registry()
            .seen()
            .find(digest, self.target.name())
    }

    async fn is_there(&self, digest: &Digest) -> Result<bool, CopyError> {
        match self.target.has_blob(digest).await {
            Ok(has) => Ok(has),
            // The upload that follows is the better judge of what is allowed.
            Err(error) if matches!(error.status(), Some(400..=405)) => Ok(false),
            Err(error) => Err(CopyError::Target(error)),
        }
    }

    fn skipped(&self, digest: &Digest, size: u64) {
        self.remember(digest);
        one_more(&self.tally.skipped);
        self.progress.event(Event::BlobSkipped { digest, size });
    }

    fn remember(&self, digest: &Digest) {
        self.target
            .registry()
            .seen()
            .add(digest, self.target.name());
    }

    fn same_repository(&self) -> bool {
        self.source.registry().same_host(self.target.registry())
            && self.source.name() == self.target.name()
    }
}
