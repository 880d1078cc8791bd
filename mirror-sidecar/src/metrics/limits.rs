//! Figures about limits that users of the cluster meet. None has the namespace as a label: whoever may create namespaces
//! would choose how many series there are. Events and `/metrics` together say which and how many.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Label, Metrics};

/// Whose budget of new images it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetGroup {
    /// A namespace's.
    Namespace,
    /// That of everything the policy asks for.
    Asked,
}

#[derive(Default)]
pub(super) struct Limits {
    images_over_limit: Gauge,
    namespaces_over_limit: Gauge,
    budget_images: Family<Label, Counter>,
    budget_bytes: Family<Label, Counter>,
    budget_refused: Family<Label, Counter>,
    namespaces_without_budget: Gauge,
}

impl BudgetGroup {
    const ALL: [Self; 2] = [Self::Namespace, Self::Asked];

    const fn label(self) -> Label {
        let group = match self {
            Self::Namespace => "namespace",
            Self::Asked => "requested",
        };
        [("group", group)]
    }
}

impl Metrics {
    /// So many images are in use and not looked after, in so many namespaces.
    pub fn left_out(&self, images: usize, namespaces: usize) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.limits.images_over_limit.set(gauge(images));
        self.0.limits.namespaces_over_limit.set(gauge(namespaces));
    }

    /// So many new images and bytes were taken from a budget.
    pub fn budget_taken(&self, group: BudgetGroup, images: u64, bytes: u64) {
        let limits = &self.0.limits;
        limits
            .budget_images
            .get_or_create(&group.label())
            .inc_by(images);
        limits
            .budget_bytes
            .get_or_create(&group.label())
            .inc_by(bytes);
    }

    /// A copy was put off because of a budget.
    pub fn budget_refused(&self, group: BudgetGroup) {
        self.0
            .limits
            .budget_refused
            .get_or_create(&group.label())
            .inc();
    }

    /// So many namespaces have nothing left of their budgets.
    pub fn without_budget(&self, namespaces: usize) {
        let count = i64::try_from(namespaces).unwrap_or(i64::MAX);
        self.0.limits.namespaces_without_budget.set(count);
    }
}

impl Limits {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let limits = Self::default();
        registry.register(
            "images_over_limit",
            "Images of workloads that are not looked after, because their namespace or the cluster has too many",
            limits.images_over_limit.clone(),
        );
        registry.register(
            "namespaces_over_limit",
            "Namespaces of which images or workloads are not looked after",
            limits.namespaces_over_limit.clone(),
        );
        registry.register(
            "budget_images",
            "New images taken from the daily budgets",
            limits.budget_images.clone(),
        );
        registry.register(
            "budget_bytes",
            "Bytes sent to the backup registry, taken from the daily budgets",
            limits.budget_bytes.clone(),
        );
        registry.register(
            "budget_refused",
            "Copies put off because a daily budget was used up",
            limits.budget_refused.clone(),
        );
        registry.register(
            "namespaces_without_budget",
            "Namespaces that have nothing left of their daily budget of new images; of those that this replica sees to",
            limits.namespaces_without_budget.clone(),
        );
        for group in BudgetGroup::ALL {
            drop(limits.budget_images.get_or_create(&group.label()));
            drop(limits.budget_bytes.get_or_create(&group.label()));
            drop(limits.budget_refused.get_or_create(&group.label()));
        }
        limits
    }
}
