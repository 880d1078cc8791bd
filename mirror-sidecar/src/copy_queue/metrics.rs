//! Metrics of copies: results, bytes sent, duration, and images in the queue.

use std::time::Duration;

use mirror_contract::BackupName;
use mirror_copy::{CopyReport, Event, Progress};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::metrics::{BackupLabel, Counters, Gauges, Metrics, label_values, set};

/// Upper bounds in seconds: from an image whose layers are all present to one of many gigabytes.
const COPY_SECONDS: [f64; 11] = [
    0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
];

label_values! {
    "result",
    enum CopyResult {
        Copied = "copied",
        Present = "present",
        Failed = "failed",
    }
}

label_values! {
    "outcome",
    enum BlobOutcome {
        Copied = "copied",
        Mounted = "mounted",
        Skipped = "skipped",
    }
}

/// Numbers of images in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub waiting: usize,
    pub running: usize,
    pub backing_off: usize,
    /// Copied alone, because a process died while it copied them.
    pub isolated: usize,
}

/// The metrics of copies.
#[derive(Clone)]
pub struct CopyMetrics {
    copies: Counters<CopyResult>,
    blobs: Counters<BlobOutcome>,
    sent: Counter,
    seconds: Histogram,
    jobs: Gauges,
    isolated: Gauge,
}

/// Counts the progress of a copy and passes it on.
pub struct CountedProgress<'a> {
    metrics: &'a CopyMetrics,
    progress: &'a dyn Progress,
}

impl CopyMetrics {
    #[must_use]
    pub fn register(metrics: &mut Metrics) -> Self {
        Self {
            copies: metrics.counters("copies", "Attempts to copy an image, by result"),
            blobs: metrics.counters(
                "blobs",
                "Blobs of copied images, by how they reached the backup registry",
            ),
            sent: metrics.register_with_unit(
                "sent",
                "Bytes of blobs sent to the backup registry, including failed attempts",
                Unit::Bytes,
                Counter::default(),
            ),
            seconds: metrics.register_with_unit(
                "copy_duration",
                "Duration of attempts to copy an image",
                Unit::Seconds,
                Histogram::new(COPY_SECONDS),
            ),
            jobs: metrics.gauges("copy_jobs", "Images in the copy queue, by state"),
            isolated: metrics.gauge(
                "isolated_images",
                "Images that are copied alone, because the process died while it copied them",
            ),
        }
    }

    /// Returns the metrics of another backup. Only the images in its queue have series of their own.
    #[must_use]
    pub fn of_backup(&self, backup: &BackupName<'static>) -> Self {
        Self {
            jobs: self.jobs.of_backup(BackupLabel::of(backup)),
            ..self.clone()
        }
    }

    #[must_use]
    pub fn counted<'a>(&'a self, progress: &'a dyn Progress) -> CountedProgress<'a> {
        CountedProgress {
            metrics: self,
            progress,
        }
    }

    /// Records the end of an attempt, with a report if it succeeded.
    pub(super) fn copy_ended(&self, report: Option<&CopyReport>, elapsed: Duration) {
        self.copies.increment(match report {
            None => CopyResult::Failed,
            Some(report) if report.manifests == 0 => CopyResult::Present,
            Some(_) => CopyResult::Copied,
        });
        self.seconds.observe(elapsed.as_secs_f64());
    }

    pub(super) fn set_counts(&self, counts: Counts) {
        let states = [
            ("waiting", counts.waiting),
            ("running", counts.running),
            ("backoff", counts.backing_off),
        ];
        for (state, count) in states {
            self.jobs.set([("state", state)], count);
        }
        set(&self.isolated, counts.isolated);
    }
}

impl Progress for CountedProgress<'_> {
    fn event(&self, event: Event<'_>) {
        let CopyMetrics { blobs, sent, .. } = self.metrics;
        match event {
            Event::BlobCopied { .. } => blobs.increment(BlobOutcome::Copied),
            Event::BlobMounted { .. } => blobs.increment(BlobOutcome::Mounted),
            Event::BlobSkipped { .. } => blobs.increment(BlobOutcome::Skipped),
            Event::Bytes { bytes, .. } => _ = sent.inc_by(bytes),
            _ => {}
        }
        self.progress.event(event);
    }
}
