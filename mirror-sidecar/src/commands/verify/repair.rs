//! Repairs one copy: copies what is missing or wrong, from a source that has exactly the same digest.
//!
//! A complete copy is never overwritten, and its tag never moved. Only a copy that cannot be repaired is replaced by the image
//! that the tag of the original stands for.

use mirror_copy::{
    CopyError, CopyOptions, Digest, RegistryError, Source, TagOrDigest, Target, Verifier,
};

use super::inspection::{Anchor, CopyState, Inspection, Inspector, Original};
use super::items::Item;
use crate::locations::{Locations, anchor};
use crate::lookup::is_unseen;

/// Parts that are missing hide the damage of parts below them, so the first repair may reveal more.
const ROUNDS: usize = 3;

const SKIPPED: &str = "the backup registry accepts the upload and still does not serve the right content: it skips \
                       uploads of content that it believes to have; delete this object in its storage, and run again";

/// A repaired copy, as far as it could be repaired.
#[derive(Debug)]
pub(super) struct Repaired {
    pub(super) inspection: Inspection,
    /// The reason why something remains.
    pub(super) reason: Option<String>,
}

/// Repairs a copy and inspects it again.
///
/// # Errors
/// [`RegistryError`] if the backup does not respond or denies access.
pub(super) async fn repair(
    inspector: &Inspector<'_>,
    verifier: &Verifier,
    item: &Item,
    before: Inspection,
) -> Result<Repaired, RegistryError> {
    let mut inspection = before;
    let mut reason = None;
    for _ in 0..ROUNDS {
        if !is_damaged(&inspection) {
            reason = None;
            break;
        }
        let attempt = Attempt {
            locations: inspector.locations,
            item,
            inspection: &inspection,
        };
        reason = Box::pin(attempt.run()).await.err();
        let after = inspector.inspect(verifier, item).await?;
        let has_changed = after.copy != inspection.copy;
        inspection = after;
        if !has_changed {
            break;
        }
    }
    if is_damaged(&inspection) && reason.is_none() {
        reason = Some(unrepaired(inspector.locations, item, &inspection).await);
    }
    Ok(Repaired { inspection, reason })
}

/// Returns whether there is something to repair.
pub(super) fn is_damaged(inspection: &Inspection) -> bool {
    match &inspection.copy {
        CopyState::Missing | CopyState::Unusable(_) => true,
        CopyState::Found { anchor, .. } => {
            has_damage(inspection, true) || matches!(anchor, Anchor::Missing | Anchor::Other(_))
        }
    }
}

/// Returns whether parts of a copy are damaged that the original has; also those of referrers, if they count.
fn has_damage(inspection: &Inspection, with_referrers: bool) -> bool {
    let CopyState::Found { verified, .. } = &inspection.copy else {
        return false;
    };
    let mut damage = verified.damage.iter();
    damage.any(|damage| {
        let is_counted = with_referrers || !damage.is_of_referrer;
        is_counted && !inspection.lacked_by_original.contains(&damage.digest)
    })
}

/// The reason why damage remains although everything was copied.
async fn unrepaired(locations: &Locations, item: &Item, inspection: &Inspection) -> String {
    if let (CopyState::Found { verified, .. }, Some(image)) = (&inspection.copy, &item.original)
        && let Some(damage) = verified.damage.iter().find(|damage| damage.is_of_referrer)
        && let Ok(source) = locations.source(image)
    {
        let has_part = source.registry.has_part(&source.repository, &damage.digest);
        if matches!(has_part.await, Ok(false)) {
            return format!(
                "the registry of the original does not have {} any more",
                damage.digest
            );
        }
    }
    SKIPPED.to_owned()
}

struct Attempt<'a> {
    locations: &'a Locations,
    item: &'a Item,
    inspection: &'a Inspection,
}

