//! What the index must know to tell what matters.

use mirror_contract::{Backup, ImageRef, OwnerPattern};

use crate::cluster::excluded::ExcludedNamespaces;
use crate::cluster::workload::Workload;
use crate::cluster::workload_kind::WorkloadKind;
use crate::former_backups::FormerBackups;

/// What the index must know to tell what matters.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Where copies are.
    pub backup: Backup,
    /// Where copies were before.
    pub former_backups: FormerBackups,
    /// Namespaces that are left alone.
    pub excluded_namespaces: ExcludedNamespaces,
    /// The name of the pull Secret that copies need, if they need one.
    pub pull_secret: Option<String>,
    /// Names that this Secret had before.
    pub former_pull_secrets: Vec<String>,
    /// Owners whose workloads are left alone.
    pub skip_owners: Vec<OwnerPattern<'static>>,
}

impl Rules {
    /// Whether the controller of `workload` is one of those whose workloads are left alone. The policy sees that of a Pod
    /// itself.
    pub(super) fn skips(&self, workload: &Workload) -> bool {
        let is_pod = workload.key.kind == WorkloadKind::Pod;
        let owner = workload.controller.as_ref().filter(|_| !is_pod);
        owner.is_some_and(|owner| {
            let mut patterns = self.skip_owners.iter();
            patterns.any(|pattern| pattern.matches(&owner.api_version, &owner.kind))
        })
    }

    /// Whether `copy`, which an annotation names as the copy of `original`, is in the backup of another installation.
    pub(super) fn is_of_other_installation(&self, copy: &str, original: &str) -> bool {
        let (Ok(copy), Ok(original)) = (ImageRef::parse(copy), ImageRef::parse(original)) else {
            return false;
        };
        let is_known = self.backup.contains(&copy) || self.former_backups.contains(&copy);
        !is_known && Backup::any_relation(&copy, &original).is_some()
    }
}
