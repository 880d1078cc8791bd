//! Metrics of the daily budgets. The namespace is not a label: users who may create namespaces would choose the number of
//! series.

use crate::metrics::{Counters, Metrics, label_values};

label_values! {
    "group",
    pub(super) enum BudgetGroup {
        Namespace = "namespace",
        /// The budget of everything that the policy requests.
        Requested = "requested",
    }
}

/// The metrics of the daily budgets.
#[derive(Clone)]
pub struct BudgetMetrics {
    pub(super) images: Counters<BudgetGroup>,
    pub(super) bytes: Counters<BudgetGroup>,
    pub(super) refused: Counters<BudgetGroup>,
}

impl BudgetMetrics {
    #[must_use]
    pub fn register(metrics: &mut Metrics) -> Self {
        Self {
            images: metrics.counters("budget_images", "New images charged to the daily budgets"),
            bytes: metrics.counters(
                "budget_bytes",
                "Bytes sent to the backup registry, charged to the daily budgets",
            ),
            refused: metrics.counters(
                "budget_refused",
                "Copies postponed because a daily budget was used up",
            ),
        }
    }
}
