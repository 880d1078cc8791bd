//! From the contract's references to the copy engine's sources and targets.
//!
//! The contract says what images and copies are called, the engine moves bytes; only this module knows both.

use crate::former_backups::FormerBackups;
use mirror_contract::naming::anchor_tag;
use mirror_contract::{Backup, Digest, ImageRef, Unsupported};
use mirror_copy::{CopyOptions, Registries, Registry, SetupError, Source, TagOrDigest, Target};

/// The backup, and the ways to the registries.
///
/// The login that may push is used for the backup alone. Were it used for sources too, whoever can create a Pod could have
/// any image copied that this login can read, from its host's other repositories, into a backup that everybody can read.
/// Apart from that, a registry that is both does not make the backup wait when it limits what is read from it.
#[derive(Debug)]
pub struct Locations {
    backup: Backup,
    former: FormerBackups,
    targets: Registries,
    registry: Registry,
    sources: Registries,
    max_bytes: Option<u64>,
}

/// An image cannot be copied, whatever the registries say.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The contract has no name for the copy.
    #[error(transparent)]
    Name(#[from] Unsupported),
    /// The original is a copy already.
    #[error("it already is in the backup repository")]
    Copy,
}

impl Locations {
    /// Images of `sources`, copied to `backup` with the credentials that `targets` has.
    ///
    /// # Errors
    /// [`SetupError`] when the backup's registry is not usable.
    pub fn new(
        backup: Backup,
        targets: &Registries,
        sources: Registries,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            registry: targets.get(backup.registry())?,
            former: FormerBackups::new(&backup, []),
            targets: targets.clone(),
            backup,
            sources,
            max_bytes: None,
        })
    }

    /// Copies were in these backups before.
    #[must_use]
    pub fn with_former_backups(self, former: FormerBackups) -> Self {
        Self { former, ..self }
    }

    /// Copies no image that has more bytes than this.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: Option<u64>) -> Self {
        Self { max_bytes, ..self }
    }

    /// How images are copied.
    #[must_use]
    pub fn options(&self) -> CopyOptions {
        CopyOptions {
            max_bytes: self.max_bytes,
            ignored_digest_tag: Some(anchor),
            ..CopyOptions::default()
        }
    }

    /// Whether an image already is in the backup's repository, or in a former one.
    #[must_use]
    pub fn contains(&self, image: &ImageRef<'_>) -> bool {
        self.backup.contains(image) || self.former.contains(image)
    }

    /// Where copies were before.
    #[must_use]
    pub fn former_backups(&self) -> &FormerBackups {
        &self.former
    }

    /// The copies of `image` in former backups. They are read with the credentials of the backup's registries.
    #[must_use]
    pub fn former_copies(&self, image: &ImageRef<'_>) -> Vec<Source> {
        let copies = self.former.copies_of(image);
        let sources = copies.filter_map(|copy| source(&self.targets, &copy).ok());
        sources.collect()
    }

    /// Where copies go and what they are called.
    #[must_use]
    pub fn backup(&self) -> &Backup {
        &self.backup
    }

    /// The backup's registry.
    #[must_use]
    pub fn backup_registry(&self) -> &Registry {
        &self.registry
    }

    /// What to read for `image`.
    ///
    /// # Errors
    /// [`SetupError`] when the registry's name is not usable.
    pub fn source(&self, image: &ImageRef<'_>) -> Result<Source, SetupError> {
        source(&self.sources, image)
    }

    /// What to write: the anchor, and the tag unless the image is pinned to a digest.
    ///
    /// # Errors
    /// [`PlanError`] when the image cannot have a copy.
    pub fn target(&self, image: &ImageRef<'_>) -> Result<Target, PlanError> {
        if self.contains(image) {
            return Err(PlanError::Copy);
        }
        let copy = self.backup.target(image)?;
        Ok(Target {
            registry: self.registry.clone(),
            repository: copy.path().to_owned(),
            tag: match image.digest() {
                // The tag may have moved on since; the copy of its newer image must keep it.
                Some(_) => None,
                None => image.tag().map(ToOwned::to_owned),
            },
            anchor: Some(anchor),
        })
    }
}

/// What to read for `image`. A digest decides alone; a tag next to it is not looked at.
///
/// # Errors
/// [`SetupError`] when the registry's name is not usable.
pub fn source(registries: &Registries, image: &ImageRef<'_>) -> Result<Source, SetupError> {
    Ok(Source {
        registry: registries.get(image.host())?,
        repository: image.path().to_owned(),
        reference: reference(image),
    })
}

/// What to write when the user names the copy.
///
/// # Errors
/// [`SetupError`] when the registry's name is not usable.
pub fn named_target(registries: &Registries, copy: &ImageRef<'_>) -> Result<Target, SetupError> {
    Ok(Target {
        registry: registries.get(copy.host())?,
        repository: copy.path().to_owned(),
        tag: copy.tag().map(ToOwned::to_owned),
        anchor: None,
    })
}

/// The engine's form of the tag or digest of an image.
#[must_use]
pub fn reference(image: &ImageRef<'_>) -> TagOrDigest {
    match (image.digest(), image.tag()) {
        (Some(digest), _) => TagOrDigest::parse(&digest.to_string()),
        (None, tag) => TagOrDigest::Tag(tag.unwrap_or_default().to_owned()),
    }
}

/// The engine's form of a digest; `None` for an algorithm that the engine does not verify.
#[must_use]
pub fn engine_digest(digest: &Digest<'_>) -> Option<mirror_copy::Digest> {
    digest.to_string().parse().ok()
}

/// The contract's form of a digest; `None` for an algorithm that the contract does not know.
#[must_use]
pub fn contract_digest(digest: &mirror_copy::Digest) -> Option<Digest<'static>> {
    Digest::parse(digest.as_ref()).map(Digest::into_owned)
}

/// The second tag of a copy with this digest.
#[must_use]
pub fn anchor(digest: &mirror_copy::Digest) -> String {
    // The engine verifies no other algorithms than the contract knows.
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
