//! What refers to an image comes along: signatures, attestations, bills of materials.
//!
//! Two ways lead to it: manifests that name the image as their `subject` (distribution-spec, "Listing
//! Referrers", and its tag schema), and the tags that cosign makes of a digest. What cannot be copied for
//! good is reported and left out: an image must not be lost because its signature is odd.

use super::Job;
use super::children::{Child, Found};
use super::closure::Closure;
use super::error::CopyError;
use super::fallback;
use super::node::Node;
use super::progress::Event;
use super::report::one_more;
use crate::manifest::{self, Descriptor};
use crate::reference::TagOrDigest;
use crate::registry::{DigestTags, Located, Manifest, Referrer};
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

/// Most digest tags about one manifest.
const MAX_TAGS: usize = 64;

/// Referrers, and lists of them, that are read at once.
const AT_ONCE: usize = 12;

/// What cosign appends to the tag of a digest, looked for one by one where tags cannot be listed.
const SUFFIXES: [&str; 3] = [".sig", ".att", ".sbom"];

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

    async fn bring_by_subject(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, CopyError> {
        let mut referrers = self.find_referrers(subject, is_root, tags).await;
        referrers.retain(|referrer| self.referring.admit(&referrer.descriptor.digest));
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
            Ok(Some(found)) => return found,
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
            Ok(found) => {
                let mut found = found.map(|(_, referrers)| referrers).unwrap_or_default();
                found.truncate(MAX_REFERRERS);
                found
            }
            Err(error) => {
                self.left_out(subject, &CopyError::Source(error));
                Vec::new()
            }
        }
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
            match self.find(&child).await? {
                // Somebody may have pushed it and not lived to list it.
                Found::Present => Ok(self.lists_by_itself(subject).await),
                Found::LeftOut | Found::Blob => Err(CopyError::SourceIncomplete {
                    parent: subject.clone(),
                    missing: referrer.descriptor.digest.clone(),
                }),
                Found::Manifest(manifest) => {
                    let node = Closure::new(self).bring(manifest).await?;
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
    async fn lists_by_itself(&self, subject: &Digest) -> bool {
        matches!(self.target.referrers(subject).await, Ok(Some(_)))
    }

    /// Brings what has a tag made of this digest. The fallback tag is not among it: it is a list, kept at
    /// either side for itself.
    async fn bring_by_tag(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, CopyError> {
        let stem = fallback::tag(subject);
        let wanted: Vec<String> = match tags {
            Some(tags) => {
                let about = |tag: &&String| tag.strip_prefix(&stem).is_some_and(is_suffix);
                tags.iter().filter(about).take(MAX_TAGS).cloned().collect()
            }
            None if is_root => SUFFIXES.iter().map(|end| format!("{stem}{end}")).collect(),
            None => Vec::new(),
        };
        let mut working = FuturesUnordered::new();
        for tag in wanted {
            working.push(async move {
                let _turn = self.referring.turns.acquire().await;
                let brought = Box::pin(self.bring_tagged(subject, tag)).await;
                self.tolerate(subject, brought)
            });
        }
        let mut brought = Vec::new();
        while let Some(done) = working.next().await {
            brought.extend(done?.flatten());
        }
        Ok(brought)
    }

    async fn bring_tagged(
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
            self.tagged(Some(&reference))
        )?;
        let Some(Located { resolved, manifest }) = source else {
            return Ok(None);
        };
        let digest = resolved.digest;
        let same = target.is_some_and(|there| there.resolved.digest == digest);
        if !(same && self.trusts()) {
            self.reserve(&digest, resolved.size)?;
            let manifest = if let Some(manifest) = manifest {
                manifest
            } else {
                let by_digest = TagOrDigest::Digest(digest.clone());
                let manifest = self.source.manifest(&by_digest).await;
                manifest.map_err(CopyError::Source)?
            };
            let node = Closure::new(self).bring(manifest).await?;
            self.push(&node, &reference).await?;
            self.referrer_done(subject, &node);
        }
        Ok(self.referring.admit(&digest).then_some(digest))
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
            Err(error) if error.retry().is_transient() => Err(error),
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

/// A tag that is listed is there. Where tags cannot be listed, only the root is worth a request.
fn is_worth_asking(tag: &str, is_root: bool, tags: &DigestTags) -> bool {
    match tags {
        Some(tags) => tags.iter().any(|other| other == tag),
        None => is_root,
    }
}

/// What follows a digest in a tag about it. The mirror's own anchors are no statements about an image.
fn is_suffix(end: &str) -> bool {
    end.len() > 1 && end.starts_with('.') && end != ".mirror"
}
