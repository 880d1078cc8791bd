//! Checks of copies without the sidecar.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use super::reader::Reader;
use crate::response::is_secret_name;
use crate::{Backup, ImageRef, Relation, RewriteTarget};

/// The default of the sidecar.
const DEFAULT_PULL_SECRETS: [&str; 1] = ["image-mirror-pull"];

/// Checks the annotation with the original images, which everyone who may edit a workload can write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCopies<'a> {
    /// `backups`: current and former locations of copies, as `registry/repository`; without this list, a container can
    /// only get back the copy that it ran before during an outage.
    /// Default: `[]`
    backups: Vec<[Backup; 2]>,
    /// `pullSecrets`: current and former names of the pull Secrets of the backups; during an outage no other Secret is
    /// added.
    /// Default: `[image-mirror-pull]`
    pull_secrets: Vec<Cow<'a, str>>,
}

impl<'a> KnownCopies<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Self {
        Self {
            backups: reader.list(
                "backups",
                "`registry/repository`, in lower case",
                &[],
                Backup::with_both_namings,
            ),
            pull_secrets: reader.list(
                "pullSecrets",
                "the name of a Secret",
                &DEFAULT_PULL_SECRETS,
                |name| is_secret_name(name).then_some(Cow::Borrowed(name)),
            ),
        }
    }

    /// Returns the same with owned text.
    #[must_use]
    pub fn into_owned(self) -> KnownCopies<'static> {
        let names = self.pull_secrets.into_iter();
        KnownCopies {
            backups: self.backups,
            pull_secrets: names.map(|name| Cow::Owned(name.into_owned())).collect(),
        }
    }
}

impl KnownCopies<'_> {
    /// Returns whether there are backups. Without them, a copy is recognised by its name in any registry, which proves little.
    #[must_use]
    pub fn has_backups(&self) -> bool {
        !self.backups.is_empty()
    }

    /// Returns whether a backup and `target` have repositories in common.
    #[must_use]
    pub fn overlap(&self, target: &RewriteTarget<'_>) -> bool {
        let mut backups = self.backups.iter().flatten();
        backups.any(|backup| backup.overlaps(target))
    }

    /// Returns whether `image` is in one of the backups.
    #[must_use]
    pub fn contain(&self, image: &ImageRef<'_>) -> bool {
        let mut backups = self.backups.iter().flatten();
        backups.any(|backup| backup.contains(image))
    }

    /// Returns how `copy` relates to `original`; `None` if it is not a copy of it.
    #[must_use]
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
        // The copy of a copy in another backup is a copy of the first original.
        relation(&original).or_else(|| {
            let copies = self.backups.iter().flatten();
            let mut copies = copies.filter_map(|backup| backup.target(&original).ok());
            copies.find_map(|first_copy| relation(&first_copy))
        })
    }

    /// Returns whether `name` is the name of a pull Secret.
    #[must_use]
    pub fn is_pull_secret(&self, name: &str) -> bool {
        self.pull_secrets.iter().any(|known| known == name)
    }
}
