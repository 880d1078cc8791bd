//! Values by backup: the default backup, which always exists, and those that the configuration names.

use std::collections::BTreeMap;

use mirror_contract::{Backup, BackupName, ImageRef};

/// A value for each backup.
#[derive(Clone, Debug)]
pub struct ByBackup<T> {
    default: T,
    named: BTreeMap<BackupName<'static>, T>,
}

/// The locations of the copies of each backup: the current one, and the former ones.
pub type BackupLocations = ByBackup<Vec<Backup>>;

/// The backups besides the one of an index or a lookup. An image in them is neither an original, nor the source of a copy:
/// whoever may pull from one backup could read the images of all others.
#[derive(Clone, Debug)]
pub struct OtherBackups {
    own: BackupName<'static>,
    others: Vec<(BackupName<'static>, Backup)>,
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

impl OtherBackups {
    /// Returns all backups besides `own`.
    #[must_use]
    pub fn of(own: &BackupName<'static>, all: &ByBackup<Backup>) -> Self {
        let others = all.iter().filter(|(name, _)| *name != own);
        let others = others.map(|(name, backup)| (name.clone(), backup.clone()));
        Self {
            own: own.clone(),
            others: others.collect(),
        }
    }

    /// The name of the backup that is not one of the others.
    #[must_use]
    pub fn own_name(&self) -> &BackupName<'static> {
        &self.own
    }

    /// Returns the others in the order of their names, the default backup first.
    pub fn iter(&self) -> impl Iterator<Item = (&BackupName<'static>, &Backup)> {
        self.others.iter().map(|(name, backup)| (name, backup))
    }

    #[must_use]
    pub fn contain(&self, image: &ImageRef<'_>) -> bool {
        self.holder(image).is_some()
    }

    /// Returns the backup that an image is in, with its name.
    #[must_use]
    pub fn holder(&self, image: &ImageRef<'_>) -> Option<(&BackupName<'static>, &Backup)> {
        self.iter().find(|(_, backup)| backup.contains(image))
    }

    /// Returns the original of a copy in another backup, with either naming; `None` if the name cannot be decoded.
    #[must_use]
    pub fn original(&self, copy: &ImageRef<'_>) -> Option<ImageRef<'static>> {
        let (_, backup) = self.holder(copy)?;
        let original = backup.original(copy);
        original.or_else(|| backup.with_other_naming().original(copy))
    }
}

impl Default for OtherBackups {
    /// There is only the default backup.
    fn default() -> Self {
        Self {
            own: BackupName::DEFAULT,
            others: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use mirror_contract::Naming;

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

    #[test]
    fn copies_in_other_backups_are_decoded_with_either_naming() {
        let backup = |repository| Backup::new("harbor.test", repository, Naming::Flat).unwrap();
        let mut all = ByBackup::new(backup("main"));
        all.insert(name("team-a"), backup("team-a"));
        let others = OtherBackups::of(&BackupName::DEFAULT, &all);
        let original = |copy: &str| {
            let original = others.original(&copy.parse().unwrap());
            original.map(|original| original.to_string())
        };
        let nginx = Some("docker.io/library/nginx:1".to_owned());
        assert_eq!(
            original("harbor.test/team-a/docker.io-library-nginx:1"),
            nginx
        );
        assert_eq!(
            original("harbor.test/team-a/docker.io/library/nginx:1"),
            nginx
        );
        assert_eq!(original("harbor.test/main/docker.io-library-nginx:1"), None);
        assert!(others.contain(&"harbor.test/team-a/tool:1".parse().unwrap()));
        assert!(!others.contain(&"harbor.test/main/tool:1".parse().unwrap()));
        let of_team = OtherBackups::of(&name("team-a"), &all);
        assert!(of_team.contain(&"harbor.test/main/tool:1".parse().unwrap()));
    }
}
