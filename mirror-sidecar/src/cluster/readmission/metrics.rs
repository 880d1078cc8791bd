//! Metrics of re-admissions.

use super::policy::Outcome;
use crate::metrics::{Counters, Label, LabelValue, Metrics};

impl LabelValue for Outcome {
    const ALL: &'static [Self] = &[
        Self::Rewritten,
        Self::Unchanged,
        Self::Outdated,
        Self::Failed,
    ];

    fn label(self) -> Label {
        let value = match self {
            Self::Rewritten => "rewritten",
            Self::Unchanged => "unchanged",
            Self::Outdated => "outdated",
            Self::Failed => "failed",
        };
        [("result", value)]
    }
}

/// The metrics of re-admissions.
#[derive(Clone)]
pub struct ReadmissionMetrics(Counters<Outcome>);

impl ReadmissionMetrics {
    #[must_use]
    pub fn register(metrics: &mut Metrics) -> Self {
        let help = "Attempts to send a workload through admission again, by result";
        Self(metrics.counters("readmissions", help))
    }

    pub(super) fn readmission(&self, outcome: Outcome) {
        self.0.increment(outcome);
    }

    #[cfg(test)]
    pub(super) fn count(&self, outcome: Outcome) -> u64 {
        self.0.get(outcome)
    }
}
