//! Referrers of an image at the same registry: manifests that name it as their subject, and the digest tags of cosign.

use super::damage::{Damage, DamageKind};
use super::{Verified, Verifier};
use crate::copy::{DigestTag, ListedReferrers};
use crate::error::RegistryError;
use crate::registries::common::DigestTags;
use crate::registry::Repository;
use oci_spec::image::Digest;
use std::collections::HashSet;

/// Distance of a referrer from the image, and numbers of subjects and referrers, as for copies.
const MAX_STEPS: usize = 3;
const MAX_SUBJECTS: usize = 256;
const MAX_REFERRERS: usize = 1000;

/// Maximum number of digest tags of one manifest.
const MAX_TAGS: usize = 64;

impl Verifier {
    /// Verifies the referrers of these manifests, and the referrers of those.
    pub(super) async fn referrers(
        &self,
        repository: &Repository,
        root: &Digest,
        mut subjects: Vec<Digest>,
        verified: &mut Verified,
    ) -> Result<(), RegistryError> {
        let tags = self.repository.digest_tags().await;
        let mut known: HashSet<Digest> = subjects.iter().cloned().collect();
        for _ in 0..MAX_STEPS {
            let mut found = Vec::new();
            subjects.truncate(MAX_SUBJECTS);
            for subject in &subjects {
                let listed = self.listed(subject, root, &tags).await;
                let listed = match listed {
                    Ok(listed) => listed,
                    // As for copies: a registry that hides the list is no damage.
                    Err(error) if error.is_denied() => {
                        tracing::debug!(%subject, %error, "cannot list referrers");
                        continue;
                    }
                    Err(error) if self.registry.probe().await.is_err() => return Err(error),
                    Err(error) => {
                        verified.damage.push(Damage {
                            digest: subject.clone(),
                            parent: None,
                            kind: DamageKind::Unreadable {
                                reason: error.to_string(),
                            },
                            is_of_referrer: true,
                        });
                        continue;
                    }
                };
                for referrer in listed {
                    if known.len() < MAX_SUBJECTS + MAX_REFERRERS && known.insert(referrer.clone())
                    {
                        found.push(referrer);
                    }
                }
            }
            for referrer in &found {
                verified.referrers += 1;
                if self.is_whole(referrer) {
                    continue;
                }
                let first = verified.damage.len();
                self.closure(repository, referrer, verified).await?;
                for damage in verified.damage.iter_mut().skip(first) {
                    damage.is_of_referrer = true;
                }
            }
            subjects = found;
        }
        Ok(())
    }

    /// Lists the referrers of one manifest.
    async fn listed(
        &self,
        subject: &Digest,
        root: &Digest,
        tags: &DigestTags,
    ) -> Result<Vec<Digest>, RegistryError> {
        let (registry, name) = (&self.registry, self.repository.name());
        let by_subject = ListedReferrers::of_copy(registry, name, subject).await?;
        let mut listed: Vec<Digest> = by_subject.digests().collect();
        for tag in self.digest_tags_of(subject, root, tags) {
            // A tag may be gone since the list was read.
            listed.extend(self.tag(&tag).await?);
        }
        Ok(listed)
    }

    /// Returns the tags made of this digest, besides the list of referrers. Where tags cannot be listed, those of cosign for
    /// the root.
    fn digest_tags_of(&self, subject: &Digest, root: &Digest, tags: &DigestTags) -> Vec<String> {
        let ignored = self.options.ignored_digest_tag.map(|tag| tag(subject));
        match tags {
            Some(tags) => {
                let stem = DigestTag::Referrers.name(subject) + ".";
                let is_wanted =
                    |tag: &&String| tag.starts_with(&stem) && Some(*tag) != ignored.as_ref();
                let wanted = tags.iter().filter(is_wanted).take(MAX_TAGS);
                wanted.cloned().collect()
            }
            None if subject == root => DigestTag::OF_COSIGN.map(|tag| tag.name(subject)).into(),
            None => Vec::new(),
        }
    }
}
