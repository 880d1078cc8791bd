//! What the source's reference stands for.

use super::error::CopyError;
use super::job::Job;
use super::progress::Event;
use crate::reference::TagOrDigest;
use crate::registry::{Located, Manifest};

impl Job<'_> {
    /// Finds out what the source's reference stands for. A digest is taken as it is, without asking. A tag
    /// is read at once, which saves asking twice, except where reading is limited and asking is not.
    pub(super) async fn locate_source(
        &self,
        reference: &TagOrDigest,
    ) -> Result<Located, CopyError> {
        if let TagOrDigest::Digest(digest) = reference {
            return Ok(Located::unseen(digest.clone()));
        }
        self.progress.event(Event::SourceRequested);
        let located = if self.source.registry().counts_reads() {
            self.source.locate(reference).await
        } else {
            self.source.read(reference).await
        };
        let missing = || CopyError::SourceMissing {
            object: self.source.object(&reference.suffix()),
        };
        let located = located.map_err(CopyError::Source)?.ok_or_else(missing)?;
        self.progress.event(Event::SourceResponded);
        Ok(located)
    }

    /// Reads the root by digest. Where the registry named a digest that it does not have, its tag is read
    /// instead and our own hash counts.
    pub(super) async fn read_root(
        &self,
        reference: &TagOrDigest,
        located: Located,
    ) -> Result<Manifest, CopyError> {
        if let Some(manifest) = located.manifest {
            return Ok(manifest);
        }
        let by_digest = TagOrDigest::Digest(located.resolved.digest);
        self.progress.event(Event::SourceRequested);
        match self.source.manifest(&by_digest).await {
            Ok(manifest) => {
                self.progress.event(Event::SourceResponded);
                Ok(manifest)
            }
            Err(error) if *reference != by_digest && error.is_wrong_or_missing() => {
                tracing::warn!(%error, "reading by tag instead");
                let manifest = self.source.manifest(reference).await;
                manifest.map_err(CopyError::Source)
            }
            Err(error) if error.status() == Some(404) => Err(CopyError::SourceMissing {
                object: self.source.object(&by_digest.suffix()),
            }),
            Err(error) => Err(CopyError::Source(error)),
        }
    }
}
