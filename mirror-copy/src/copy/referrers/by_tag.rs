//! What has a tag made of an image's digest, as cosign makes them.

use super::super::copy_graph::CopyGraph;
use super::super::error::CopyError;
use super::super::job::Job;
use super::super::limits::Part;
use super::super::referrers_tag;
use super::DigestTag;
use crate::reference::TagOrDigest;
use crate::registry::{DigestTags, Located};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;

/// Most digest tags about one manifest.
const MAX_TAGS: usize = 64;

impl Job<'_> {
    /// Brings what has a tag made of this digest. The fallback tag is not among it: it is a list, kept at
    /// either side for itself.
    pub(super) async fn copy_by_tag(
        &self,
        subject: &Digest,
        is_root: bool,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, CopyError> {
        let stem = referrers_tag::tag(subject);
        let wanted: Vec<String> = match tags {
            Some(tags) => {
                let about = |tag: &&String| tag.strip_prefix(&stem).is_some_and(is_suffix);
                tags.iter().filter(about).take(MAX_TAGS).cloned().collect()
            }
            // Looked for one by one where tags cannot be listed.
            None if is_root => DigestTag::OF_COSIGN.map(|tag| tag.name(subject)).into(),
            None => Vec::new(),
        };
        let mut working = FuturesUnordered::new();
        for tag in wanted {
            working.push(async move {
                let _turn = self.referring.turns.acquire().await;
                let brought = Box::pin(self.copy_tagged(subject, tag)).await;
                self.tolerate(subject, brought)
            });
        }
        let mut brought = Vec::new();
        while let Some(done) = working.next().await {
            brought.extend(done?.flatten());
        }
        Ok(brought)
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
            self.tagged(Some(&reference))
        )?;
        let Some(Located { resolved, manifest }) = source else {
            return Ok(None);
        };
        let digest = resolved.digest;
        let same = target.is_some_and(|there| there.resolved.digest == digest);
        if !(same && self.trusts()) {
            self.reserve(Part::Referrers, &digest, resolved.size)?;
            let manifest = if let Some(manifest) = manifest {
                manifest
            } else {
                let by_digest = TagOrDigest::Digest(digest.clone());
                let manifest = self.source.manifest(&by_digest).await;
                manifest.map_err(CopyError::Source)?
            };
            let lease = self.hold(Part::Referrers, &manifest, resolved.size).await?;
            let node = CopyGraph::of_referrer(self)
                .copy_closure(manifest, lease)
                .await?;
            self.push_referrer(&node, &reference).await?;
            self.referrer_done(subject, &node);
        }
        Ok(self.referring.admit(&digest).then_some(digest))
    }
}

/// What follows a digest in a tag about it. The mirror's own anchors are no statements about an image.
fn is_suffix(end: &str) -> bool {
    end.len() > 1 && end.starts_with('.') && end != ".mirror"
}
