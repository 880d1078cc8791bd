//! Converts the references of the contract to the sources and targets of the copy engine.

use crate::backups::OtherBackups;
use crate::former_backups::FormerBackups;
use mirror_contract::naming::anchor_tag;
use mirror_contract::{Backup, Digest, ImageRef, Unsupported};
use mirror_copy::{CopyOptions, Registries, Registry, SetupError, Source, TagOrDigest, Target};

/// The backup, and the registries of sources and targets.
///
/// The login with push permission is used only for the backup. If it were used for sources, users who may create Pods could
/// copy any image that it can read into the backup, which all Pods can read. Separate registries also keep rate limits of
/// reads away from the backup.
#[derive(Debug)]
pub struct Locations {
    backup: Backup,
    former: FormerBackups,
    others: OtherBackups,
    targets: Registries,
    registry: Registry,
    sources: Registries,
    max_bytes: Option<u64>,
}

/// An image that has no copy.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Name(#[from] Unsupported),
    #[error("it already is in the backup repository")]
    Copy,
}

impl Locations {
    /// # Errors
    /// [`SetupError`] if the registry of the backup cannot be used.
    pub fn new(
        backup: Backup,
        targets: &Registries,
        sources: Registries,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            registry: targets.get(backup.registry())?,
            former: FormerBackups::new(&backup, []),
            others: OtherBackups::default(),
            targets: targets.clone(),
            backup,
            sources,
            max_bytes: None,
        })
    }

    #[must_use]
    pub fn with_former_backups(self, former: FormerBackups) -> Self {
        Self { former, ..self }
    }

    #[must_use]
    pub fn with_other_backups(self, others: OtherBackups) -> Self {
        Self { others, ..self }
    }

    /// Rejects larger images.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: Option<u64>) -> Self {
        Self { max_bytes, ..self }
    }

    #[must_use]
    pub fn options(&self) -> CopyOptions {
        CopyOptions {
            max_bytes: self.max_bytes,
            ignored_digest_tag: Some(anchor),
            ..CopyOptions::default()
        }
    }

    /// Returns whether an image is in the backup or in another one, or in a former location of any.
    #[must_use]
    pub fn contains(&self, image: &ImageRef<'_>) -> bool {
        self.is_inside(image) || self.others.contain(image)
    }

    /// Returns whether an image is in the backup or in a former one, and not in another backup inside of that.
    #[must_use]
    pub fn holds(&self, image: &ImageRef<'_>) -> bool {
        self.is_inside(image) && !self.others.contain(image)
    }

    fn is_inside(&self, image: &ImageRef<'_>) -> bool {
        self.backup.contains(image) || self.former.contains(image)
    }

    #[must_use]
    pub fn other_backups(&self) -> &OtherBackups {
        &self.others
    }

    #[must_use]
    pub fn former_backups(&self) -> &FormerBackups {
        &self.former
    }

    /// The copies of `image` in former backups, with the credentials of targets. A copy that belongs to another backup is no
    /// source.
    #[must_use]
    pub fn former_copies(&self, image: &ImageRef<'_>) -> Vec<Source> {
        let copies = self.former.copies_of(image);
        let copies = copies.filter(|copy| !self.others.contain(copy));
        let sources = copies.filter_map(|copy| source(&self.targets, &copy).ok());
        sources.collect()
    }

    #[must_use]
    pub fn backup(&self) -> &Backup {
        &self.backup
    }

    #[must_use]
    pub fn backup_registry(&self) -> &Registry {
        &self.registry
    }

    /// # Errors
    /// [`SetupError`] if the registry cannot be used.
    pub fn source(&self, image: &ImageRef<'_>) -> Result<Source, SetupError> {
        source(&self.sources, image)
    }

    /// The tags to write: the anchor, and the tag unless the image is pinned to a digest.
    ///
    /// # Errors
    /// [`PlanError`] if the image has no copy.
    pub fn target(&self, image: &ImageRef<'_>) -> Result<Target, PlanError> {
        if self.contains(image) {
            return Err(PlanError::Copy);
        }
        let copy = self.backup.target(image)?;
        Ok(Target {
            registry: self.registry.clone(),
            repository: copy.path().to_owned(),
            tag: match image.digest() {
                // The tag may have moved to a newer image, whose copy must keep it.
                Some(_) => None,
                None => image.tag().map(ToOwned::to_owned),
            },
            anchor: Some(anchor),
        })
    }
}

