//! Manifests that name an image as their `subject`.

use super::super::child_manifests::{Child, Found};
use super::super::copy_graph::CopyGraph;
use super::super::error::CopyError;
use super::super::job::Job;
use super::super::limits::{PER_OBJECT, Part};
use super::super::referrers_tag;
use crate::error::RegistryError;
use crate::manifest;
use crate::reference::TagOrDigest;
use crate::registries::Lease;
use crate::registry::{DigestTags, Manifest, Referrer, ReferrerList};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

impl Job<'_> {
    /// Brings the referrers of one manifest; answers with them.
    pub(super) async fn copy_by_subject(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, CopyError> {
        let mut referrers = self.find_referrers(subject, is_root, tags).await;
        if !referrers.is_empty() && self.referring.root_is_there.load(Ordering::Relaxed) {
            // Most of them were copied earlier; one request lists those.
            let listed = self.listed_at_target(subject).await;
            referrers.retain(|referrer| !listed.contains(&referrer.descriptor.digest));
        }
        referrers.retain(|referrer| self.referring.admit(&referrer.descriptor.digest));
        let _held = self.hold_list(subject, &mut referrers).await?;
        let mut working = FuturesUnordered::new();
        for referrer in &referrers {
            working.push(self.copy_referrer(subject, referrer));
        }
        let (mut brought, mut unlisted, mut unknown, mut failed) =
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
                    brought.push(digest);
                }
                // What has arrived is listed all the same: the next try finds it there and goes past it.
                Err(error) => failed = Some(error),
            }
        }
        if !unlisted.is_empty() || !unknown.is_empty() {
            let listed = self.list_at_target(subject, unlisted, unknown).await;
            let listed = self.tolerate(subject, listed.map_err(CopyError::Target))?;
            for digest in listed.iter().flat_map(|()| &brought) {
                self.remember_manifest(digest);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(brought),
        }
    }

    /// The referrers that the target lists; none if it cannot list them.
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
        let tag = referrers_tag::tag(subject);
        let found = match failed {
            Some(error) => Err(error),
            None if is_worth_asking(&tag, is_root, tags) => {
                referrers_tag::read(&self.source, subject).await
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

    /// Puts referrers into the list that clients keep at the target, each described by its own manifest.
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

    /// Brings one referrer. Answers with its digest, and how the target lists it.
    async fn copy_referrer(
        &self,
        subject: &Digest,
        referrer: &Referrer,
    ) -> Result<Option<(Digest, Listing)>, CopyError> {
        let _turn = self.referring.turns.acquire().await;
        let digest = &referrer.descriptor.digest;
        if self.has_lately(digest) {
            return Ok(Some((digest.clone(), Listing::Listed)));
        }
        let child = Child {
            descriptor: referrer.descriptor.clone(),
            parent: subject.clone(),
            depth: 1,
        };
        let work = async {
            match self.find(&child, Part::Referrers).await? {
                // Somebody may have pushed it and not lived to list it.
                Found::Present if self.lists_by_itself(subject).await? => Ok(Listing::Listed),
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
                    let node = CopyGraph::of_referrer(self)
                        .copy_closure(manifest, lease)
                        .await?;
                    let by_digest = TagOrDigest::Digest(node.manifest.digest.clone());
                    let pushed = self.push_referrer(&node, &by_digest).await?;
                    self.referrer_done(subject, &node);
                    if pushed.subject_known || node.subject.is_none() {
                        return Ok(Listing::Listed);
                    }
                    // A source's list may lack the artifact type and annotations, or give a wrong size.
                    let entry = referrers_tag::describe(&node.manifest, &node.media_type);
                    let entry = entry.unwrap_or_else(|| referrer.clone());
                    Ok(Listing::Missing(Box::new(entry)))
                }
            }
        };
        let listing = self.tolerate(subject, Box::pin(work).await)?;
        Ok(listing.map(|listing| (digest.clone(), listing)))
    }

    /// Whether the target has the referrers API.
    async fn lists_by_itself(&self, subject: &Digest) -> Result<bool, CopyError> {
        match self.target.referrers(subject).await {
            Ok(listed) => Ok(listed.is_some()),
            // A list that does not come in time is not waited for.
            Err(RegistryError::Timeout { .. }) => Ok(false),
            Err(error) if error.retry().is_transient() => Err(CopyError::Target(error)),
            Err(_) => Ok(false),
        }
    }
}

/// Whether a manifest says that its subject is another one than `subject`.
fn refers_to_another(manifest: &Manifest, subject: &Digest) -> bool {
    let contents = manifest::read(&manifest.bytes, &manifest.media_type);
    contents.is_ok_and(|contents| contents.subject.is_some_and(|of| of != *subject))
}

/// How the target lists a referrer that it has.
enum Listing {
    Listed,
    /// It needs this entry in the list that clients keep.
    Missing(Box<Referrer>),
    /// It may need one.
    Unknown,
}

/// A tag that is listed is there. Where tags cannot be listed, only the root is worth a request.
fn is_worth_asking(tag: &str, is_root: bool, tags: &DigestTags) -> bool {
    match tags {
        Some(tags) => tags.iter().any(|other| other == tag),
        None => is_root,
    }
}
