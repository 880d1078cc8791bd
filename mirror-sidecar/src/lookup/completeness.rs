//! Checks of the parts of a copy, for lookups and for images in use.

use std::time::Duration;

use mirror_contract::{Digest, ImageRef};
use mirror_copy::{Completeness, ImageContents, RegistryError, Resolved, TagOrDigest};
use tokio::time::{Instant, timeout};

use super::parts::{Pacing, PartsPlan, Turn};
use super::{LOOKUP_WITHIN, Lookup, Unseen};
use crate::copy_queue::Task;
use crate::locations::{anchor, engine_digest};

/// How long a lookup waits for the check of configs and layers, which then continues in the background: for a copy that
/// this process has not checked yet, and for one that was complete at its last check.
const FIRST_CHECK_WITHIN: Duration = Duration::from_secs(2);
const RECHECK_WITHIN: Duration = Duration::from_millis(250);

impl Lookup {
    /// Checks the parts of the copy of an image in use. The last request is sent before `until`. Also returns the contents of
    /// the copy, if all of it was read.
    pub(crate) async fn check_parts_until(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        digest: &Digest<'static>,
        plan: PartsPlan,
        until: Instant,
    ) -> Result<(Completeness, Option<ImageContents>), RegistryError> {
        let Some(digest) = engine_digest(digest) else {
            return Ok((Completeness::Complete { next: None }, None));
        };
        let root = Resolved {
            digest,
            media_type: String::new(),
            size: 0,
        };
        let pacing = Pacing::InUse(until);
        let checked = self.parts.check_contents(copy.path(), &root, plan, pacing);
        let (found, contents) = checked.await?;
        if let Completeness::Missing(part) = &found {
            self.parts
                .report_missing(image, copy.path(), &root.digest, part)
                .await;
            self.seen.invalidate(image).await;
        }
        Ok((found, contents))
    }

    /// Checks the parts of a copy as far as time allows. Parts that could not be checked in time count as present, unless the
    /// copy is known to lack something, such as its anchor, which is written before the tag.
    pub(super) async fn has_parts(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        root: Resolved,
    ) -> Result<bool, Unseen> {
        let repository = copy.path().to_owned();
        let was_incomplete = self.parts.is_incomplete(&repository, &root.digest);
        let was_whole = self.parts.was_whole(&repository, &root.digest);
        let Some(permit) = self.parts.permit() else {
            return Ok(!was_incomplete);
        };
        let (lookup, image) = (self.clone(), image.clone());
        let anchor = copy.digest().is_none().then(|| anchor(&root.digest));
        let check = async move {
            let plan = |turn| PartsPlan { turn, skip: 0 };
            let nothing = plan(Turn::Nothing);
            let manifests = lookup
                .parts
                .check(&repository, &root, nothing, Pacing::Immediate);
            let anchor = lookup.lacks_anchor(&repository, anchor, &root.digest);
            let (manifests, lacks_anchor) = tokio::join!(manifests, anchor);
            let is_in_doubt = was_incomplete || lacks_anchor;
            match manifests {
                Ok(Completeness::Complete { .. } | Completeness::Unfinished { .. }) => {}
                found => {
                    let is_there = lookup
                        .parts_checked(&image, &repository, &root.digest, found, was_incomplete)
                        .await;
                    return Ok(is_there);
                }
            }
            let rest = tokio::spawn(async move {
                let _permit = permit;
                let everything = plan(Turn::Everything);
                let found = lookup
                    .parts
                    .check(&repository, &root, everything, Pacing::Lookup)
                    .await;
                let is_there = lookup
                    .parts_checked(&image, &repository, &root.digest, found, was_incomplete)
                    .await;
                if !is_there {
                    lookup.seen.invalidate(&image).await;
                }
                is_there
            });
            let patience = if is_in_doubt {
                LOOKUP_WITHIN
            } else if was_whole {
                RECHECK_WITHIN
            } else {
                FIRST_CHECK_WITHIN
            };
            match timeout(patience, rest).await {
                Ok(Ok(is_there)) => Ok(is_there),
                _ if is_in_doubt => Err(Unseen::TooSlow),
                _ => Ok(true),
            }
        };
        let result = timeout(LOOKUP_WITHIN, check).await;
        result.unwrap_or(Err(Unseen::TooSlow))
    }

    /// Returns whether the copy has no anchor, or one with another digest. An anchor that cannot be checked counts as present.
    async fn lacks_anchor(
        &self,
        repository: &str,
        anchor: Option<String>,
        digest: &mirror_copy::Digest,
    ) -> bool {
        let Some(anchor) = anchor else { return false };
        let reference = TagOrDigest::Tag(anchor);
        let found = self.registry.resolve_to_write(repository, &reference);
        found
            .await
            .is_ok_and(|found| found.is_none_or(|found| found.digest != *digest))
    }

    /// Returns whether the copy is complete as far as is known, and requests it again if not.
    async fn parts_checked(
        &self,
        image: &ImageRef<'static>,
        repository: &str,
        digest: &mirror_copy::Digest,
        found: Result<Completeness, RegistryError>,
        was_incomplete: bool,
    ) -> bool {
        match found {
            Ok(Completeness::Complete { .. }) => true,
            Ok(Completeness::Unfinished { .. }) => !was_incomplete,
            Ok(Completeness::Missing(part)) => {
                self.parts
                    .report_missing(image, repository, digest, &part)
                    .await;
                self.request(image, Task::Restore);
                false
            }
            Err(error) => {
                tracing::debug!(%image, %error, "cannot check the parts of a copy");
                !was_incomplete
            }
        }
    }
}
