//! What the replicas that share work have in common.

use std::time::Duration;

use mirror_contract::ImageRef;
use mirror_contract::workload::GROUP;
use sha2::{Digest as _, Sha256};

use crate::cluster::index::Rules;

/// How long a replica counts as alive after its last sign of life: a crash costs no more than this. Three renewals may
/// be lost.
pub(super) const DURATION: Duration = Duration::from_secs(15);

/// Between two signs of life.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(5);

/// What the names of all Leases of replicas begin with.
pub(super) const PREFIX: &str = "mirror-sidecar-";

/// The annotation of a Lease that says which images its replica is copying, and which it copies alone.
pub(super) const RECORD_ANNOTATION: &str = "image-mirror.dev/copies";

/// Where one image goes, to tell backups from each other. Any image would do.
const SAMPLE: &str = "docker.io/library/sample:1";

/// Which replicas share work: those that have the same to do. Two installations in one namespace may have different
/// backups, or leave different namespaces alone; neither does the other's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(String);

impl Group {
    /// The group of all replicas that follow the same rules.
    #[must_use]
    pub fn of(rules: &Rules) -> Self {
        let sample = ImageRef::parse(SAMPLE)
            .ok()
            .and_then(|image| rules.backup.target(&image).ok());
        let mut excluded: Vec<String> = rules
            .excluded_namespaces
            .patterns()
            // Should its form ever change, old and new replicas do not share during that one update.
            .map(|pattern| format!("{pattern:?}"))
            .collect();
        excluded.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(sample.map(|copy| copy.to_string()).unwrap_or_default());
        for pattern in excluded {
            hash.update(" ");
            hash.update(pattern);
        }
        hash.update("\n");
        hash.update(rules.pull_secret.as_deref().unwrap_or_default());
        // 64 bits are plenty to tell the few installations of a namespace from each other.
        let hash = hash.finalize();
        let first = hash.iter().take(8);
        let number = first.fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Self(format!("{number:016x}"))
    }

    /// What the label says.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn selector(&self) -> String {
        format!("{GROUP}={}", self.0)
    }
}
