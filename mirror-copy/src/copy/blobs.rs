//! Brings one blob to the target: it is there, it is mounted, or it is sent.

use super::error::CopyError;
use super::job::Job;
use super::node::Blob;
use super::probe_blob::BlobProbe;
use super::progress::Event;
use super::report::one_more;
use crate::registry::{BlobReader, Registry, Session, TransferPermit};
use std::pin::pin;
use std::sync::atomic::Ordering;

/// Blobs of one copy that are in flight at once; each registry and the memory have limits of their own.
pub(super) const BLOBS_AT_ONCE: usize = 64;

impl Job<'_> {
    /// Brings a blob to the target. Copies that run at the same time share it: the first one sends it,
    /// the others find it there.
    pub(super) async fn copy_closure(&self, blob: &Blob) -> Result<(), CopyError> {
        if self.same_repository() {
            self.skipped(blob);
            return Ok(());
        }
        let turn = self.turn(blob).await;
        if self.was_there_lately(blob) {
            self.skipped(blob);
            return Ok(());
        }
        // Only the first one sends it; once it is somewhere, all others may mount it at the same time.
        let may_mount = self.mount_candidate(&blob.digest).is_some();
        let turn = (!may_mount).then_some(turn);
        if may_mount || self.found_something.load(Ordering::Relaxed) {
            Box::pin(self.copy_if_missing(blob, turn)).await
        } else {
            let _place = self.place(blob).await;
            Box::pin(self.copy_expectedly(blob)).await
        }
    }

    /// Asks the target first, which takes no memory, since it most likely has the blob or can mount it.
    async fn copy_if_missing<T>(&self, blob: &Blob, turn: Option<T>) -> Result<(), CopyError> {
        let offer = {
            let (source, target) = (self.source.registry(), self.target.registry());
            let _place = Registry::place_to_ask(source, target).await;
            self.offer(blob).await?
        };
        let session = match offer {
            BlobProbe::Present => {
                self.found(blob);
                return Ok(());
            }
            BlobProbe::Mounted(from) => {
                self.mounted(blob, &from);
                return Ok(());
            }
            BlobProbe::Wanted(session) => session,
        };
        let _turn = if turn.is_none() {
            // Not mounted after all: only one sends it, and the others find it there.
            let again = self.turn(blob).await;
            if self.was_there_lately(blob) {
                self.target.cancel(&session).await;
                self.skipped(blob);
                return Ok(());
            }
            Some(again)
        } else {
            None
        };
        let _place = self.place(blob).await;
        self.send(blob, Some(session), None).await
    }

    /// Asks the target and opens the source at the same time: the answer most likely is that the blob is
    /// needed.
    async fn copy_expectedly(&self, blob: &Blob) -> Result<(), CopyError> {
        let (mut offering, mut opening) = (pin!(self.offer(blob)), pin!(self.open(blob)));
        let (offer, reader) = tokio::select! {
            // Nobody waits for a source that is not needed.
            offer = &mut offering => (offer?, None),
            reader = &mut opening => (offering.await?, Some(reader)),
        };
        match offer {
            BlobProbe::Present => self.found(blob),
            BlobProbe::Mounted(from) => self.mounted(blob, &from),
            BlobProbe::Wanted(session) => {
                let (session, reader) = self.opened(session, reader, opening).await?;
                self.send(blob, session, Some(reader)).await?;
            }
        }
        Ok(())
    }

    /// Sends a blob that the target said it has and does not, without asking again.
    pub(super) async fn send_again(&self, blob: &Blob) -> Result<(), CopyError> {
        let _turn = self.turn(blob).await;
        let _place = self.place(blob).await;
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

    /// Waits until no other copy brings this blob, or does so for too long.
    async fn turn(&self, blob: &Blob) -> impl Sized + use<> {
        self.target.registry().seen().turn(&blob.digest).await
    }

    /// Waits until this blob may travel.
    async fn place(&self, blob: &Blob) -> TransferPermit<'_> {
        let (source, target) = (self.source.registry(), self.target.registry());
        Registry::place_between(source, target, blob.size).await
    }

    fn was_there_lately(&self, blob: &Blob) -> bool {
        let seen = self.target.registry().seen();
        self.trusts() && seen.lately(&blob.digest, self.target.name())
    }

    /// The target says that it has it.
    fn found(&self, blob: &Blob) {
        self.remember(blob);
        self.skipped(blob);
    }

    fn skipped(&self, blob: &Blob) {
        self.found_something.store(true, Ordering::Relaxed);
        one_more(&self.tally.skipped);
        self.progress.event(Event::BlobSkipped {
            digest: &blob.digest,
            size: blob.size,
        });
    }

    fn mounted(&self, blob: &Blob, from: &str) {
        self.found_something.store(true, Ordering::Relaxed);
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
        let seen = self.target.registry().seen();
        seen.add(&blob.digest, self.target.name());
    }

    /// The target does not have it, whatever it said.
    pub(super) fn forget(&self, blob: &Blob) {
        let seen = self.target.registry().seen();
        seen.forget(&blob.digest, self.target.name());
    }

    pub(super) fn same_repository(&self) -> bool {
        self.source.registry().same_host(self.target.registry())
            && self.source.name() == self.target.name()
    }
}
