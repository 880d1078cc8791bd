//! Figures about the pull Secrets.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Label, Metrics};

/// How a write of a pull Secret ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretWrite {
    /// There was none.
    Created,
    /// It got another content.
    Changed,
    /// It could not be changed, so it was deleted and created.
    Replaced,
    /// Nothing needed it any more.
    Removed,
    /// The API server refused it, or did not answer.
    Failed,
}

#[derive(Default)]
pub(super) struct Secrets {
    managed: Gauge,
    writes: Family<Label, Counter>,
}

impl SecretWrite {
    const ALL: [Self; 5] = [
        Self::Created,
        Self::Changed,
        Self::Replaced,
        Self::Removed,
        Self::Failed,
    ];

    const fn label(self) -> Label {
        let result = match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
            Self::Failed => "failed",
        };
        [("result", result)]
    }
}

impl Metrics {
    /// A pull Secret was written, or was not.
    pub fn secret_written(&self, result: SecretWrite) {
        self.0.secrets.writes.get_or_create(&result.label()).inc();
    }

    /// So many of the pull Secrets that are managed here are counted now, where `before` were.
    pub fn managed_secrets(&self, before: usize, count: usize) {
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let more = signed(count).saturating_sub(signed(before));
        self.0.secrets.managed.inc_by(more);
    }
}

impl Secrets {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let secrets = Self::default();
        registry.register(
            "pull_secrets",
            "Pull Secrets that are managed here",
            secrets.managed.clone(),
        );
        registry.register(
            "pull_secret_writes",
            "Writes of pull Secrets, by how they ended",
            secrets.writes.clone(),
        );
        for result in SecretWrite::ALL {
            drop(secrets.writes.get_or_create(&result.label()));
        }
        secrets
    }
}
