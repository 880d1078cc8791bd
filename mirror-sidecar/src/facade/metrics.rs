//! Metrics of the facade's responses.

use std::time::Duration;

use mirror_contract::{ImageStatus, PullSecretStatus, RefusalKind};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::metrics::{Counters, Metrics, label_values};

/// Upper bounds in seconds: from a cached status to the longest time that a response may take.
const RESPONSE_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

label_values! {
    "status",
    /// The statuses that the contract defines, and refused requests.
    pub enum FacadeStatus {
        Mirrored = "mirrored",
        InBackup = "in_backup",
        /// The original is used, because the backup is unavailable.
        Original = "original",
        Excluded = "excluded",
        Ready = "ready",
        NotNeeded = "not_needed",
        Pending = "pending",
        Failed = "failed",
        Unavailable = "unavailable",
        /// Not a query of the policy, or without the right credentials.
        RefusedRequest = "refused_request",
    }
}

/// The metrics of the facade's responses.
#[derive(Clone)]
pub struct FacadeMetrics {
    responses: Counters<FacadeStatus>,
    seconds: Histogram,
}

impl FacadeMetrics {
    pub fn register(metrics: &mut Metrics) -> Self {
        Self {
            responses: metrics.counters("facade_responses", "Responses to the policy, by status"),
            seconds: metrics.register_with_unit(
                "facade_response_duration",
                "Duration of responses to the policy",
                Unit::Seconds,
                Histogram::new(RESPONSE_SECONDS),
            ),
        }
    }

    pub(super) fn responded(&self, status: FacadeStatus, elapsed: Duration) {
        self.responses.increment(status);
        self.seconds.observe(elapsed.as_secs_f64());
    }
}

impl From<&ImageStatus<'_>> for FacadeStatus {
    fn from(status: &ImageStatus<'_>) -> Self {
        match status {
            ImageStatus::Mirrored { .. } => Self::Mirrored,
            ImageStatus::InBackup { .. } => Self::InBackup,
            ImageStatus::Original { .. } => Self::Original,
            ImageStatus::Excluded { .. } => Self::Excluded,
        }
    }
}

impl From<&PullSecretStatus<'_>> for FacadeStatus {
    fn from(status: &PullSecretStatus<'_>) -> Self {
        match status {
            PullSecretStatus::Ready { .. } => Self::Ready,
            PullSecretStatus::NotNeeded => Self::NotNeeded,
        }
    }
}

impl From<RefusalKind> for FacadeStatus {
    fn from(kind: RefusalKind) -> Self {
        match kind {
            RefusalKind::Pending => Self::Pending,
            RefusalKind::Failed => Self::Failed,
            RefusalKind::Unavailable => Self::Unavailable,
        }
    }
}
