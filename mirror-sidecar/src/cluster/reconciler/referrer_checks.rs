//! Checks for referrers of originals in use, such as signatures, that the copies lack: CI signs an image after its push.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use mirror_contract::{Digest, ImageRef};
use mirror_copy::{DigestTag, ListedReferrers, RegistryError, Source, TagOrDigest};
use tokio::time::timeout;

use super::image_checks::{BACKUP_CHECK_TIMEOUT, within};
use crate::locations::engine_digest;
use crate::lookup::Lookup;

/// Timeout of the requests to the registry of the original: for the list, and for the tags of the digest together. The
/// engine times out after 10 s without a response, and then remembers that about the host.
const REFERRERS_TIMEOUT: Duration = Duration::from_secs(15);

/// Where the referrers of an original are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferrerKind {
    /// The list of the referrers API, or of the fallback tag.
    Listed,
    /// The tag of cosign for signatures.
    Signature,
    /// The tag of cosign for attestations.
    Attestation,
    /// The tag of cosign for SBOMs.
    Sbom,
}

/// One value for each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByKind<T> {
    listed: T,
    signature: T,
    attestation: T,
    sbom: T,
}

/// The referrers to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReferrersPlan {
    /// Fingerprints of referrers that need not be compared with the copy.
    pub known: ByKind<Option<u64>>,
    /// The number of the check; the tags to check follow from it.
    pub turn: u128,
}

/// Referrers of an original, compared with those of its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamReferrers {
    pub kind: ReferrerKind,
    /// Changes whenever the referrers do.
    pub fingerprint: u64,
    /// The copy lacks some of them.
    pub are_missing: bool,
}

/// A check of one image.
struct Check<'a> {
    lookup: &'a Lookup,
    image: &'a ImageRef<'static>,
    source: Source,
    /// The repository of the copy.
    copy: &'a str,
    digest: mirror_copy::Digest,
    known: ByKind<Option<u64>>,
}

impl Lookup {
    /// Compares the referrers of an original with those of its copy, which has the same digest. It sends one request to the
    /// original's registry for the list, if that has the API, and two for tags of the digest. Further requests, also to the
    /// backup, are sent only for unknown referrers. Referrers that do not exist or cannot be read are not returned.
    pub(super) async fn check_referrers(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        digest: &Digest<'static>,
        plan: ReferrersPlan,
    ) -> Vec<UpstreamReferrers> {
        let (Ok(source), Some(digest)) = (self.locations().source(image), engine_digest(digest))
        else {
            return Vec::new();
        };
        let check = Check {
            lookup: self,
            image,
            source,
            copy: copy.path(),
            digest,
            known: plan.known,
        };
        let list = check.list().await;
        let (listed, other) = match list {
            List::Absent => (None, plan.tag_without_api()),
            List::Unknown => (None, plan.tag_of_turn()),
            List::Has(list) => (check.compare_api(&list).await, plan.tag_of_turn()),
        };
        let (signature, other) = tokio::join!(
            check.tag(ReferrerKind::Signature, DigestTag::Signature),
            check.tag(other.0, other.1)
        );
        [listed, signature, other].into_iter().flatten().collect()
    }
}

impl ReferrersPlan {
    /// The tag to check besides the one for signatures.
    fn tag_of_turn(&self) -> (ReferrerKind, DigestTag) {
        if self.turn.is_multiple_of(2) {
            (ReferrerKind::Attestation, DigestTag::Attestation)
        } else {
            (ReferrerKind::Sbom, DigestTag::Sbom)
        }
    }

    /// The tag to check if the registry has no referrers API. Every other check is of the fallback tag.
    fn tag_without_api(&self) -> (ReferrerKind, DigestTag) {
        if self.turn.is_multiple_of(2) {
            (ReferrerKind::Listed, DigestTag::Referrers)
        } else {
            let turn = self.turn / 2;
            Self { turn, ..*self }.tag_of_turn()
        }
    }
}

/// The response of the referrers API of the original's registry.
enum List {
    Has(ListedReferrers),
    /// The registry has no such API.
    Absent,
    Unknown,
}

