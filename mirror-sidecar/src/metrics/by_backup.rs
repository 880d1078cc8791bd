//! Metrics with a series for each backup. Those of the default backup have no label `backup`, which in Prometheus is the same
//! as an empty one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mirror_contract::BackupName;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
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

impl GaugeByBackup {
    /// Returns the gauge of a backup.
    pub fn of(&self, BackupLabel(backup): &BackupLabel) -> Gauge {
        let Some(backup) = backup else {
            return self.default.clone();
        };
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.entry(backup.clone()).or_default().clone()
    }
}

impl EncodeMetric for GaugeByBackup {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        for (backup, gauge) in &*named {
            let labels = [(BACKUP, backup.as_str())];
            gauge.encode(encoder.encode_family(&labels)?)?;
        }
        self.default.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}
