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
use crate::registry::{DigestTags, Manifest, Referrer};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;

/// How far it goes: the signature of a bill of materials of an image is two steps away.
const MAX_STEPS: usize = 3;

/// Most manifests of one copy whose referrers are looked for.
const MAX_SUBJECTS: usize = 256;

/// What cosign appends to the tag of a digest, looked for one by one where tags cannot be listed.
const SUFFIXES: [&str; 3] = [".sig", ".att", ".sbom"];

impl Job<'_> {
    /// Brings what refers to `root`, to the manifests that it names, and to what was found.
    pub(super) async fn bring_referrers(&self, root: &Manifest) -> Result<(), CopyError> {
        let mut subjects = subjects(root);
        let Some(first) = subjects.first().cloned() else {
            return Ok(());
        };
        let tags = self.source.digest_tags().await;
        let mut step = 0;
        while !subjects.is_empty() && step < MAX_STEPS {
            let mut working = FuturesUnordered::new();
            for subject in &subjects {
                working.push(self.bring_about(subject, *subject == first, &tags));
            }
            let mut found = Vec::new();
            while let Some(done) = working.next().await {
                found.extend(done?);
            }
            drop(working);
            found.truncate(MAX_SUBJECTS);
            subjects = found;
            step += 1;
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
        let Some(referrers) = self.find_referrers(subject, is_root, tags).await? else {
            return Ok(Vec::new());
        };
        let mut working = FuturesUnordered::new();
        for referrer in &referrers {
            working.push(self.bring_referrer(subject, referrer));
        }
        let (mut brought, mut unlisted) = (Vec::new(), Vec::new());
        while let Some(done) = working.next().await {
            let Some((referrer, listed)) = done? else {
                continue;
            };
            brought.push(referrer.descriptor.digest.clone());
            if !listed {
                unlisted.push(referrer.clone());
            }
        }
        if !unlisted.is_empty() {
            let listed = fallback::list(&self.target, subject, &unlisted).await;
            self.tolerate(subject, listed.map_err(CopyError::Target))?;
        }
        Ok(brought)
    }

    /// The referrers of a manifest, as the API or the fallback tag lists them.
    async fn find_referrers(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Option<Vec<Referrer>>, CopyError> {
        let by_api = self.source.referrers(subject).await;
        if let Some(Some(found)) = self.tolerate(subject, by_api.map_err(CopyError::Source))? {
            return Ok(Some(found));
        }
        let tag = fallback::tag(subject);
        if !is_worth_asking(&tag, is_root, tags) {
            return Ok(None);
        }
        let found = fallback::read(&self.source, &tag).await;
        let found = self.tolerate(subject, found.map_err(CopyError::Source))?;
        Ok(found.flatten().map(|(_, referrers)| referrers))
    }

    /// Brings one referrer. Answers with it, and whether the target lists it by itself.
    async fn bring_referrer<'r>(
        &self,
        subject: &Digest,
        referrer: &'r Referrer,
    ) -> Result<Option<(&'r Referrer, bool)>, CopyError> {
        let child = Child {
            descriptor: referrer.descriptor.clone(),
            parent: subject.clone(),
            depth: 1,
        };
        let work = async {
            match self.find(&child).await? {
                Found::Present => Ok(true),
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
                tags.iter().filter(about).cloned().collect()
            }
            None if is_root => SUFFIXES.iter().map(|end| format!("{stem}{end}")).collect(),
            None => Vec::new(),
        };
        let mut working = FuturesUnordered::new();
        for tag in wanted {
            working.push(async move {
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
                let found = self.source.read(&reference).await;
                found.map_err(CopyError::Source)
            },
            self.tagged(Some(&reference))
        )?;
        let Some(manifest) = source.and_then(|located| located.manifest) else {
            return Ok(None);
        };
        let digest = manifest.digest.clone();
        let same = target.is_some_and(|there| there.resolved.digest == digest);
        if !(same && self.options.trust_present) {
            let node = Closure::new(self).bring(manifest).await?;
            self.push(&node, &reference).await?;
            self.referrer_done(subject, &node);
        }
        Ok(Some(digest))
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
                tracing::warn!(%subject, %error, "what refers to the image is left out");
                one_more(&self.tally.referrers_left_out);
                self.progress.event(Event::ReferrerLeftOut {
                    subject,
                    error: &error,
                });
                Ok(None)
            }
        }
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
