//! Metrics of images in use: their copies, the results of checks, and limits.

use mirror_contract::BackupName;
use prometheus_client::metrics::gauge::Gauge;

use crate::cluster::copy_status::Counts;
use crate::metrics::{BackupLabel, Counters, GaugeByBackup, Gauges, Metrics, label_values, set};

label_values! {
    "result",
    /// The result of a check of the copy.
    pub(super) enum BackupCheck {
        Present = "present",
        /// Present, and its lost tag or anchor was restored.
        Repaired = "repaired",
        /// The tag has another digest than before, for an unknown reason.
        Changed = "changed",
        /// The tag exists, but parts of the copy do not.
        Incomplete = "incomplete",
        Missing = "missing",
        /// The response of the registry was inconclusive.
        Unavailable = "unavailable",
    }
}

label_values! {
    "result",
    /// The result of a check of the original.
    pub(super) enum UpstreamCheck {
        /// The original has the digest of the copy.
        Current = "current",
        /// The tag moved, and the copy is updated.
        Updated = "updated",
        /// The tag moved, and the copy is kept, or was updated already in this interval.
        Kept = "kept",
        Gone = "gone",
        /// The response of the registry was inconclusive.
        Unknown = "unknown",
        /// Not sent, because of the registry's rate limit or because it does not respond.
        Throttled = "throttled",
    }
}

/// The metrics of images in use.
#[derive(Clone)]
pub struct ReconcilerMetrics {
    backup_label: BackupLabel,
    in_use: Gauges,
    last_copies: GaugeByBackup,
    kept: GaugeByBackup,
    backup: Counters<BackupCheck>,
    upstream: Counters<UpstreamCheck>,
    images_over_limit: GaugeByBackup,
    namespaces_over_limit: GaugeByBackup,
    namespaces_without_budget: Gauge,
}

impl ReconcilerMetrics {
    #[must_use]
    pub fn register(metrics: &mut Metrics) -> Self {
        let reconciler = Self {
            backup_label: BackupLabel::default(),
            in_use: metrics.gauges(
                "images_in_use",
                "Images that the cluster uses, by the state of their copies",
            ),
            last_copies: metrics.gauge_by_backup(
                "last_copies",
                "Images in use that this replica owns and whose original is gone",
            ),
            kept: metrics.gauge_by_backup(
                "kept_tags",
                "Images in use that this replica owns and whose tag moved while the copy was kept",
            ),
            backup: metrics.counters(
                "backup_checks",
                "Checks of the copies of images in use, by result",
            ),
            upstream: metrics.counters(
                "upstream_checks",
                "Checks of the originals of images in use, by result",
            ),
            images_over_limit: metrics.gauge_by_backup(
                "images_over_limit",
                "Images of workloads that are ignored, because their namespace or the cluster has too many",
            ),
            namespaces_over_limit: metrics.gauge_by_backup(
                "namespaces_over_limit",
                "Namespaces with images or workloads that are ignored",
            ),
            namespaces_without_budget: metrics.gauge(
                "namespaces_without_budget",
                "Namespaces whose daily budget of new images is used up, as far as this replica charges them",
            ),
        };
        reconciler.in_use(Counts::default());
        reconciler
    }

    /// Returns the metrics of another backup. The checks of originals are counted together, and so are budgets.
    #[must_use]
    pub fn of_backup(&self, backup: &BackupName<'static>) -> Self {
        let backup_label = BackupLabel::of(backup);
        let reconciler = Self {
            in_use: self.in_use.of_backup(backup_label.clone()),
            backup: self.backup.of_backup(backup_label.clone()),
            backup_label,
            ..self.clone()
        };
        reconciler.in_use(Counts::default());
        reconciler.left_out(0, 0);
        reconciler
    }

    pub(super) fn backup_checked(&self, result: BackupCheck) {
        self.backup.increment(result);
    }

    pub(super) fn upstream_checked(&self, result: UpstreamCheck) {
        self.upstream.increment(result);
    }

    /// Sets the numbers of images in use.
    pub(super) fn in_use(&self, counts: Counts) {
        let states = [
            ("unknown", counts.unknown),
            ("missing", counts.missing),
            ("copying", counts.copying),
            ("mirrored", counts.mirrored),
            // An image that is not retried soon has failed as well.
            ("failed", counts.failed.saturating_add(counts.never)),
        ];
        for (state, count) in states {
            self.in_use.set([("state", state)], count);
        }
        set(&self.last_copies.of(&self.backup_label), counts.last_copies);
        set(&self.kept.of(&self.backup_label), counts.kept);
    }

    /// Sets the number of images that are ignored, and of their namespaces.
    pub(super) fn left_out(&self, images: usize, namespaces: usize) {
        set(&self.images_over_limit.of(&self.backup_label), images);
        set(
            &self.namespaces_over_limit.of(&self.backup_label),
            namespaces,
        );
    }

    /// Sets the number of namespaces whose budget is used up.
    pub(super) fn without_budget(&self, namespaces: usize) {
        set(&self.namespaces_without_budget, namespaces);
    }
}
