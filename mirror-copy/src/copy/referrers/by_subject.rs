//! Referrers that name an image as their `subject` (distribution-spec, "Listing Referrers").

use super::super::copy_graph::{Child, CopyGraph, Found};
use super::super::error::CopyError;
use super::super::job::{Job, PER_OBJECT, Part};
use super::super::referrers_tag;
use crate::error::RegistryError;
use crate::manifest;
use crate::reference::TagOrDigest;
use crate::registries::common::DigestTags;
use crate::registries::metadata_budget::Lease;
use crate::registry::{Manifest, Referrer, ReferrerList};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

impl Job<'_> {
    /// Copies the referrers of one manifest and returns their digests.
    pub(super) async fn copy_by_subject(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, CopyError> {
        let mut referrers = self.find_referrers(subject, is_root, tags).await;
        if !referrers.is_empty() && self.referrers.root_is_present.load(Ordering::Relaxed) {
            // Most of them were copied earlier; one request lists them.
            let listed = self.listed_at_target(subject).await;
            referrers.retain(|referrer| !listed.contains(&referrer.descriptor.digest));
        }
        referrers.retain(|referrer| self.referrers.admit(&referrer.descriptor.digest));
        let _held = self.hold_list(subject, &mut referrers).await?;
        let mut working = FuturesUnordered::new();
        for referrer in &referrers {
            working.push(self.copy_referrer(subject, referrer));
        }
        let (mut copied, mut unlisted, mut unknown, mut failed) =
            (Vec::new(), Vec::new(), Vec::new(), None);
        while let Some(done) = working.next().await {
            match done {
                Ok(None) => {}
                Ok(Some((digest, listing))) => {
                    match listing {
                        Listing::Listed => self.remember_manifest(&digest),
                        Listing::Missing(entry) => unlisted.push(*entry),
                        Listing::Unknown => unknown.push(digest.clone()),
                    }
                    copied.push(digest);
                }
                // Referrers that were pushed are listed all the same: the next attempt finds and skips them.
                Err(error) => failed = Some(error),
            }
        }
        if !unlisted.is_empty() || !unknown.is_empty() {
            let listed = self.list_at_target(subject, unlisted, unknown).await;
            let listed = self.tolerate(subject, listed.map_err(CopyError::Target))?;
            for digest in listed.iter().flat_map(|()| &copied) {
                self.remember_manifest(digest);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(copied),
        }
    }

    /// Returns the referrers that the target lists; none if it cannot list them.
    async fn listed_at_target(&self, subject: &Digest) -> HashSet<Digest> {
        let list = match self.target.referrers(subject).await {
            Ok(Some(list)) => Ok(Some(list)),
            Ok(None) => referrers_tag::read(&self.target, subject).await,
            Err(error) => Err(error),
        };
        let list = list.unwrap_or_else(|error| {
            tracing::debug!(%subject, %error, "the target does not list its referrers");
            None
        });
        let referrers = list.into_iter().flat_map(|list| list.referrers);
        referrers
            .map(|referrer| referrer.descriptor.digest)
            .collect()
    }

    /// Returns the referrers that the API or the referrers tag of the source lists. A source that cannot list them, even
    /// after all retries, counts as having none.
    async fn find_referrers(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Vec<Referrer> {
        let _permit = self.referrers.permits.acquire().await;
        let found = match self.source.referrers(subject).await {
            Ok(None) if may_have_tag(&referrers_tag::tag(subject), is_root, tags) => {
                referrers_tag::read(&self.source, subject).await
            }
            found => found,
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

    /// Returns the usable entries of a list. Those that are left out are reported once, whatever their number.
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

    /// Waits for memory for the entries of a list, and drops those beyond the limit.
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

    /// Adds referrers to the list that clients keep at the target, each described by its own manifest.
    async fn list_at_target(
        &self,
        subject: &Digest,
        mut unlisted: Vec<Referrer>,
        unknown: Vec<Digest>,
    ) -> Result<(), RegistryError> {
        if !unknown.is_empty() {
            for digest in referrers_tag::missing(&self.target, subject, unknown).await? {
                let manifest = self.target.manifest(&TagOrDigest::Digest(digest)).await?;
                unlisted.extend(referrers_tag::describe(&manifest, &manifest.media_type));
            }
        }
        if unlisted.is_empty() {
            return Ok(());
        }
        referrers_tag::list(&self.target, subject, &unlisted).await
    }

    /// Copies one referrer. Returns its digest, and how the target lists it.
    async fn copy_referrer(
        &self,
        subject: &Digest,
        referrer: &Referrer,
    ) -> Result<Option<(Digest, Listing)>, CopyError> {
        let _permit = self.referrers.permits.acquire().await;
        let digest = &referrer.descriptor.digest;
        if self.was_copied_recently(digest) {
            return Ok(Some((digest.clone(), Listing::Listed)));
        }
        let child = Child {
            descriptor: referrer.descriptor.clone(),
            parent: subject.clone(),
            depth: 1,
        };
        let work = async {
            match self.find_child(&child, Part::Referrers).await? {
                // Another client may have pushed it and crashed before listing it.
                Found::Present if self.has_referrers_api(subject).await? => Ok(Listing::Listed),
                Found::Present => Ok(Listing::Unknown),
                Found::LeftOut | Found::Blob => Err(CopyError::SourceIncomplete {
                    parent: subject.clone(),
                    missing: digest.clone(),
                }),
                Found::Manifest(manifest, _) if refers_to_another(&manifest, subject) => {
                    Err(CopyError::OtherSubject {
                        object: self.source.object(&format!("@{digest}")),
                        subject: subject.clone(),
                    })
                }
                Found::Manifest(manifest, lease) => {
                    let node = CopyGraph::of_referrer(self).run(manifest, lease).await?;
                    let by_digest = TagOrDigest::Digest(node.manifest.digest.clone());
                    let pushed = self.push_referrer(&node, &by_digest).await?;
                    self.referrer_done(subject, &node);
                    if pushed.subject_known || node.subject.is_none() {
                        return Ok(Listing::Listed);
                    }
                    // The list of the source may lack the artifact type and annotations, or have a wrong size.
                    let entry = referrers_tag::describe(&node.manifest, &node.media_type);
                    let entry = entry.unwrap_or_else(|| referrer.clone());
                    Ok(Listing::Missing(Box::new(entry)))
                }
            }
        };
        let listing = self.tolerate(subject, Box::pin(work).await)?;
        Ok(listing.map(|listing| (digest.clone(), listing)))
    }

    async fn has_referrers_api(&self, subject: &Digest) -> Result<bool, CopyError> {
        match self.target.referrers(subject).await {
            Ok(listed) => Ok(listed.is_some()),
            // A list that is not received in time counts as absent.
            Err(RegistryError::Timeout { .. }) => Ok(false),
            Err(error) if error.retry().is_transient() => Err(CopyError::Target(error)),
            Err(_) => Ok(false),
        }
    }
}

fn refers_to_another(manifest: &Manifest, subject: &Digest) -> bool {
    let contents = manifest::read(&manifest.bytes, &manifest.media_type);
    contents.is_ok_and(|contents| contents.subject.is_some_and(|of| of != *subject))
}

/// State of a pushed referrer in the list of the target.
enum Listing {
    Listed,
    /// This entry must be added to the list that clients keep.
    Missing(Box<Referrer>),
    /// An entry may have to be added.
    Unknown,
}

/// Where tags cannot be listed, only the root is worth a request.
fn may_have_tag(tag: &str, is_root: bool, tags: &DigestTags) -> bool {
    match tags {
        Some(tags) => tags.iter().any(|other| other == tag),
        None => is_root,
    }
}
