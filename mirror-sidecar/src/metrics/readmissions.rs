//! Figures about tries to send workloads through admission again.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Label, Metrics};
use crate::cluster::Outcome;

#[derive(Default)]
pub(super) struct Readmissions(Family<Label, Counter>);

const ALL: [Outcome; 4] = [
    Outcome::Rewritten,
    Outcome::Unchanged,
    Outcome::Outdated,
    Outcome::Failed,
];

const fn label(outcome: Outcome) -> Label {
    let value = match outcome {
        Outcome::Rewritten => "rewritten",
        Outcome::Unchanged => "unchanged",
        Outcome::Outdated => "outdated",
        Outcome::Failed => "failed",
    };
    [("result", value)]
}

impl Metrics {
    /// A try to send a workload through admission again ended.
    pub fn readmission(&self, outcome: Outcome) {
        self.0.readmissions.0.get_or_create(&label(outcome)).inc();
    }
}

impl Readmissions {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let readmissions = Self::default();
        registry.register(
            "readmissions",
            "Tries to send a workload through admission again, by what became of them",
            readmissions.0.clone(),
        );
        for outcome in ALL {
            drop(readmissions.0.get_or_create(&label(outcome)));
        }
        readmissions
    }
}
