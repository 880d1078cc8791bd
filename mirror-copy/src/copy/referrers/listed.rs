//! Queries for the referrers of an image at one registry, without a copy and without reading the referrers.

use super::super::referrers_tag;
use crate::error::RegistryError;
use crate::registry::{Access, ReferrerList, Registry};
use oci_spec::image::Digest;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// A tag that clients derive from the digest of an image, for something that refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestTag {
    /// The list of referrers where the registry has no API for it (distribution-spec, "Referrers Tag Schema").
    Referrers,
    /// The signatures of cosign. A further signature replaces their manifest.
    Signature,
    /// The attestations of cosign.
    Attestation,
    /// The software bill of materials of cosign.
    Sbom,
}

impl DigestTag {
    /// The tags that cosign writes.
    pub(crate) const OF_COSIGN: [Self; 3] = [Self::Signature, Self::Attestation, Self::Sbom];

    /// Returns the tag for this digest, such as `sha256-<hex>.sig`.
    #[must_use]
    pub fn name(self, digest: &Digest) -> String {
        referrers_tag::tag(digest) + self.suffix()
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Referrers => "",
            Self::Signature => ".sig",
            Self::Attestation => ".att",
            Self::Sbom => ".sbom",
        }
    }

    /// Returns a tag without the suffix of cosign, if it has one.
    #[must_use]
    pub fn strip_suffix(tag: &str) -> &str {
        let mut suffixes = Self::OF_COSIGN.iter().map(|kind| kind.suffix());
        suffixes
            .find_map(|suffix| tag.strip_suffix(suffix))
            .unwrap_or(tag)
    }

    /// Returns the digest of the manifest that has this tag, or `None` if there is none. Sends one `HEAD`, and a `GET` if
    /// the response names no digest, without retries. A host that did not respond to such a request within
    /// [`Timeouts::list`](crate::Timeouts::list) gets none for an hour.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond, did not respond recently, or refuses the request.
    pub async fn resolve(
        self,
        registry: &Registry,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<Digest>, RegistryError> {
        let repository = registry.repository(repository, Access::Pull)?;
        let found = repository.digest_tag(&self.name(digest)).await?;
        // The image itself under the tag of its list is no list.
        Ok(found.filter(|found| found != digest))
    }
}

/// The digests of the referrers that a registry lists for a manifest, at most 1000.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedReferrers(BTreeSet<String>);

impl ListedReferrers {
    /// Lists the referrers of a manifest by the referrers API (distribution-spec, "Listing Referrers"), with one request for
    /// each page. Returns `None` if the registry does not have the API; that is remembered for an hour, during which no
    /// request is sent.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond, or refuses the request.
    pub async fn by_api(
        registry: &Registry,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<Self>, RegistryError> {
        let repository = registry.repository(repository, Access::Pull)?;
        let list = repository.referrers(digest).await?;
        Ok(list.as_ref().map(Self::of))
    }

    /// Lists the referrers of a manifest by the tag that clients keep where there is no API (distribution-spec, "Referrers
    /// Tag Schema"), with one `GET`. A host that did not respond is remembered as for [`DigestTag::resolve`].
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond, refuses the request, or has something else under the tag.
    pub async fn by_tag(
        registry: &Registry,
        repository: &str,
        digest: &Digest,
    ) -> Result<Self, RegistryError> {
        let repository = registry.repository(repository, Access::Pull)?;
        let reading = referrers_tag::read(&repository, digest);
        let tag = referrers_tag::tag(digest);
        let list = repository.within_list_timeout(&tag, reading).await?;
        Ok(list.as_ref().map_or_else(Self::default, Self::of))
    }

    /// Lists the referrers of a copy in this repository, by the API, or by the referrers tag where there is none. Requests
    /// the right to push along with the right to pull, as copies do, so that both use the same token.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond, or refuses the request.
    pub async fn of_copy(
        registry: &Registry,
        repository: &str,
        digest: &Digest,
    ) -> Result<Self, RegistryError> {
        let repository = registry.repository(repository, Access::Push)?;
        let list = match repository.referrers(digest).await {
            Ok(Some(list)) => Some(list),
            // A list that is not received in time counts as absent.
            Ok(None) | Err(RegistryError::Timeout { .. }) => {
                referrers_tag::read(&repository, digest).await?
            }
            Err(error) => return Err(error),
        };
        Ok(list.as_ref().map_or_else(Self::default, Self::of))
    }

    fn of(list: &ReferrerList) -> Self {
        let digests = list.referrers.iter();
        let digests = digests.map(|referrer| referrer.descriptor.digest.to_string());
        Self(digests.collect())
    }

    /// Returns the digests in the list.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.0.iter().filter_map(|digest| digest.parse().ok())
    }

    /// Returns whether the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `other` lists all of these referrers.
    #[must_use]
    pub fn are_all_in(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Returns a hash of the list. It is comparable only within this process.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }
}
