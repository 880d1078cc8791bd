//! What refers to an image comes along: signatures, attestations, bills of materials.
//!
//! Two ways lead to it: manifests that name the image as their `subject` (distribution-spec, "Listing
//! Referrers", and its tag schema), and the tags that cosign makes of a digest. What cannot be copied for
//! good is reported and left out: an image must not be lost because its signature is odd.

mod by_subject;
mod by_tag;

use super::Job;
use super::error::CopyError;
use super::manifests::names_missing_parts;
use super::node::Node;
use super::progress::Event;
use super::report::one_more;
use crate::manifest::{self, Descriptor};
use crate::registry::{DigestTags, Manifest};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// How far it goes: the signature of a bill of materials of an image is two steps away.
const MAX_STEPS: usize = 3;

/// Most manifests of one copy whose referrers are looked for.
const MAX_SUBJECTS: usize = 256;

/// Most referrers and digest tags of one copy. An image has a handful.
const MAX_REFERRERS: usize = 1000;

/// Referrers, and lists of them, that are read at once.
const AT_ONCE: usize = 12;

/// What one copy knows of its referrers.
pub(super) struct Referring {
    /// Everything that was brought, or whose referrers were looked for: each is brought once.
    known: Mutex<HashSet<Digest>>,
    turns: Semaphore,
}

impl Default for Referring {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }
}

impl Referring {
    /// Whether this is new, and one copy may have one more.
    fn admit(&self, digest: &Digest) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.len() < MAX_SUBJECTS + MAX_REFERRERS && known.insert(digest.clone())
    }

    fn forget_all(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }
}

impl Job<'_> {
    /// Brings what refers to `root`, to the manifests that it names, and to what was found.
    pub(super) async fn bring_referrers(&self, root: &Manifest) -> Result<(), CopyError> {
        self.referring.forget_all();
        let mut subjects = subjects(root);
        subjects.retain(|subject| self.referring.admit(subject));
        let tags = self.source.digest_tags().await;
        for _ in 0..MAX_STEPS {
            let mut working = FuturesUnordered::new();
            for subject in &subjects {
                working.push(self.bring_about(subject, *subject == root.digest, &tags));
            }
            let mut found = Vec::new();
            while let Some(done) = working.next().await {
                found.extend(done?);
            }
            drop(working);
            found.truncate(MAX_SUBJECTS);
            subjects = found;
        }
        Ok(())
    }

    /// Brings what refers to one manifest; answers with what that is.
    async fn bring_about(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, CopyError> {
        let (by_subject, by_tag) = tokio::try_join!(
            self.bring_by_subject(subject, is_root, tags),
            self.bring_by_tag(subject, is_root, tags)
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
        match result {
            Ok(value) => Ok(Some(value)),
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
