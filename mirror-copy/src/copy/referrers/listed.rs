//! What a registry lists as attached to an image, without reading any of it.

use super::super::referrers_tag;
use crate::error::RegistryError;
use crate::registry::{Access, ReferrerList, Registry};
use oci_spec::image::Digest;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The referrers that a registry lists for a manifest: 1000 at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedReferrers(BTreeSet<String>);

impl ListedReferrers {
    /// Lists the referrers of a manifest by the referrers API (distribution-spec, "Listing Referrers"). This is one request
    /// for each page. It returns `None`, and sends no request, where the registry is known not to have the API; that is
    /// remembered for an hour.
    ///
    /// # Errors
    /// [`RegistryError`] when the registry does not respond, or refuses the request.
    pub async fn by_api(
        registry: &Registry,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<Self>, RegistryError> {
        let repository = registry.repository(repository, Access::Pull)?;
        let list = repository.referrers(digest).await?;
        Ok(list.as_ref().map(Self::of))
    }

    /// Lists the referrers of a manifest by the tag that clients keep where there is no API ("Referrers Tag Schema"), by one
    /// `GET`. As for [`DigestTag::resolve`], a host that did not respond is remembered.
    ///
    /// # Errors
    /// [`RegistryError`] when the registry does not respond, refuses the request, or has something else under the tag.
    ///
    /// [`DigestTag::resolve`]: super::DigestTag::resolve
    pub async fn by_tag(
        registry: &Registry,
        repository: &str,
        digest: &Digest,
    ) -> Result<Self, RegistryError> {
        let repository = registry.repository(repository, Access::Pull)?;
        let reading = referrers_tag::read(&repository, digest);
        let tag = referrers_tag::tag(digest);
        let list = repository.within_patience(&tag, reading).await?;
        Ok(list.as_ref().map_or_else(Self::default, Self::of))
    }

    /// Lists the referrers that a copy in this repository has, by the API or by the tag that clients keep where there is
    /// none ("Referrers Tag Schema"). A token is requested for pushing, as for copies.
    ///
    /// # Errors
    /// [`RegistryError`] when the registry does not respond, or refuses the request.
    pub async fn of_copy(
        registry: &Registry,
        repository: &str,
        digest: &Digest,
    ) -> Result<Self, RegistryError> {
        let repository = registry.repository(repository, Access::Push)?;
        let list = match repository.referrers(digest).await {
            Ok(Some(list)) => Some(list),
            // A list that does not come in time is remembered like one that does not exist.
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

    /// Returns whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `other` lists all of these.
    #[must_use]
    pub fn are_all_in(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// A number that tells this list from others within this process.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }
}
