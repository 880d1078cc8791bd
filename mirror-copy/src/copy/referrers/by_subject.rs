//! Manifests that name an image as their `subject`.

use super::super::Job;
use super::super::children::{Child, Found};
use super::super::closure::Closure;
use super::super::error::CopyError;
use super::super::fallback;
use super::super::limits::{PER_OBJECT, Part};
use crate::reference::TagOrDigest;
use crate::registries::Lease;
use crate::registry::{DigestTags, Referrer, ReferrerList};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;

impl Job<'_> {
    /// Brings the referrers of one manifest; answers with them.
    pub(super) async fn bring_by_subject(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, CopyError> {
        let mut referrers = self.find_referrers(subject, is_root, tags).await;
        referrers.retain(|referrer| self.referring.admit(&referrer.descriptor.digest));
        let _held = self.hold_list(subject, &mut referrers).await?;
        let mut working = FuturesUnordered::new();
        for referrer in &referrers {
            working.push(self.bring_referrer(subject, referrer));
        }
        let (mut brought, mut unlisted, mut failed) = (Vec::new(), Vec::new(), None);
        while let Some(done) = working.next().await {
            match done {
                Ok(None) => {}
                Ok(Some((referrer, listed))) => {
                    brought.push(referrer.descriptor.digest.clone());
                    if !listed {
                        unlisted.push(referrer.clone());
                    }
                }
                // What has arrived is listed all the same: the next try finds it there and goes past it.
                Err(error) => failed = Some(error),
            }
        }
        if !unlisted.is_empty() {
            let listed = fallback::list(&self.target, subject, &unlisted).await;
            self.tolerate(subject, listed.map_err(CopyError::Target))?;
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(brought),
        }
    }

    /// The referrers of a manifest, as the API or the fallback tag lists them. A source that cannot list
    /// them, even after all attempts, has none.
    async fn find_referrers(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Vec<Referrer> {
        let _turn = self.referring.turns.acquire().await;
        let failed = match self.source.referrers(subject).await {
            Ok(Some(list)) => return self.usable(subject, list),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let tag = fallback::tag(subject);
        let found = match failed {
            Some(error) => Err(error),
            None if is_worth_asking(&tag, is_root, tags) => {
                fallback::read(&self.source, &tag).await
            }
            None => Ok(None),
        };
        match found {
            Ok(None) => Vec::new(),
            Ok(Some(list)) => self.usable(subject, list),
            Err(error) => {
                self.left_out(subject, &CopyError::Source(error));
                Vec::new()
            }
        }
    }

    /// The entries of a list that can be used. What is left out is reported once, however much it is.
    fn usable(&self, subject: &Digest, list: ReferrerList) -> Vec<Referrer> {
        let ReferrerList {
            referrers,
            unusable,
            is_cut,
        } = list;
        if unusable > 0 {
            let object = self.source.object(&format!("@{subject}"));
            let count = unusable;
            self.left_out(subject, &CopyError::UnusableReferrers { object, count });
        } else if is_cut {
            let limit =
                "its list of referrers has more than 1000 entries, 256 KiB of them, or 64 pages";
            self.left_out(subject, &self.beyond(subject, limit));
        }
        referrers
    }

    /// Waits for memory for the entries of a list, as many of them as may be held.
    async fn hold_list(
        &self,
        subject: &Digest,
        referrers: &mut Vec<Referrer>,
    ) -> Result<Lease, CopyError> {
        let mut bytes = 0;
        let mut fit = 0;
        for referrer in referrers.iter() {
            let size = referrer.entry.len() as u64 + PER_OBJECT;
            if let Err(error) = self.reserve(Part::Referrers, subject, size) {
                self.left_out(subject, &error);
                break;
            }
            bytes += size;
            fit += 1;
        }
        referrers.truncate(fit);
        let mut lease = self.reservation.lease();
        self.grow(&mut lease, bytes, subject).await?;
        Ok(lease)
    }

    /// Brings one referrer. Answers with it, and whether the target lists it by itself.
    async fn bring_referrer<'r>(
        &self,
        subject: &Digest,
        referrer: &'r Referrer,
    ) -> Result<Option<(&'r Referrer, bool)>, CopyError> {
        let _turn = self.referring.turns.acquire().await;
        let child = Child {
            descriptor: referrer.descriptor.clone(),
            parent: subject.clone(),
            depth: 1,
        };
        let work = async {
            match self.find(&child, Part::Referrers).await? {
                // Somebody may have pushed it and not lived to list it.
                Found::Present => self.lists_by_itself(subject).await,
                Found::LeftOut | Found::Blob => Err(CopyError::SourceIncomplete {
                    parent: subject.clone(),
                    missing: referrer.descriptor.digest.clone(),
                }),
                Found::Manifest(manifest, lease) => {
                    let node = Closure::of_referrer(self).bring(manifest, lease).await?;
                    let by_digest = TagOrDigest::Digest(node.manifest.digest.clone());
                    let pushed = self.push(&node, &by_digest).await?;
                    self.referrer_done(subject, &node);
                    Ok(pushed.subject_known || node.subject.is_none())
                }
            }
        };
        let listed = self.tolerate(subject, Box::pin(work).await)?;
        Ok(listed.map(|listed| (referrer, listed)))
    }

    /// Whether the target has the referrers API.
    async fn lists_by_itself(&self, subject: &Digest) -> Result<bool, CopyError> {
        match self.target.referrers(subject).await {
            Ok(listed) => Ok(listed.is_some()),
            Err(error) if error.retry().is_transient() => Err(CopyError::Target(error)),
            Err(_) => Ok(false),
        }
    }
}

/// A tag that is listed is there. Where tags cannot be listed, only the root is worth a request.
fn is_worth_asking(tag: &str, is_root: bool, tags: &DigestTags) -> bool {
    match tags {
        Some(tags) => tags.iter().any(|other| other == tag),
        None => is_root,
    }
}
