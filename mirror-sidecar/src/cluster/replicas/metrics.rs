//! Metrics of the replicas that share the work.

use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::{Metrics, set};

/// The metrics of the replicas.
#[derive(Clone)]
pub struct ReplicaMetrics {
    live: Gauge,
    lease: Gauge,
}

impl ReplicaMetrics {
    #[must_use]
    pub fn register(metrics: &mut Metrics) -> Self {
        Self {
            live: metrics.gauge(
                "replicas",
                "Replicas that share the work, including this one; 0 without a cluster and until they are known",
            ),
            lease: metrics.gauge(
                "lease_held",
                "1 while the Lease of this replica is renewed in time, otherwise 0",
            ),
        }
    }

    /// Sets the number of replicas, including this one.
    pub fn replicas(&self, count: usize) {
        set(&self.live, count);
    }

    pub(super) fn lease_held(&self, is_held: bool) {
        self.lease.set(is_held.into());
    }

    #[cfg(test)]
    pub(super) fn is_lease_held(&self) -> bool {
        self.lease.get() == 1
    }
}
