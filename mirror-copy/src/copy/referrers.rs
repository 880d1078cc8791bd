//! What refers to an image comes along: signatures, attestations, bills of materials.
//!
//! Two ways lead to it: manifests that name the image as their `subject` (distribution-spec, "Listing
//! Referrers", and its tag schema), and the tags that cosign makes of a digest. What cannot be copied for
//! good is reported and left out: an image must not be lost because its signature is odd.

mod by_subject;
mod by_tag;
mod digest_tag;
mod listed;

pub use digest_tag::DigestTag;
pub use listed::ListedReferrers;

use super::error::CopyError;
use super::job::Job;
use super::manifests::names_missing_parts;
use super::node::Node;
use super::progress::Event;
use super::referring::MAX_SUBJECTS;
use super::report::one_more;
use crate::error::RegistryError;
use crate::manifest::{self, Descriptor};
use crate::reference::TagOrDigest;
use crate::registry::{DigestTags, Manifest, Pushed};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::sync::atomic::Ordering;

/// How far it goes: the signature of a bill of materials of an image is two steps away.
const MAX_STEPS: usize = 3;

impl Job<'_> {
    /// Brings what refers to `root`, to the manifests that it names, and to what was found.
    pub(super) async fn copy_referrers(&self, root: &Manifest) -> Result<(), CopyError> {
        self.copy_all_about(&root.digest, subjects(root), false)
            .await
    }

    /// Brings what was attached to an image after it was copied: to the image itself, and to what is new. That never
    /// fails a copy that is complete.
    pub(super) async fn copy_late_referrers(&self, root: &Digest) {
        if !self.options.referrers || self.same_repository() {
            return;
        }
        self.sums.image_weighed();
        self.referring.root_is_there.store(true, Ordering::Relaxed);
        self.found_something.store(true, Ordering::Relaxed);
        let brought = self.copy_all_about(root, vec![root.clone()], true).await;
        if let Err(error) = brought {
            self.left_out(root, &error);
        }
    }

    /// Brings what the target refused while it did not have the image: Harbor before 2.8 accepts no signature without
    /// its subject. The image is complete already, so this does not fail its copy.
    pub(super) async fn copy_refused_referrers(&self, root: &Manifest) {
        self.referring.root_is_there.store(true, Ordering::Relaxed);
        if !self.referring.was_refused.swap(false, Ordering::Relaxed) {
            return;
        }
        self.found_something.store(true, Ordering::Relaxed);
        self.sums.forget_referrers();
        if let Err(error) = self.copy_referrers(root).await {
            self.left_out(&root.digest, &error);
        }
    }

    /// Brings what refers to these manifests and to what was found, or only to what was pushed now.
    async fn copy_all_about(
        &self,
        root: &Digest,
        mut subjects: Vec<Digest>,
        only_new: bool,
    ) -> Result<(), CopyError> {
        self.referring.forget_all();
        subjects.retain(|subject| self.referring.admit(subject));
        let tags = self.source.digest_tags().await;
        for _ in 0..MAX_STEPS {
            let mut working = FuturesUnordered::new();
            for subject in &subjects {
                working.push(self.copy_about(subject, subject == root, &tags));
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

    /// Pushes something that refers to the image. A target that wants the image first gets it again after the image; until
    /// then nothing is waited for, so that the image is not kept waiting.
    async fn push_referrer(
        &self,
        node: &Node,
        reference: &TagOrDigest,
    ) -> Result<Pushed, CopyError> {
        let root_is_there = self.referring.root_is_there.load(Ordering::Relaxed);
        let pushed = if root_is_there {
            self.push(node, reference).await?
        } else {
            let put = self.put(node, reference).await;
            put.map_err(|error| {
                if says_something_is_missing(&error) {
                    self.referring.was_refused.store(true, Ordering::Relaxed);
                }
                CopyError::Target(error)
            })?
        };
        self.sent.add(&node.manifest.digest);
        Ok(pushed)
    }

    /// Whether the target is known to have this manifest, and everything about it, since a short time.
    fn has_lately(&self, digest: &Digest) -> bool {
        let seen = self.target.registry().seen();
        self.trusts() && seen.lately(digest, self.target.name())
    }

    fn remember_manifest(&self, digest: &Digest) {
        let seen = self.target.registry().seen();
        seen.add(digest, self.target.name());
    }

    /// Brings what refers to one manifest; answers with what that is.
    async fn copy_about(
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

    /// Passing trouble fails the copy, which will be made again; what would fail for ever is left out.
    fn tolerate<T>(
        &self,
        subject: &Digest,
        result: Result<T, CopyError>,
    ) -> Result<Option<T>, CopyError> {
        let may_come_later = |error: &CopyError| {
            matches!(error, CopyError::Target(error) if says_something_is_missing(error))
                && self.referring.was_refused.load(Ordering::Relaxed)
        };
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if may_come_later(&error) => {
                tracing::debug!(%subject, %error, "pushed again after the image");
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
        tracing::debug!(%subject, %error, "what refers to the image is left out");
        if one_more(&self.tally.referrers_left_out) == 0 {
            tracing::warn!(%subject, %error, "something that refers to the image is left out");
        }
        self.progress
            .event(Event::ReferrerLeftOut { subject, error });
    }
}

/// Whether the target refused a manifest because it lacks what it was sent, more than once. Of an image that passes in
/// time; something odd that refers to it must not keep it waiting.
fn lacks_sent_parts(error: &CopyError) -> bool {
    matches!(error, CopyError::Target(error) if names_missing_parts(error))
}

/// Whether a target refused a manifest because of something that it does not have, such as its subject.
fn says_something_is_missing(error: &RegistryError) -> bool {
    error.status() == Some(404) || error.code() == Some("NOT_FOUND") || names_missing_parts(error)
}

/// The root and the images that it names. Attestations in an index are about images there; nothing is
/// about them.
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
