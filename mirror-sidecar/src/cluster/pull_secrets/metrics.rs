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

/// The number of managed Secrets of one name, as a part of that of all names. It no longer counts when this is dropped.
pub(super) struct ManagedSecrets {
    all: Gauge,
    count: i64,
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

    /// The managed Secrets of one name.
    pub(super) fn managed_secrets(&self) -> ManagedSecrets {
        ManagedSecrets {
            all: self.managed.clone(),
            count: 0,
        }
    }
}

impl ManagedSecrets {
    pub(super) fn set(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.all.inc_by(count.saturating_sub(self.count));
        self.count = count;
    }
}

impl Drop for ManagedSecrets {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each name has a controller, and a changed configuration has other ones.
    #[test]
    fn the_number_of_managed_secrets_is_that_of_the_running_controllers() {
        let metrics = SecretMetrics::register(&mut Metrics::new());
        let (mut first, mut second) = (metrics.managed_secrets(), metrics.managed_secrets());
        first.set(3);
        second.set(2);
        first.set(4);
        drop(second);
        assert_eq!(metrics.managed.get(), 4);
        drop(first);
        assert_eq!(metrics.managed.get(), 0);
    }
}
