//! Figures about the Events that people in the cluster see.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Label, Metrics};

/// What became of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventResult {
    /// It is in the cluster.
    Written,
    /// There were too many.
    Dropped,
    /// The API server did not take it.
    Failed,
}

#[derive(Default)]
pub(super) struct Events(Family<Label, Counter>);

impl EventResult {
    const ALL: [Self; 3] = [Self::Written, Self::Dropped, Self::Failed];

    const fn label(self) -> Label {
        let value = match self {
            Self::Written => "written",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        };
        [("result", value)]
    }
}

impl Metrics {
    /// Something was told.
    pub fn event(&self, result: EventResult) {
        self.0.events.0.get_or_create(&result.label()).inc();
    }
}

impl Events {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let events = Self::default();
        registry.register(
            "events",
            "Events for people in the cluster, by what became of them",
            events.0.clone(),
        );
        for result in EventResult::ALL {
            drop(events.0.get_or_create(&result.label()));
        }
        events
    }
}
