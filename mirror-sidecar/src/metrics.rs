//! The metrics of the service, encoded as `OpenMetrics` text.
//!
//! Each group of metrics lives with its owner and is registered when the service starts. No label takes values from outside
//! without a bound. Every series is exported from the start: a missing series is not zero.

mod by_backup;

use std::fmt;
use std::marker::PhantomData;

use prometheus_client::encoding::{EncodeMetric, text};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use by_backup::SeriesByBackup;
pub use by_backup::{BackupLabel, BackupSeries, GaugeByBackup, Label};

/// The media type of [`Metrics::encode`] (`OpenMetrics` 1.0, "Protocol Negotiation").
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registered metrics.
pub struct Metrics {
    registry: Registry,
    updates: Vec<Box<dyn Fn() + Send + Sync>>,
    of_backups: BackupSeries,
}

/// The values of one label.
pub trait LabelValue: Copy + 'static {
    const ALL: &'static [Self];

    fn label(self) -> Label;
}

/// Defines the values of a label as an enum.
macro_rules! label_values {
    (
        $label:literal,
        $(#[$meta:meta])*
        $visibility:vis enum $Name:ident { $($(#[$doc:meta])* $Variant:ident = $value:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $Name {
            $($(#[$doc])* $Variant,)+
        }

        impl $crate::metrics::LabelValue for $Name {
            const ALL: &'static [Self] = &[$(Self::$Variant,)+];

            fn label(self) -> $crate::metrics::Label {
                let value = match self {
                    $(Self::$Variant => $value,)+
                };
                [($label, value)]
            }
        }
    };
}
pub(crate) use label_values;

/// One gauge for each value of a label.
#[derive(Clone, Debug)]
pub struct Gauges {
    series: SeriesByBackup<Gauge>,
    backup: BackupLabel,
}

/// One counter for each value of a label.
#[derive(Debug)]
pub struct Counters<V> {
    series: SeriesByBackup<Counter>,
    backup: BackupLabel,
    values: PhantomData<V>,
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("image_mirror");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running program", version);
        Self {
            registry,
            updates: Vec::new(),
            of_backups: BackupSeries::default(),
        }
    }

    pub fn register<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.registry.register(name, help, metric.clone());
        metric
    }

    pub fn register_with_unit<M: Metric + Clone>(
        &mut self,
        name: &str,
        help: &str,
        unit: Unit,
        metric: M,
    ) -> M {
        self.registry
            .register_with_unit(name, help, unit, metric.clone());
        metric
    }

    pub fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    pub fn counters<V: LabelValue>(&mut self, name: &str, help: &str) -> Counters<V> {
        let counters = Counters {
            series: self.series(name, help),
            backup: BackupLabel::default(),
            values: PhantomData,
        };
        counters.of_backup(BackupLabel::default())
    }

    /// Gauges for the values of one label. No series exists before it is set.
    pub fn gauges(&mut self, name: &str, help: &str) -> Gauges {
        Gauges {
            series: self.series(name, help),
            backup: BackupLabel::default(),
        }
    }

    /// A gauge for each backup, 0 for the default one.
    pub fn gauge_by_backup(&mut self, name: &str, help: &str) -> GaugeByBackup {
        let gauge = self.register(name, help, GaugeByBackup::default());
        let retained = gauge.clone();
        self.of_backups
            .add(move |is_configured| retained.retain(is_configured));
        gauge
    }

    /// Returns what removes the series of backups.
    #[must_use]
    pub fn of_backups(&self) -> BackupSeries {
        self.of_backups.clone()
    }

    fn series<M>(&mut self, name: &str, help: &str) -> SeriesByBackup<M>
    where
        M: Clone + Default + EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
    {
        let series = SeriesByBackup::<M>::default();
        self.register(name, help, series.family().clone());
        let retained = series.clone();
        self.of_backups
            .add(move |is_configured| retained.retain(is_configured));
        series
    }

    /// Calls `update` before each encoding.
    pub fn before_encoding(&mut self, update: impl Fn() + Send + Sync + 'static) {
        self.updates.push(Box::new(update));
    }

    /// Encodes all metrics as `OpenMetrics` text.
    ///
    /// # Errors
    /// Not for any value of the metrics.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        for update in &self.updates {
            update();
        }
        let mut body = String::new();
        text::encode(&mut body, &self.registry)?;
        Ok(body)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Gauges {
    /// Returns the gauges of a backup.
    #[must_use]
    pub fn of_backup(&self, backup: BackupLabel) -> Self {
        Self {
            series: self.series.clone(),
            backup,
        }
    }

    pub fn set(&self, label: Label, count: usize) {
        set(&self.series.get(&self.backup.with(label)), count);
    }
}

impl<V: LabelValue> Counters<V> {
    /// Returns the counters of a backup, all of which are exported from now on.
    #[must_use]
    pub fn of_backup(&self, backup: BackupLabel) -> Self {
        let counters = Self {
            series: self.series.clone(),
            backup,
            values: PhantomData,
        };
        for value in V::ALL {
            counters.add(*value, 0);
        }
        counters
    }

    pub fn increment(&self, value: V) {
        self.add(value, 1);
    }

    pub fn add(&self, value: V, count: u64) {
        let labels = self.backup.with(value.label());
        self.series.get(&labels).inc_by(count);
    }

    #[cfg(test)]
    pub fn get(&self, value: V) -> u64 {
        let labels = self.backup.with(value.label());
        self.series.get(&labels).get()
    }
}

impl<V> Clone for Counters<V> {
    fn clone(&self) -> Self {
        Self {
            series: self.series.clone(),
            backup: self.backup.clone(),
            values: PhantomData,
        }
    }
}

/// Sets a gauge to a number of objects.
pub fn set(gauge: &Gauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use mirror_contract::BackupName;

    use super::*;

    label_values! {
        "result",
        enum Result {
            Copied = "copied",
        }
    }

    #[test]
    fn only_series_of_other_backups_than_the_default_one_name_theirs() {
        let mut metrics = Metrics::new();
        let counters = metrics.counters::<Result>("copies", "Copies");
        let states = metrics.gauges("jobs", "Jobs");
        let gauge = metrics.gauge_by_backup("last_copies", "Last copies");
        let team = BackupLabel::of(&BackupName::parse("team-a").unwrap());
        let default = BackupLabel::of(&BackupName::DEFAULT);
        counters.increment(Result::Copied);
        let _ = counters.of_backup(team.clone());
        states
            .of_backup(team.clone())
            .set([("state", "waiting")], 2);
        states.set([("state", "waiting")], 1);
        set(&gauge.of(&team), 4);
        set(&gauge.of(&default), 3);
        let text = metrics.encode().unwrap();
        for line in [
            "image_mirror_copies_total{result=\"copied\"} 1",
            "image_mirror_copies_total{result=\"copied\",backup=\"team-a\"} 0",
            "image_mirror_jobs{state=\"waiting\"} 1",
            "image_mirror_jobs{state=\"waiting\",backup=\"team-a\"} 2",
            "image_mirror_last_copies 3",
            "image_mirror_last_copies{backup=\"team-a\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert_eq!(text.matches("# TYPE image_mirror_last_copies").count(), 1);
        metrics.of_backups().retain(|name| name == "team-a");
        assert_eq!(metrics.encode().unwrap(), text);
        metrics.of_backups().retain(|_| false);
        let text = metrics.encode().unwrap();
        assert!(!text.contains("team-a"), "{text}");
        assert!(text.contains("image_mirror_last_copies 3"), "{text}");
    }
}
