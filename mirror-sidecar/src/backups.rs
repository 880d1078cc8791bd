//! Values by backup: the default backup, which always exists, and those that the configuration names.

use std::collections::{BTreeMap, BTreeSet};

use mirror_contract::{Backup, BackupName, ImageRef};

use crate::former_backups::FormerBackups;

/// A value for each backup.
#[derive(Clone, Debug)]
pub struct ByBackup<T> {
    default: T,
    named: BTreeMap<BackupName<'static>, T>,
}

/// The current location of the copies of a backup, and the former ones.
#[derive(Clone, Debug)]
pub struct BackupLocations {
    current: Backup,
    former: FormerBackups,
}

/// The backups besides the one of an index or a lookup, with their former locations. An image in them is neither an original,
/// nor the source of a copy: everyone who may pull from one backup could otherwise read the images of all others.
///
/// Former locations may overlap other locations. An image is in one backup: that with the innermost location that contains it.
/// The configuration refuses two with the same location; the first one would count.
#[derive(Clone, Debug)]
pub struct OtherBackups {
    own: BackupName<'static>,
    /// Of all backups, `own` included; empty if there is only the default one.
    all: Vec<(BackupName<'static>, BackupLocations)>,
}

impl<T> ByBackup<T> {
    /// Creates a map with the value of the default backup alone.
    pub fn new(default: T) -> Self {
        Self {
            default,
            named: BTreeMap::new(),
        }
    }

    /// Sets the value of a backup.
    pub fn insert(&mut self, name: BackupName<'static>, value: T) {
        if name.is_default() {
            self.default = value;
        } else {
            self.named.insert(name, value);
        }
    }

    /// Returns the value of a backup; `None` if no such backup is defined.
    pub fn get(&self, name: &BackupName<'_>) -> Option<&T> {
        if name.is_default() {
            return Some(&self.default);
        }
        self.named.get(name.as_str())
    }

    pub fn of_default(&self) -> &T {
        &self.default
    }

    /// Returns all values with the names of their backups, that of the default backup first.
    pub fn iter(&self) -> impl Iterator<Item = (&BackupName<'static>, &T)> {
        std::iter::once((&DEFAULT, &self.default)).chain(&self.named)
    }

    /// Returns the values of the backups besides the default one.
    pub fn named(&self) -> impl Iterator<Item = (&BackupName<'static>, &T)> {
        self.named.iter()
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }

