//! Metrics of pull Secrets.

use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::{Counters, Metrics, label_values};

label_values! {
    "result",
    pub(super) enum SecretWrite {
        Created = "created",
        Changed = "changed",
        /// Deleted and created, because it could not be changed.
        Replaced = "replaced",
        Removed = "removed",
        Failed = "failed",
    }
}

/// The metrics of pull Secrets.
#[derive(Clone)]
pub struct SecretMetrics {
    managed: Gauge,
    writes: Counters<SecretWrite>,
}

impl SecretMetrics {
    #[must_use]
    pub fn register(metrics: &mut Metrics) -> Self {
        Self {
            managed: metrics.gauge("pull_secrets", "Managed pull Secrets"),
            writes: metrics.counters("pull_secret_writes", "Writes of pull Secrets, by result"),
        }
    }

    pub(super) fn secret_written(&self, result: SecretWrite) {
        self.writes.increment(result);
    }

    /// Changes the number of managed Secrets by the difference of two counts.
    pub(super) fn managed_secrets(&self, before: usize, count: usize) {
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let more = signed(count).saturating_sub(signed(before));
        self.managed.inc_by(more);
    }
}