impl Check<'_> {
    async fn list(&self) -> List {
        let Source {
            registry,
            repository,
            ..
        } = &self.source;
        let listing = ListedReferrers::by_api(registry, repository, &self.digest);
        match self.request("the list of referrers", listing).await {
            Some(Ok(Some(list))) => List::Has(list),
            Some(Ok(None)) => List::Absent,
            Some(Err(_)) | None => List::Unknown,
        }
    }

    async fn compare_api(&self, listed: &ListedReferrers) -> Option<UpstreamReferrers> {
        if listed.is_empty() {
            return None;
        }
        let fingerprint = listed.fingerprint();
        self.compare(ReferrerKind::Listed, fingerprint, async || {
            self.lacks(listed).await
        })
        .await
    }

    /// Compares the referrers under a tag of the digest.
    async fn tag(&self, kind: ReferrerKind, tag: DigestTag) -> Option<UpstreamReferrers> {
        let Source {
            registry,
            repository,
            ..
        } = &self.source;
        let name = tag.name(&self.digest);
        let resolving = tag.resolve(registry, repository, &self.digest);
        let found = self.request(&name, resolving).await?.ok()??;
        let is_list = tag == DigestTag::Referrers;
        let seen = self.compare(kind, fingerprint(&found), async || {
            if is_list {
                self.lacks_of_list(&name).await
            } else {
                self.lacks_tag(&name, &found).await
            }
        });
        let seen = seen.await?;
        if seen.are_missing {
            // The next copy must not use a cached list without the tag.
            registry.forget_digest_tags(repository);
        }
        Some(seen)
    }

    /// Compares referrers unless they are known.
    async fn compare(
        &self,
        kind: ReferrerKind,
        fingerprint: u64,
        are_missing: impl AsyncFnOnce() -> Option<bool>,
    ) -> Option<UpstreamReferrers> {
        let is_known = *self.known.of(kind) == Some(fingerprint);
        Some(UpstreamReferrers {
            kind,
            fingerprint,
            are_missing: !is_known && are_missing().await?,
        })
    }

    async fn lacks(&self, listed: &ListedReferrers) -> Option<bool> {
        let copied = ListedReferrers::of_copy(self.lookup.registry(), self.copy, &self.digest);
        let copied = self.in_backup(copied).await?;
        Some(!listed.are_all_in(&copied))
    }

    /// Reads the list under the fallback tag and compares it.
    async fn lacks_of_list(&self, tag: &str) -> Option<bool> {
        let Source {
            registry,
            repository,
            ..
        } = &self.source;
        let listing = ListedReferrers::by_tag(registry, repository, &self.digest);
        match self.request(tag, listing).await? {
            Ok(listed) => self.lacks(&listed).await,
            // An invalid list stays invalid.
            Err(error) => (!error.retry().is_transient()).then_some(false),
        }
    }

    /// Returns whether the tag of the copy is missing or has another digest.
    async fn lacks_tag(&self, tag: &str, digest: &mirror_copy::Digest) -> Option<bool> {
        let reference = TagOrDigest::Tag(tag.to_owned());
        let registry = self.lookup.registry();
        let copied = registry.resolve_to_write(self.copy, &reference);
        let copied = self.in_backup(copied).await?;
        Some(copied.is_none_or(|copied| copied.digest != *digest))
    }

    async fn in_backup<T>(
        &self,
        request: impl Future<Output = Result<T, RegistryError>>,
    ) -> Option<T> {
        let found = within(BACKUP_CHECK_TIMEOUT, request).await;
        let image = self.image;
        found
            .inspect_err(
                |error| tracing::debug!(%image, %error, "cannot list the referrers of the copy"),
            )
            .ok()
    }

    /// Waits for a response of the original's registry. Returns `None` after the timeout.
    async fn request<T>(
        &self,
        object: &str,
        request: impl Future<Output = Result<T, RegistryError>>,
    ) -> Option<Result<T, RegistryError>> {
        let image = self.image;
        match timeout(REFERRERS_TIMEOUT, request).await {
            Ok(Err(error)) => {
                tracing::debug!(%image, object, %error, "cannot read the referrers of the original");
                Some(Err(error))
            }
            Ok(found) => Some(found),
            Err(_) => {
                tracing::debug!(%image, object, within = ?REFERRERS_TIMEOUT, "reading the referrers of the original timed out");
                None
            }
        }
    }
}

impl<T> ByKind<T> {
    pub fn of(&self, kind: ReferrerKind) -> &T {
        match kind {
            ReferrerKind::Listed => &self.listed,
            ReferrerKind::Signature => &self.signature,
            ReferrerKind::Attestation => &self.attestation,
            ReferrerKind::Sbom => &self.sbom,
        }
    }

    pub fn of_mut(&mut self, kind: ReferrerKind) -> &mut T {
        match kind {
            ReferrerKind::Listed => &mut self.listed,
            ReferrerKind::Signature => &mut self.signature,
            ReferrerKind::Attestation => &mut self.attestation,
            ReferrerKind::Sbom => &mut self.sbom,
        }
    }

    pub fn map<U>(&self, value: impl Fn(&T) -> U) -> ByKind<U> {
        ByKind {
            listed: value(&self.listed),
            signature: value(&self.signature),
            attestation: value(&self.attestation),
            sbom: value(&self.sbom),
        }
    }
}

fn fingerprint(digest: &mirror_copy::Digest) -> u64 {
    let mut hasher = DefaultHasher::new();
    digest.as_ref().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_has_its_turn() {
        let plan = |turn| ReferrersPlan {
            turn,
            ..ReferrersPlan::default()
        };
        let tags: Vec<_> = (0..4).map(|turn| plan(turn).tag_of_turn().1).collect();
        let (attestation, sbom) = (DigestTag::Attestation, DigestTag::Sbom);
        assert_eq!(tags, [attestation, sbom, attestation, sbom]);
        let tags: Vec<_> = (0..4).map(|turn| plan(turn).tag_without_api().1).collect();
        let list = DigestTag::Referrers;
        assert_eq!(tags, [list, attestation, list, sbom]);
    }
}
