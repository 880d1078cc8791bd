//! Copies the referrers of an image: signatures, attestations, bills of materials.
//!
//! They are found in two ways: manifests that name the image as their `subject` (distribution-spec, "Listing Referrers" and
//! "Referrers Tag Schema"), and the digest tags of cosign. Permanent errors are reported and the referrer is left out: no
//! image is lost because of a malformed signature.

mod by_subject;
mod listed;

pub use listed::{DigestTag, ListedReferrers};

use super::copy_graph::CopyGraph;
use super::error::CopyError;
use super::job::{Job, MAX_SUBJECTS, Part};
use super::manifests::names_missing_parts;
use super::node::Node;
use super::progress::Event;
use super::referrers_tag;
use super::report::one_more;
use crate::error::RegistryError;
use crate::manifest::{self, Descriptor};
use crate::reference::TagOrDigest;
use crate::registries::common::DigestTags;
use crate::registry::{Located, Manifest, Pushed};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::sync::atomic::Ordering;

/// Maximum distance of a referrer from the image: the signature of a bill of materials is two steps away.
const MAX_STEPS: usize = 3;

/// Maximum number of digest tags of one manifest.
const MAX_TAGS: usize = 64;

impl Job<'_> {
    /// Copies the referrers of `root`, of its child manifests, and of the referrers themselves.
    pub(super) async fn copy_referrers(&self, root: &Manifest) -> Result<(), CopyError> {
        self.copy_referrers_of(&root.digest, subjects(root), false)
            .await
    }

    /// Copies the referrers that an image got after it was copied, and those of new referrers. The copy is complete already,
    /// so a failure is only reported.
    pub(super) async fn copy_late_referrers(&self, root: &Digest) {
        if !self.options.referrers || self.same_repository() {
            return;
        }
        self.sums.image_weighed();
        self.referrers
            .root_is_present
            .store(true, Ordering::Relaxed);
        self.target_has_parts.store(true, Ordering::Relaxed);
        let copied = self.copy_referrers_of(root, vec![root.clone()], true).await;
        if let Err(error) = copied {
            self.left_out(root, &error);
        }
    }

    /// Copies the referrers that the target refused while it did not have the image: Harbor before 2.8 accepts no signature
    /// without its subject. The image is complete already, so a failure is only reported.
    pub(super) async fn copy_refused_referrers(&self, root: &Manifest) {
        self.referrers
            .root_is_present
            .store(true, Ordering::Relaxed);
        if !self.referrers.was_refused.swap(false, Ordering::Relaxed) {
            return;
        }
        self.target_has_parts.store(true, Ordering::Relaxed);
        self.sums.reset_referrers();
        if let Err(error) = self.copy_referrers(root).await {
            self.left_out(&root.digest, &error);
        }
    }

    /// Copies the referrers of these manifests, and the referrers of those: of all, or only of those that were pushed now.
    async fn copy_referrers_of(
        &self,
        root: &Digest,
        mut subjects: Vec<Digest>,
        only_new: bool,
    ) -> Result<(), CopyError> {
        self.referrers.forget_all();
        subjects.retain(|subject| self.referrers.admit(subject));
        let tags = self.source.digest_tags().await;
        for _ in 0..MAX_STEPS {
            let mut working = FuturesUnordered::new();
            for subject in &subjects {
                working.push(self.copy_one_level(subject, subject == root, &tags));
            }
            let mut found = Vec::new();
            while let Some(done) = working.next().await {
                found.extend(done?);
            }
            drop(working);
            if only_new {
                found.retain(|digest| self.sent.contains(digest));
            }
            found.truncate(MAX_SUBJECTS);
            subjects = found;
        }
        Ok(())
    }

    /// Pushes a referrer. A target that requires the image first gets the referrer again after the image. Until then a
    /// refusal is not retried, so that the image does not wait.
    async fn push_referrer(
        &self,
        node: &Node,
        reference: &TagOrDigest,
    ) -> Result<Pushed, CopyError> {
        let root_is_present = self.referrers.root_is_present.load(Ordering::Relaxed);
        let pushed = if root_is_present {
            self.push(node, reference).await?
        } else {
            let put = self.put(node, reference).await;
            put.map_err(|error| {
                if is_about_missing_content(&error) {
                    self.referrers.was_refused.store(true, Ordering::Relaxed);
                }
                CopyError::Target(error)
            })?
        };
        self.sent.add(&node.manifest.digest);
        Ok(pushed)
    }

    /// Returns whether the target was seen to have this referrer, and its referrers, within the last minutes.
    fn was_copied_recently(&self, digest: &Digest) -> bool {
        let locations = self.target.registry().blob_locations();
        self.trusts_target() && locations.was_seen_recently(digest, self.target.name())
    }

    fn remember_manifest(&self, digest: &Digest) {
        let locations = self.target.registry().blob_locations();
        locations.add(digest, self.target.name());
    }

    /// Copies the referrers of one manifest and returns their digests.
    async fn copy_one_level(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, CopyError> {
        let (by_subject, by_tag) = tokio::try_join!(
            self.copy_by_subject(subject, is_root, tags),
            self.copy_by_tag(subject, is_root, tags)
        )?;
        Ok([by_subject, by_tag].concat())
    }

    fn referrer_done(&self, subject: &Digest, node: &Node) {
        one_more(&self.tally.referrers);
        let digest = &node.manifest.digest;
        self.progress
            .event(Event::ReferrerCopied { subject, digest });
    }

    /// Fails the copy for a transient error, since the copy is repeated; after a permanent one the referrer is left out.
    fn tolerate<T>(
        &self,
        subject: &Digest,
        result: Result<T, CopyError>,
    ) -> Result<Option<T>, CopyError> {
        let may_come_later = |error: &CopyError| {
            matches!(error, CopyError::Target(error) if is_about_missing_content(error))
                && self.referrers.was_refused.load(Ordering::Relaxed)
        };
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if may_come_later(&error) => {
                tracing::debug!(%subject, %error, "referrer refused; pushing it again after the image");
                Ok(None)
            }
            Err(error) if error.retry().is_transient() && !lacks_sent_parts(&error) => Err(error),
            Err(error) => {
                self.left_out(subject, &error);
                Ok(None)
            }
        }
    }

    fn left_out(&self, subject: &Digest, error: &CopyError) {
        tracing::debug!(%subject, %error, "left out a referrer");
        if one_more(&self.tally.referrers_left_out) == 0 {
            tracing::warn!(%subject, %error, "left out a referrer; further ones of this image are logged at debug");
        }
        self.progress
            .event(Event::ReferrerLeftOut { subject, error });
    }

    /// Copies the manifests with a tag made of this digest, except the referrers tag: it is a list that each side keeps
    /// itself.
    async fn copy_by_tag(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, CopyError> {
        let stem = referrers_tag::tag(subject);
        let wanted: Vec<String> = match tags {
            Some(tags) => {
                let ignored = self.options.ignored_digest_tag.map(|tag| tag(subject));
                let is_wanted = |tag: &&String| {
                    tag.strip_prefix(&stem).is_some_and(is_suffix) && Some(*tag) != ignored.as_ref()
                };
                let wanted = tags.iter().filter(is_wanted).take(MAX_TAGS);
                wanted.cloned().collect()
            }
            // Looked up one by one where tags cannot be listed.
            None if is_root => DigestTag::OF_COSIGN.map(|tag| tag.name(subject)).into(),
            None => Vec::new(),
        };
        let mut working = FuturesUnordered::new();
        for tag in wanted {
            working.push(async move {
                let _permit = self.referrers.permits.acquire().await;
                let copied = Box::pin(self.copy_tagged(subject, tag)).await;
                self.tolerate(subject, copied)
            });
        }
        let mut copied = Vec::new();
        while let Some(done) = working.next().await {
            copied.extend(done?.flatten());
        }
        Ok(copied)
    }

    async fn copy_tagged(
        &self,
        subject: &Digest,
        tag: String,
    ) -> Result<Option<Digest>, CopyError> {
        let reference = TagOrDigest::Tag(tag);
        let (source, target) = tokio::try_join!(
            async {
                let found = self.source.locate(&reference).await;
                found.map_err(CopyError::Source)
            },
            self.locate_at_target(Some(&reference))
        )?;
        let Some(Located { resolved, manifest }) = source else {
            return Ok(None);
        };
        let digest = resolved.digest;
        let same = target.is_some_and(|present| present.resolved.digest == digest);
        if !(same && self.trusts_target()) {
            self.reserve(Part::Referrers, &digest, resolved.size)?;
            let manifest = if let Some(manifest) = manifest {
                manifest
            } else {
                let by_digest = TagOrDigest::Digest(digest.clone());
                let manifest = self.source.manifest(&by_digest).await;
                manifest.map_err(CopyError::Source)?
            };
            let lease = self.hold(Part::Referrers, &manifest, resolved.size).await?;
            let node = CopyGraph::of_referrer(self).run(manifest, lease).await?;
            self.push_referrer(&node, &reference).await?;
            self.referrer_done(subject, &node);
        }
        Ok(self.referrers.admit(&digest).then_some(digest))
    }
}

/// Returns whether the target repeatedly refused a manifest because it lacks parts that it was sent. For an image that ends
/// in time; an image does not wait for that of a referrer.
fn lacks_sent_parts(error: &CopyError) -> bool {
    matches!(error, CopyError::Target(error) if names_missing_parts(error))
}

/// Returns whether a target refused a manifest because it lacks something, such as its subject.
fn is_about_missing_content(error: &RegistryError) -> bool {
    error.status() == Some(404) || error.code() == Some("NOT_FOUND") || names_missing_parts(error)
}

/// Returns the root and the images that it names, without the attestations in an index: they have no referrers.
fn subjects(root: &Manifest) -> Vec<Digest> {
    let children = manifest::read(&root.bytes, &root.media_type)
        .map(|contents| contents.children)
        .unwrap_or_default();
    let is_image = |child: &Descriptor| child.annotations.describes.is_none();
    let children = children.into_iter().filter(is_image);
    std::iter::once(root.digest.clone())
        .chain(children.map(|child| child.digest))
        .take(MAX_SUBJECTS)
        .collect()
}

/// Returns whether this is the rest of a digest tag behind the digest, such as `.sig`.
fn is_suffix(rest: &str) -> bool {
    rest.len() > 1 && rest.starts_with('.')
}
