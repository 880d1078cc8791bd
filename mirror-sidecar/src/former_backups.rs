//! Former locations of copies: the naming, the repository or the host of the backup may have changed.

use std::collections::BTreeSet;

use mirror_contract::{Backup, ImageRef};

/// The current backup with the other naming, then the former backups, in the order in which they are searched.
#[derive(Clone, Debug, Default)]
pub struct FormerBackups(Vec<Backup>);

impl FormerBackups {
    /// The backups at `places` with both namings, and `present` with the other naming.
    #[must_use]
    pub fn new(present: &Backup, places: impl IntoIterator<Item = [Backup; 2]>) -> Self {
        let mut backups = vec![present.with_other_naming()];
        backups.extend(
            places
                .into_iter()
                .flatten()
                .filter(|backup| backup != present),
        );
        Self(backups)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Backup> {
        self.0.iter()
    }

    /// Returns whether an image is in a former backup, so that it is not an original. If a whole registry was a backup, only
    /// names of copies count.
    #[must_use]
    pub fn contains(&self, image: &ImageRef<'_>) -> bool {
        self.innermost(image).is_some()
    }

    /// Returns the length of the innermost repository that an image is in; see [`Self::contains`].
    #[must_use]
    pub fn innermost(&self, image: &ImageRef<'_>) -> Option<usize> {
        let backups = self.0.iter().filter(|backup| {
            backup.contains(image) && (backup.has_repository() || backup.original(image).is_some())
        });
        backups.map(|backup| backup.repository().len()).max()
    }

    /// The registries of former backups besides that of `present`, each once.
    #[must_use]
    pub fn other_registries<'a>(&'a self, present: &Backup) -> BTreeSet<&'a str> {
        let registries = self.0.iter().map(Backup::registry);
        registries
            .filter(|registry| !present.is_at(registry))
            .collect()
    }

    /// Returns the original of `copy`, if its name can be decoded.
    #[must_use]
    pub fn original(&self, copy: &ImageRef<'_>) -> Option<ImageRef<'static>> {
        self.0.iter().find_map(|backup| backup.original(copy))
    }

    /// The repositories of former backups in a registry, each once.
    #[must_use]
    pub fn repositories_in(&self, registry: &str) -> Vec<String> {
        let backups = self.0.iter();
        let backups = backups.filter(|backup| backup.registry() == registry);
        let mut repositories: Vec<_> = backups
            .map(|backup| backup.repository().to_owned())
            .collect();
        repositories.sort_unstable();
        repositories.dedup();
        repositories
    }

    /// The former names of the copy of `original`.
    pub fn copies_of<'a>(
        &'a self,
        original: &'a ImageRef<'_>,
    ) -> impl Iterator<Item = ImageRef<'static>> + 'a {
        let backups = self.0.iter();
        backups.filter_map(|backup| backup.target(original).ok())
    }
}

#[cfg(test)]
mod tests {
    use mirror_contract::Naming;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::former_naming(
        "new.example/acme/docker.io/library/nginx:1",
        true,
        Some("docker.io/library/nginx:1")
    )]
    #[case::former_host(
        "old.example/docker.io-library-nginx:1",
        true,
        Some("docker.io/library/nginx:1")
    )]
    #[case::former_repository("new.example/before/ghcr.io/a/b:1", true, Some("ghcr.io/a/b:1"))]
    #[case::something_else_in_it("new.example/before/tool:1", true, None)]
    #[case::an_original_of_that_host("old.example/team/app:1", false, None)]
    #[case::elsewhere("quay.io/a/b:1", false, None)]
    fn former_copies_are_known(
        #[case] image: &str,
        #[case] is_there: bool,
        #[case] original: Option<&str>,
    ) {
        let present = Backup::new("new.example", "acme", Naming::Flat).unwrap();
        let places = ["old.example", "new.example/before"];
        let places = places.into_iter().filter_map(Backup::with_both_namings);
        let former = FormerBackups::new(&present, places);
        let image: ImageRef<'static> = image.parse().unwrap();
        assert_eq!(former.contains(&image), is_there);
        let found = former.original(&image).map(|image| image.to_string());
        assert_eq!(found.as_deref(), original);
    }
}
