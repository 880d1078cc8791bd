//! Where the status of the running process comes from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::backups::ByBackup;
use crate::cluster::shared_index::Indexes;
use crate::cluster::{CopyStatuses, ExcludedNamespaces, Replicas};
use crate::lookup::Lookup;

/// The parts of the running process that know the status. Clones share them.
#[derive(Clone)]
pub struct Sources {
    pub backups: ByBackup<Lookup>,
    /// `None` without a cluster: no images in use are known then.
    pub cluster: Option<ClusterSources>,
    pub clock: WallClock,
}

#[derive(Clone)]
pub struct ClusterSources {
    pub indexes: Indexes,
    pub copy_status: ByBackup<CopyStatuses>,
    pub excluded: ExcludedNamespaces,
    pub replicas: Replicas,
}

/// Turns instants of this process into times. Equal instants have equal times, also if the wall clock is set meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    instant: Instant,
    time: Timestamp,
}

impl WallClock {
    #[must_use]
    pub fn now() -> Self {
        Self {
            instant: Instant::now(),
            time: Timestamp::now(),
        }
    }

    #[must_use]
    pub fn time(&self, instant: Instant) -> Time {
        let offset = |duration| SignedDuration::try_from(duration).unwrap_or_default();
        let later = offset(instant.saturating_duration_since(self.instant));
        let earlier = offset(self.instant.saturating_duration_since(instant));
        let time = self.time.saturating_add(later - earlier);
        Time(time.unwrap_or(self.time))
    }
}
