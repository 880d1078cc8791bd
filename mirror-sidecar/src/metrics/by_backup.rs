//! Metrics with a series for each backup. Those of the default backup have no label `backup`, which in Prometheus is the same
//! as an empty one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::BackupName;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// The name and the value of a label.
pub type Label = [(&'static str, &'static str); 1];

/// A label, and that of the backup.
pub(super) type Labels = Vec<(&'static str, String)>;

/// The backup of a series; `None` for the default one.
#[derive(Clone, Debug, Default)]
pub struct BackupLabel(Option<BackupName<'static>>);

/// A gauge for each backup.
#[derive(Clone, Debug, Default)]
pub struct GaugeByBackup {
    default: Gauge,
    named: Arc<Mutex<BTreeMap<BackupName<'static>, Gauge>>>,
}

impl BackupLabel {
    #[must_use]
    pub fn of(backup: &BackupName<'static>) -> Self {
        Self((!backup.is_default()).then(|| backup.clone()))
    }

    /// Returns `label` and the label of the backup.
    pub(super) fn with(&self, [(name, value)]: Label) -> Labels {
        let mut labels = vec![(name, value.to_owned())];
        if let Self(Some(backup)) = self {
            labels.push((BACKUP, backup.to_string()));
        }
        labels
    }
}

const BACKUP: &str = "backup";

/// One metric for each value of a label and each backup. Clones share them.
#[derive(Debug)]
pub(super) struct SeriesByBackup<M> {
    family: Family<Labels, M>,
    /// The labels with another backup than the default one.
    named: Arc<Mutex<BTreeSet<Labels>>>,
}

/// Removes the series of backups that are not configured any more. Clones are the same.
#[derive(Clone, Default)]
pub struct BackupSeries(Arc<Mutex<Vec<Removal>>>);

type Removal = Box<dyn Fn(&dyn Fn(&str) -> bool) + Send + Sync>;

impl BackupSeries {
    /// Removes the series of all backups but the default one and those that `is_configured` selects by their names.
    pub fn retain(&self, is_configured: impl Fn(&str) -> bool) {
        for removal in &*lock(&self.0) {
            removal(&is_configured);
        }
    }

    pub(super) fn add(&self, removal: impl Fn(&dyn Fn(&str) -> bool) + Send + Sync + 'static) {
        lock(&self.0).push(Box::new(removal));
    }
}

impl<M: Clone + Default> SeriesByBackup<M> {
    pub(super) fn family(&self) -> &Family<Labels, M> {
        &self.family
    }

    pub(super) fn get(&self, labels: &Labels) -> M {
        if labels.iter().any(|(name, _)| *name == BACKUP) {
            lock(&self.named).insert(labels.clone());
        }
        self.family.get_or_create_owned(labels)
    }

    pub(super) fn retain(&self, is_configured: &dyn Fn(&str) -> bool) {
        lock(&self.named).retain(|labels| {
            let is_retained = labels
                .iter()
                .all(|(name, value)| *name != BACKUP || is_configured(value));
            if !is_retained {
                self.family.remove(labels);
            }
            is_retained
        });
    }
}

impl<M: Default> Default for SeriesByBackup<M> {
    fn default() -> Self {
        Self {
            family: Family::default(),
            named: Arc::default(),
        }
    }
}

impl<M> Clone for SeriesByBackup<M> {
    fn clone(&self) -> Self {
        Self {
            family: self.family.clone(),
            named: Arc::clone(&self.named),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GaugeByBackup {
    /// Returns the gauge of a backup.
    #[must_use]
    pub fn of(&self, BackupLabel(backup): &BackupLabel) -> Gauge {
        let Some(backup) = backup else {
            return self.default.clone();
        };
        lock(&self.named).entry(backup.clone()).or_default().clone()
    }

    pub(super) fn retain(&self, is_configured: &dyn Fn(&str) -> bool) {
        lock(&self.named).retain(|name, _| is_configured(name.as_str()));
    }
}

impl EncodeMetric for GaugeByBackup {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (backup, gauge) in &*lock(&self.named) {
            let labels = [(BACKUP, backup.as_str())];
            gauge.encode(encoder.encode_family(&labels)?)?;
        }
        self.default.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}
