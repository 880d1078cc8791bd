//! Inspects one copy, and compares it with its original. Sends only requests that read.

use std::collections::HashSet;
use std::time::Duration;

use mirror_copy::{DamageKind, Digest, RegistryError, Verified, Verifier};
use tokio::time::timeout;

use super::items::Item;
use crate::commands::copy::dry_run;
use crate::locations::{Locations, anchor, engine_digest};
use crate::lookup::is_unseen;

/// Timeout of the comparison with an original: a source that does not respond must not stop the run.
const ORIGINAL_WITHIN: Duration = Duration::from_secs(30);

/// Missing parts that are looked up at the original, as for accepted copies of incomplete originals.
const MAX_LACKED: usize = 64;

/// Everything that is known about a copy and its original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inspection {
    pub(super) copy: CopyState,
    pub(super) original: Original,
    /// The backup has an anchor for the digest of the original, which is not that of the copy.
    pub(super) original_is_anchored: bool,
    /// Missing parts that the original lacks as well.
    pub(super) lacked_by_original: HashSet<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyState {
    Missing,
    /// The tag exists, and its manifest cannot be used.
    Unusable(String),
    Found {
        root: Digest,
        anchor: Anchor,
        verified: Verified,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Right,
    Missing,
    /// It stands for another digest than its name says.
    Other(Digest),
    /// The image is no copy of mirror-sidecar.
    NotExpected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Original {
    NotChecked,
    /// The reference of the original stands for this digest.
    Is(Digest),
    /// The registry has no such image, or shows none to this client.
    Gone(String),
    Unreachable(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Inspector<'a> {
    pub(super) locations: &'a Locations,
    pub(super) offline: bool,
}

impl Inspector<'_> {
    /// # Errors
    /// [`RegistryError`] if the backup does not respond or denies access, so that nothing is known about the copy.
    pub(super) async fn inspect(
        &self,
        verifier: &Verifier,
        item: &Item,
    ) -> Result<Inspection, RegistryError> {
        let (copy, original) = tokio::join!(self.copy(verifier, item), self.original(item));
        let copy = copy?;
        let mut original_is_anchored = false;
        let mut lacked_by_original = HashSet::new();
        if let (
            CopyState::Found {
                root,
                anchor: anchor_state,
                verified,
            },
            Original::Is(other),
        ) = (&copy, &original)
        {
            if other != root && *anchor_state == Anchor::Missing {
                let found = self.resolve(verifier, &anchor(other)).await?;
                original_is_anchored = matches!(found, Ok(Some(found)) if found == *other);
            }
            if other == root {
                lacked_by_original = self.lacked_by_original(item, verified).await;
            }
        }
        Ok(Inspection {
            copy,
            original,
            original_is_anchored,
            lacked_by_original,
        })
    }

    async fn copy(&self, verifier: &Verifier, item: &Item) -> Result<CopyState, RegistryError> {
        let root = match (item.digest(), item.tag()) {
            (Some(digest), _) => engine_digest(digest),
            (None, tag) => match self.resolve(verifier, tag.unwrap_or_default()).await? {
                Ok(found) => found,
                Err(reason) => return Ok(CopyState::Unusable(reason)),
            },
        };
        let Some(root) = root else {
            return Ok(CopyState::Missing);
        };
        let anchor = if item.is_copy {
            match self.resolve(verifier, &anchor(&root)).await? {
                Ok(Some(found)) if found == root => Anchor::Right,
                Ok(Some(found)) => Anchor::Other(found),
                Ok(None) => Anchor::Missing,
                // Its manifest is the root, whose damage is reported.
                Err(_) => Anchor::Right,
            }
        } else {
            Anchor::NotExpected
        };
        let image = match verifier.image(&root).await {
            Err(error) if error.is_denied() => self.absent_unless_refused(error).await?,
            image => Some(image?),
        };
        let Some(image) = image else {
            return Ok(CopyState::Missing);
        };
        let lacks_root = image
            .damage
            .iter()
            .any(|damage| damage.digest == root && damage.kind == DamageKind::MissingManifest);
        if lacks_root && item.digest().is_some() && anchor == Anchor::Missing {
            return Ok(CopyState::Missing);
        }
        Ok(CopyState::Found {
            root,
            anchor,
            verified: image,
        })
    }

    /// Resolves a tag in the backup. The inner error is the reason why its manifest cannot be used.
    async fn resolve(
        &self,
        verifier: &Verifier,
        tag: &str,
    ) -> Result<Result<Option<Digest>, String>, RegistryError> {
        match verifier.tag(tag).await {
            Ok(found) => Ok(Ok(found)),
            Err(RegistryError::Manifest { source, .. }) => Ok(Err(source.to_string())),
            Err(error) if error.is_denied() => self.absent_unless_refused(error).await.map(Ok),
            Err(error) => Err(error),
        }
    }

    /// Many registries deny access to missing repositories. Only an invalid login is an error.
    async fn absent_unless_refused<T>(
        &self,
        error: RegistryError,
    ) -> Result<Option<T>, RegistryError> {
        let registry = self.locations.backup_registry();
        match registry.ping().await {
            Ok(()) => {
                tracing::debug!(%error, "the backup registry denies access; the copy counts as missing");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn original(&self, item: &Item) -> Original {
        let Some(image) = item.original.as_ref().filter(|_| !self.offline) else {
            return Original::NotChecked;
        };
        let source = match self.locations.source(image) {
            Ok(source) => source,
            Err(error) => return Original::Unreachable(error.to_string()),
        };
        let name = image.to_string();
        match timeout(ORIGINAL_WITHIN, dry_run::original(&source, &name)).await {
            Ok(Ok(digest)) => Original::Is(digest),
            Ok(Err(error)) if is_unseen(&error) => Original::Gone(error.to_string()),
            Ok(Err(error)) => Original::Unreachable(error.to_string()),
            Err(_) => Original::Unreachable(format!(
                "{name} was not resolved within {ORIGINAL_WITHIN:?}"
            )),
        }
    }

    /// Returns the missing parts that the original, which has the same digest, lacks as well.
    async fn lacked_by_original(&self, item: &Item, verified: &Verified) -> HashSet<Digest> {
        let mut lacked = HashSet::new();
        let source = item
            .original
            .as_ref()
            .map(|image| self.locations.source(image));
        let Some(Ok(source)) = source else {
            return lacked;
        };
        let damage = verified.damage.iter();
        let missing = damage.filter(|damage| {
            let is_missing = matches!(
                damage.kind,
                DamageKind::MissingManifest | DamageKind::MissingBlob
            );
            is_missing && !damage.is_of_referrer
        });
        for damage in missing.take(MAX_LACKED) {
            let has_part = source
                .registry
                .has_part(&source.repository, &damage.digest)
                .await;
            if matches!(has_part, Ok(false)) {
                lacked.insert(damage.digest.clone());
            }
        }
        lacked
    }
}