impl Attempt<'_> {
    /// The error is the reason why nothing, or not everything, was written.
    async fn run(&self) -> Result<(), String> {
        let CopyState::Found {
            root,
            anchor: anchor_state,
            ..
        } = &self.inspection.copy
        else {
            return self.copy_original().await;
        };
        if has_damage(self.inspection, true) {
            return self.restore(root).await;
        }
        if *anchor_state == Anchor::Missing && self.inspection.original_is_anchored {
            let tag = self.item.tag().unwrap_or_default();
            return Err(format!(
                "the tag {tag} stands for a complete image, which is not overwritten; delete the tag, and run again"
            ));
        }
        self.write_anchor(root).await
    }

    /// Copies the original under the tag of the copy, which is missing or cannot be used.
    async fn copy_original(&self) -> Result<(), String> {
        let image = self.item.original.as_ref().ok_or_else(no_original)?;
        let target = self.locations.target(image).map_err(text)?;
        let original = self.locations.source(image).map_err(text)?;
        let former = self.locations.former_copies(image);
        let options = self.locations.options();
        self.copy_first(std::iter::once(original).chain(former), &target, &options)
            .await
            .map_err(text)
    }

    /// Copies everything of this digest again. The tag, which stands for it, is not written.
    async fn restore(&self, root: &Digest) -> Result<(), String> {
        let image = self.item.original.as_ref().ok_or_else(no_original)?;
        let by_digest = |source: Source| Source {
            reference: TagOrDigest::Digest(root.clone()),
            ..source
        };
        let target = Target {
            tag: None,
            ..self.locations.target(image).map_err(text)?
        };
        let original = self.locations.source(image).map_err(text)?;
        let former = self.locations.former_copies(image);
        let sources = std::iter::once(original).chain(former).map(by_digest);
        let error = match self.copy_first(sources, &target, &self.refresh()).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let is_lost = is_unseen(&error) && has_damage(self.inspection, false);
        match &self.inspection.original {
            // The copy is unusable for good, and another image has its name.
            Original::Is(other) if other != root && is_lost && self.item.tag().is_some() => {
                self.replace(other).await
            }
            Original::Is(other) if other != root && is_unseen(&error) => Err(format!(
                "the registry of the original does not have {root} any more; its tag stands for {other}"
            )),
            Original::Gone(_) if is_unseen(&error) => Err(format!(
                "the original is gone, and no former backup has {root}"
            )),
            _ => Err(error.to_string()),
        }
    }

    /// Replaces a copy that cannot be repaired by the image that the tag of the original stands for.
    async fn replace(&self, by: &Digest) -> Result<(), String> {
        let image = self.item.original.as_ref().ok_or_else(no_original)?;
        let target = self.locations.target(image).map_err(text)?;
        let source = Source {
            reference: TagOrDigest::Digest(by.clone()),
            ..self.locations.source(image).map_err(text)?
        };
        tracing::warn!(
            image = self.item.name(), digest = %by,
            "the copy cannot be repaired and is replaced by the image that the tag stands for now; check workloads that \
             are pinned to the old digest"
        );
        let copied = self.copy_first([source], &target, &self.refresh()).await;
        copied.map_err(text)
    }

    /// Writes the anchor tag of a complete copy.
    async fn write_anchor(&self, root: &Digest) -> Result<(), String> {
        let registry = self.locations.backup_registry();
        let tag = anchor(root);
        match registry.tag(self.item.copy.path(), root, &tag).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the backup registry reports that parts of the image are missing; run again with --deep".into()),
            Err(error) => Err(CopyError::Target(error).to_string()),
        }
    }

    /// The options of a copy that trusts nothing at the backup.
    fn refresh(&self) -> CopyOptions {
        let damage = match &self.inspection.copy {
            CopyState::Found { verified, .. } => verified.damage.as_slice(),
            _ => &[],
        };
        CopyOptions {
            trust_present: false,
            resend: damage.iter().map(|damage| damage.digest.clone()).collect(),
            ..self.locations.options()
        }
    }

    /// Copies from the first source that has the image.
    ///
    /// # Errors
    /// That of the first source that may have the image, because its registry did not say otherwise; that of the first source
    /// if none may.
    async fn copy_first(
        &self,
        sources: impl IntoIterator<Item = Source>,
        target: &Target,
        options: &CopyOptions,
    ) -> Result<(), CopyError> {
        let mut first = None;
        for source in sources {
            match mirror_copy::copy(&source, target, options, &()).await {
                Ok(_) => return Ok(()),
                // No other source helps.
                Err(error @ CopyError::Target(_)) => return Err(error),
                Err(error) => first = Some(more_hopeful(first, error)),
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// Returns the error of the source that may still have the image; of two alike, the first.
fn more_hopeful(first: Option<CopyError>, next: CopyError) -> CopyError {
    match first {
        Some(first) if !is_unseen(&first) || is_unseen(&next) => first,
        _ => next,
    }
}

fn no_original() -> String {
    "the name of the original is not known; verify it by that name".into()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A former backup that cannot be reached may have what the original lacks: nothing must be replaced then.
    #[test]
    fn an_error_of_a_source_that_may_have_the_image_is_kept() {
        let missing = |object: &str| CopyError::SourceMissing {
            object: object.to_owned(),
        };
        let corrupt = || CopyError::BlobDigest {
            object: "x".to_owned(),
            actual: "y".to_owned(),
        };
        let all = |errors: Vec<CopyError>| {
            let found = errors
                .into_iter()
                .fold(None, |first, next| Some(more_hopeful(first, next)));
            found.unwrap().to_string()
        };
        let expected = corrupt().to_string();
        assert_eq!(all(vec![missing("a"), corrupt(), missing("b")]), expected);
        assert_eq!(all(vec![corrupt(), missing("a")]), expected);
        let first = missing("a").to_string();
        assert_eq!(all(vec![missing("a"), missing("b")]), first);
    }
}