/// Returns the source of `image`. A tag beside a digest is ignored.
///
/// # Errors
/// [`SetupError`] if the registry cannot be used.
pub fn source(registries: &Registries, image: &ImageRef<'_>) -> Result<Source, SetupError> {
    Ok(Source {
        registry: registries.get(image.host())?,
        repository: image.path().to_owned(),
        reference: reference(image),
    })
}

/// Returns the target of a copy that the user names.
///
/// # Errors
/// [`SetupError`] if the registry cannot be used.
pub fn named_target(registries: &Registries, copy: &ImageRef<'_>) -> Result<Target, SetupError> {
    Ok(Target {
        registry: registries.get(copy.host())?,
        repository: copy.path().to_owned(),
        tag: copy.tag().map(ToOwned::to_owned),
        anchor: None,
    })
}

/// Returns the digest of an image, else its tag.
#[must_use]
pub fn reference(image: &ImageRef<'_>) -> TagOrDigest {
    match (image.digest(), image.tag()) {
        (Some(digest), _) => TagOrDigest::parse(&digest.to_string()),
        (None, tag) => TagOrDigest::Tag(tag.unwrap_or_default().to_owned()),
    }
}

/// Converts a digest; `None` for an algorithm that the engine does not verify.
#[must_use]
pub fn engine_digest(digest: &Digest<'_>) -> Option<mirror_copy::Digest> {
    digest.to_string().parse().ok()
}

/// Converts a digest; `None` for an algorithm that the contract does not define.
#[must_use]
pub fn contract_digest(digest: &mirror_copy::Digest) -> Option<Digest<'static>> {
    Digest::parse(digest.as_ref()).map(Digest::into_owned)
}

/// Returns the anchor tag of a copy with this digest.
#[must_use]
pub fn anchor(digest: &mirror_copy::Digest) -> String {
    // The engine verifies only algorithms that the contract defines.
    contract_digest(digest).map_or_else(
        || digest.to_string().replace(':', "-"),
        |digest| anchor_tag(&digest),
    )
}

#[cfg(test)]
mod tests {
    use mirror_contract::Naming;
    use mirror_copy::RegistryOptions;

    use super::*;

    #[rstest::rstest]
    #[case("docker.io/acme/docker.io-library-nginx:1", true)]
    #[case("acme/docker.io-library-nginx:1", true)]
    #[case("registry-1.docker.io/acme/docker.io-library-nginx:1", true)]
    #[case("registry-1.docker.io:443/acme/docker.io-library-nginx:1", true)]
    #[case("index.docker.io:443/acme/docker.io-library-nginx:1", true)]
    #[case("registry.hub.docker.com/acme/app:1", true)]
    #[case("registry-1.docker.io/acme-not/app:1", false)]
    #[case("registry-1.docker.io/nginx:1", false)]
    #[case("registry-1.docker.io:444/acme/app:1", false)]
    #[case("registry-1.docker.io.evil.example/acme/app:1", false)]
    fn docker_hub_has_several_names(#[case] image: &str, #[case] contained: bool) {
        let registries = Registries::new(RegistryOptions::default()).unwrap();
        let backup = Backup::new("docker.io", "acme", Naming::Flat).unwrap();
        let images = Locations::new(backup, &registries, registries.clone()).unwrap();
        let image: ImageRef<'static> = image.parse().unwrap();
        assert_eq!(images.contains(&image), contained);
        let target = images.target(&image);
        assert_eq!(matches!(target, Err(PlanError::Copy)), contained);
    }
}