    /// Returns a map of the same backups with the results of `value`, which is called for the default backup first.
    ///
    /// # Errors
    /// The first error of `value`.
    pub fn try_map<U, E>(
        &self,
        mut value: impl FnMut(&BackupName<'static>, &T) -> Result<U, E>,
    ) -> Result<ByBackup<U>, E> {
        let default = value(&DEFAULT, &self.default)?;
        let named = self.named.iter();
        let named = named.map(|(name, old)| Ok((name.clone(), value(name, old)?)));
        Ok(ByBackup {
            default,
            named: named.collect::<Result<_, E>>()?,
        })
    }

    /// As [`Self::try_map`].
    pub fn map<U>(&self, mut value: impl FnMut(&BackupName<'static>, &T) -> U) -> ByBackup<U> {
        let default = value(&DEFAULT, &self.default);
        let named = self.named.iter();
        ByBackup {
            default,
            named: named
                .map(|(name, old)| (name.clone(), value(name, old)))
                .collect(),
        }
    }
}

static DEFAULT: BackupName<'static> = BackupName::DEFAULT;

impl BackupLocations {
    #[must_use]
    pub const fn new(current: Backup, former: FormerBackups) -> Self {
        Self { current, former }
    }

    #[must_use]
    pub const fn current(&self) -> &Backup {
        &self.current
    }

    #[must_use]
    pub const fn former(&self) -> &FormerBackups {
        &self.former
    }

    /// The current location, then the former ones with both namings.
    pub fn all(&self) -> impl Iterator<Item = &Backup> {
        std::iter::once(&self.current).chain(self.former.iter())
    }

    /// The registries of former locations besides the current one, each once.
    #[must_use]
    pub fn former_registries(&self) -> BTreeSet<&str> {
        self.former.other_registries(&self.current)
    }

    /// Returns the length of the innermost repository of these locations that `image` is in.
    fn innermost(&self, image: &ImageRef<'_>) -> Option<usize> {
        let current = self.current.contains(image);
        let current = current.then_some(self.current.repository().len());
        current.max(self.former.innermost(image))
    }
}

impl OtherBackups {
    /// Returns all backups besides `own`.
    #[must_use]
    pub fn of(own: &BackupName<'static>, all: &ByBackup<BackupLocations>) -> Self {
        let all = all.iter();
        let all = all.map(|(name, locations)| (name.clone(), locations.clone()));
        Self {
            own: own.clone(),
            all: all.collect(),
        }
    }

    /// The name of the backup that is not one of the others.
    #[must_use]
    pub fn own_name(&self) -> &BackupName<'static> {
        &self.own
    }

    /// Returns the others with their current locations, in the order of their names, the default backup first.
    pub fn iter(&self) -> impl Iterator<Item = (&BackupName<'static>, &Backup)> {
        let others = self.all.iter().filter(|(name, _)| *name != self.own);
        others.map(|(name, locations)| (name, &locations.current))
    }

    #[must_use]
    pub fn contain(&self, image: &ImageRef<'_>) -> bool {
        self.holder(image).is_some()
    }

    /// Returns the name of the other backup that an image is in.
    #[must_use]
    pub fn holder(&self, image: &ImageRef<'_>) -> Option<&BackupName<'static>> {
        let (name, _) = self.find(image)?;
        Some(name)
    }

    /// Returns the original of a copy in another backup, with either naming; `None` if the name cannot be decoded.
    #[must_use]
    pub fn original(&self, copy: &ImageRef<'_>) -> Option<ImageRef<'static>> {
        let (_, BackupLocations { current, former }) = self.find(copy)?;
        current.original(copy).or_else(|| former.original(copy))
    }

    fn find(&self, image: &ImageRef<'_>) -> Option<&(BackupName<'static>, BackupLocations)> {
        let holders = self
            .all
            .iter()
            .filter_map(|backup| Some((backup.1.innermost(image)?, backup)));
        // The first of several that are equal.
        let holder = holders.reduce(|first, next| if next.0 > first.0 { next } else { first });
        let (_, backup) = holder?;
        (backup.0 != self.own).then_some(backup)
    }
}

impl Default for OtherBackups {
    /// There is only the default backup.
    fn default() -> Self {
        Self {
            own: BackupName::DEFAULT,
            all: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn name(text: &'static str) -> BackupName<'static> {
        BackupName::parse(text).unwrap()
    }

    #[test]
    fn the_default_backup_always_exists() {
        let mut values = ByBackup::new(1);
        values.insert(name("team-a"), 2);
        assert_eq!(values.get(&BackupName::DEFAULT), Some(&1));
        assert_eq!(values.get(&name("team-a")), Some(&2));
        assert_eq!(values.get(&name("team-b")), None);
        let doubled = values.map(|_, value| value * 2);
        let all: Vec<_> = doubled
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(all, ["default=2", "team-a=4"]);
        let failed =
            values.try_map(|name, value| name.is_default().then_some(*value).ok_or(*value));
        assert_eq!(failed.map(|_| ()).unwrap_err(), 2);
    }

    /// A location whose copies have the flat naming, and former ones.
    fn locations(location: &str, former: &[&str]) -> BackupLocations {
        let [current, _] = Backup::with_both_namings(location).unwrap();
        let former = former.iter();
        let former = former.filter_map(|former| Backup::with_both_namings(former));
        let former = FormerBackups::new(&current, former);
        BackupLocations::new(current, former)
    }

    /// `main` is the default backup. It was in `old.test/shared` before, inside the former location of `team-a`, and around the
    /// location of `team-b`.
    fn others(own: &BackupName<'static>) -> OtherBackups {
        let former = ["old.test/shared", "harbor.test/x"];
        let mut all = ByBackup::new(locations("harbor.test/main", &former));
        all.insert(
            name("team-a"),
            locations("harbor.test/team-a", &["old.test"]),
        );
        all.insert(name("team-b"), locations("harbor.test/x/b", &[]));
        OtherBackups::of(own, &all)
    }

    #[rstest]
    #[case::flat("harbor.test/team-a/docker.io-library-nginx:1", Some("team-a"), true)]
    #[case::nested("harbor.test/team-a/docker.io/library/nginx:1", Some("team-a"), true)]
    #[case::no_copy("harbor.test/team-a/tool:1", Some("team-a"), false)]
    #[case::own("harbor.test/main/docker.io-library-nginx:1", None, false)]
    #[case::own_former("harbor.test/x/docker.io-library-nginx:1", None, false)]
    #[case::inside_own_former("harbor.test/x/b/docker.io-library-nginx:1", Some("team-b"), true)]
    #[case::former("old.test/docker.io-library-nginx:1", Some("team-a"), true)]
    #[case::former_nested("old.test/docker.io/library/nginx:1", Some("team-a"), true)]
    #[case::beside_copies_of_a_whole_registry("old.test/tool:1", None, false)]
    #[case::inside_the_former_one_of_another(
        "old.test/shared/docker.io-library-nginx:1",
        None,
        false
    )]
    #[case::elsewhere("quay.io/a/b:1", None, false)]
    fn an_image_is_in_the_backup_with_the_innermost_location(
        #[case] image: &str,
        #[case] holder: Option<&str>,
        #[case] is_decoded: bool,
    ) {
        let image: ImageRef<'static> = image.parse().unwrap();
        let others = others(&BackupName::DEFAULT);
        assert_eq!(others.holder(&image).map(BackupName::as_str), holder);
        let nginx = is_decoded.then(|| "docker.io/library/nginx:1".to_owned());
        let original = others.original(&image).map(|original| original.to_string());
        assert_eq!(original, nginx);
        if let Some(holder) = holder {
            let of_holder = self::others(&BackupName::parse(holder).unwrap().into_owned());
            assert!(!of_holder.contain(&image));
        }
    }

    #[test]
    fn there_are_no_others_of_a_single_backup() {
        let image = "harbor.test/team-a/tool:1".parse().unwrap();
        assert!(!OtherBackups::default().contain(&image));
        let names = others(&name("team-a"));
        let names: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["default", "team-b"]);
    }
}
