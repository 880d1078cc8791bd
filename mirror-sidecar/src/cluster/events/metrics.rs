//! Metrics of Events.

use crate::metrics::{Counters, Metrics, label_values};

label_values! {
    "result",
    pub(super) enum EventResult {
        Written = "written",
        /// Beyond the rate, or the queue was full.
        Dropped = "dropped",
        /// The API server did not accept it.
        Failed = "failed",
    }
}

/// The metrics of Events.
#[derive(Clone)]
pub struct EventMetrics(Counters<EventResult>);

impl EventMetrics {
    #[must_use]
    pub fn register(metrics: &mut Metrics) -> Self {
        Self(metrics.counters("events", "Kubernetes Events, by result"))
    }

    pub(super) fn event(&self, result: EventResult) {
        self.0.increment(result);
    }

    #[cfg(test)]
    pub(super) fn count(&self, result: EventResult) -> u64 {
        self.0.get(result)
    }
}
