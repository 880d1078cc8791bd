//! The settings that decide which objects the index keeps, and the names of the pull Secret that workloads list.

use mirror_contract::{Backup, BackupName, ImageRef, OwnerPattern};

use crate::backups::OtherBackups;
use crate::cluster::excluded::ExcludedNamespaces;
use crate::cluster::policies::Policies;
use crate::cluster::workload::Workload;
use crate::cluster::workload_kind::WorkloadKind;
use crate::former_backups::FormerBackups;

/// Names of the pull Secret, the current one included. [`SecretNames`] has a bit for each.
pub const MAX_SECRET_NAMES: usize = 8;

/// Index of the current name among all names of the pull Secret.
pub const CURRENT_NAME: usize = 0;

#[derive(Clone, Debug)]
pub struct Rules {
    pub backup: Backup,
    pub former_backups: FormerBackups,
    /// The other backups, and the name of this one.
    pub other_backups: OtherBackups,
    /// With the policies, which decide instead of the flags if there are any.
    pub excluded_namespaces: ExcludedNamespaces,
    /// The name of the pull Secret, if copies need one.
    pub pull_secret: Option<String>,
    /// Names that this Secret had before.
    pub former_pull_secrets: Vec<String>,
    /// Owners whose workloads are left alone if there are no policies.
    pub skip_owners: Vec<OwnerPattern<'static>>,
}

/// The names of the pull Secret that a workload lists, as bits by their index in [`Rules::secret_names`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SecretNames(u8);

/// How many workloads list each of the names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SecretNameCounts([u32; MAX_SECRET_NAMES]);

impl Rules {
    /// Returns whether this is the index of the default backup. It alone keeps what concerns no backup: listed pull Secrets,
    /// owners whose workloads are left alone, other installations, and templates of Pods.
    pub(super) fn is_of_default(&self) -> bool {
        self.backup_name().is_default()
    }

    pub(super) fn backup_name(&self) -> &BackupName<'static> {
        self.other_backups.own_name()
    }

    /// Returns whether the controller of `workload` is excluded. Pods are not checked: the policy sees their controller itself.
    pub(super) fn skips(&self, workload: &Workload) -> bool {
        let is_pod = workload.key.kind == WorkloadKind::Pod;
        let owner = workload.controller.as_ref().filter(|_| !is_pod);
        let policies = self.policies().current();
        owner.is_some_and(|owner| {
            if !policies.is_empty() {
                return policies.skips_owner(&owner.api_version, &owner.kind);
            }
            let mut patterns = self.skip_owners.iter();
            patterns.any(|pattern| pattern.matches(&owner.api_version, &owner.kind))
        })
    }

    pub(super) fn policies(&self) -> &Policies {
        self.excluded_namespaces.policies()
    }

    /// Returns whether an annotated copy is in the backup of another installation.
    pub(super) fn is_of_other_installation(&self, copy: &str, original: &str) -> bool {
        let (Ok(copy), Ok(original)) = (ImageRef::parse(copy), ImageRef::parse(original)) else {
            return false;
        };
        !self.is_in_backup(&copy)
            && !self.other_backups.contain(&copy)
            && Backup::any_relation(&copy, &original).is_some()
    }

    /// Returns whether an image is in the backup or in a former one, and not in another backup.
    pub(super) fn is_in_backup(&self, image: &ImageRef<'_>) -> bool {
        let is_inside = self.backup.contains(image) || self.former_backups.contains(image);
        is_inside && !self.other_backups.contain(image)
    }

    /// Returns the original of a copy whose name contains it. An image in a backup is no original.
    pub(super) fn original(&self, copy: &ImageRef<'_>) -> Option<ImageRef<'static>> {
        let original = self.backup.original(copy)?;
        let is_copy = self.is_in_backup(&original) || self.other_backups.contain(&original);
        (!is_copy).then_some(original)
    }

    /// Returns all names of the pull Secret, the current one first.
    fn secret_names(&self) -> impl Iterator<Item = Option<&str>> {
        let former = self.former_pull_secrets.iter();
        std::iter::once(self.pull_secret.as_deref())
            .chain(former.map(|name| Some(name.as_str())))
            .take(MAX_SECRET_NAMES)
    }
}

impl SecretNames {
    pub(super) fn of(listed: &[String], rules: &Rules) -> Self {
        let is_listed =
            |name: Option<&str>| name.is_some_and(|name| listed.iter().any(|it| it == name));
        let names = rules.secret_names().enumerate();
        let bits = names.map(|(index, name)| u8::from(is_listed(name)) << index);
        Self(bits.fold(0, |all, bit| all | bit))
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether only former names are listed, so that the workload is to be moved to the current one.
    pub(super) fn is_outdated(self) -> bool {
        !self.is_empty() && !self.has(CURRENT_NAME)
    }

    fn has(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }
}

impl SecretNameCounts {
    pub(super) fn add(&mut self, names: SecretNames) {
        for (index, count) in self.0.iter_mut().enumerate() {
            *count = count.saturating_add(u32::from(names.has(index)));
        }
    }

    pub(super) fn remove(&mut self, names: SecretNames) {
        for (index, count) in self.0.iter_mut().enumerate() {
            *count = count.saturating_sub(u32::from(names.has(index)));
        }
    }

    pub(super) fn is_listed(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|count| *count > 0)
    }
}
