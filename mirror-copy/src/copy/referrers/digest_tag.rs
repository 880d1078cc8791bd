//! Tags that clients make of the digest of an image, for what they attach to it.

use super::super::referrers_tag;
use crate::error::RegistryError;
use crate::registry::{Access, Registry};
use oci_spec::image::Digest;

/// A tag made of the digest of an image.
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
    /// The tags of cosign.
    pub(super) const OF_COSIGN: [Self; 3] = [Self::Signature, Self::Attestation, Self::Sbom];

    /// The tag for this digest, such as `sha256-<hex>.sig`.
    #[must_use]
    pub fn name(self, digest: &Digest) -> String {
        let suffix = match self {
            Self::Referrers => "",
            Self::Signature => ".sig",
            Self::Attestation => ".att",
            Self::Sbom => ".sbom",
        };
        referrers_tag::tag(digest) + suffix
    }

    /// Returns the digest of what has this tag, or `None` if nothing has it. This is one `HEAD`, and a `GET` where that names
    /// no digest; a failure is not retried. No request is sent to a host that did not respond to such a one within 10 s; that
    /// is remembered for an hour.
    ///
    /// # Errors
    /// [`RegistryError`] when the registry does not respond, or refuses the request.
    pub async fn resolve(
        self,
        registry: &Registry,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<Digest>, RegistryError> {
        let repository = registry.repository(repository, Access::Pull)?;
        let found = repository.digest_tag(&self.name(digest)).await?;
        // An image under the tag of its list is no list.
        Ok(found.filter(|found| found != digest))
    }
}
