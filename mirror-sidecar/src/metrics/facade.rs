//! Figures about the facade's answers.

use std::time::Duration;

use mirror_contract::{ImageStatus, PullSecretStatus, RefusalKind};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Label, Metrics};

/// Upper bounds of the histogram in seconds: from what is remembered to the longest time that an answer may take.
const ANSWER_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// The kinds of answers. All but the last are answers to queries of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FacadeStatus {
    /// There is a copy.
    Mirrored,
    /// The image is in the backup itself.
    InBackup,
    /// There will never be a copy.
    Excluded,
    /// The pull Secret is there.
    Ready,
    /// No pull Secret is needed.
    NotNeeded,
    /// Not yet.
    Pending,
    /// It could not be done.
    Failed,
    /// It cannot be told now.
    Unavailable,
    /// No query of the policy, or without the right credentials.
    RefusedRequest,
}

pub(super) struct FacadeMetrics {
    kinds: Family<Label, Counter>,
    seconds: Histogram,
}

impl FacadeStatus {
    const ALL: [Self; 9] = [
        Self::Mirrored,
        Self::InBackup,
        Self::Excluded,
        Self::Ready,
        Self::NotNeeded,
        Self::Pending,
        Self::Failed,
        Self::Unavailable,
        Self::RefusedRequest,
    ];

    const fn label(self) -> Label {
        let value = match self {
            Self::Mirrored => "mirrored",
            Self::InBackup => "in_backup",
            Self::Excluded => "excluded",
            Self::Ready => "ready",
            Self::NotNeeded => "not_needed",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Unavailable => "unavailable",
            Self::RefusedRequest => "refused_request",
        };
        [("status", value)]
    }
}

impl From<&ImageStatus<'_>> for FacadeStatus {
    fn from(answer: &ImageStatus<'_>) -> Self {
        match answer {
            ImageStatus::Mirrored { .. } => Self::Mirrored,
            ImageStatus::InBackup { .. } => Self::InBackup,
            ImageStatus::Excluded { .. } => Self::Excluded,
        }
    }
}

impl From<&PullSecretStatus<'_>> for FacadeStatus {
    fn from(answer: &PullSecretStatus<'_>) -> Self {
        match answer {
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

impl Metrics {
    /// The facade gave an answer, after that time.
    pub fn answered(&self, answer: FacadeStatus, elapsed: Duration) {
        let FacadeMetrics { kinds, seconds } = &self.0.answers;
        kinds.get_or_create(&answer.label()).inc();
        seconds.observe(elapsed.as_secs_f64());
    }
}

impl FacadeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let answers = Self {
            kinds: Family::default(),
            seconds: Histogram::new(ANSWER_SECONDS),
        };
        registry.register(
            "facade_responses",
            "Answers to the policy, by kind",
            answers.kinds.clone(),
        );
        registry.register_with_unit(
            "facade_response_duration",
            "Duration of answers to the policy",
            Unit::Seconds,
            answers.seconds.clone(),
        );
        for answer in FacadeStatus::ALL {
            drop(answers.kinds.get_or_create(&answer.label()));
        }
        answers
    }
}
