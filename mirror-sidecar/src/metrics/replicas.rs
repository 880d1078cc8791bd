//! Figures about the replicas that share the work.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Metrics;

#[derive(Default)]
pub(super) struct Replicas {
    live: Gauge,
    lease: Gauge,
}

impl Metrics {
    /// So many replicas share the work, this one included.
    pub fn replicas(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.0.replicas.live.set(count);
    }

    /// Whether the Lease of this replica is renewed in time, so that the others see it.
    pub fn lease_held(&self, is_held: bool) {
        self.0.replicas.lease.set(is_held.into());
    }
}

impl Replicas {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let replicas = Self::default();
        registry.register(
            "replicas",
            "Replicas that share the work, this one included; 0 without a cluster and until they are known",
            replicas.live.clone(),
        );
        registry.register(
            "lease_held",
            "Whether the Lease of this replica is renewed in time",
            replicas.lease.clone(),
        );
        replicas
    }
}
