//! Which images can be copies of which, and which pull Secrets belong to them.

use mirror_contract::{Backup, ImageRef, Relation};

use super::KnownCopies;

impl KnownCopies<'_> {
    /// Whether the settings name backups. Otherwise a copy is recognised by its name below any host, which proves little.
    pub fn has_backups(&self) -> bool {
        !self.backups.is_empty()
    }

    /// Whether `image` is in one of the backups.
    pub fn contain(&self, image: &ImageRef<'_>) -> bool {
        let mut backups = self.backups.iter().flatten();
        backups.any(|backup| backup.contains(image))
    }

    /// How `copy` relates to `original`; `None` if it is no copy of it.
    pub fn relation(&self, copy: &str, original: &str) -> Option<Relation> {
        let copy = ImageRef::parse(copy).ok()?;
        let original = ImageRef::parse(original).ok()?;
        if self.backups.is_empty() {
            return Backup::any_relation(&copy, &original);
        }
        let relation = |original: &ImageRef<'_>| {
            let mut backups = self.backups.iter().flatten();
            backups.find_map(|backup| backup.relation(&copy, original))
        };
        // The copy of a copy in another backup stands for the first original.
        relation(&original).or_else(|| {
            let copies = self.backups.iter().flatten();
            let mut copies = copies.filter_map(|backup| backup.target(&original).ok());
            copies.find_map(|first_copy| relation(&first_copy))
        })
    }

    /// Whether the pull Secret belongs to image-mirror.
    pub fn is_pull_secret(&self, name: &str) -> bool {
        self.pull_secrets.contains(&name)
    }
}
