//! Figures about copies: how attempts end, what they send, how long they take, what waits.

use std::time::Duration;

use mirror_copy::{CopyReport, Event, Progress};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Label, Metrics};

/// Upper bounds of the histogram in seconds: from an image whose layers are all there to one of many gigabytes.
const COPY_SECONDS: [f64; 11] = [
    0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
];

const COPIED: Label = [("result", "copied")];
const PRESENT: Label = [("result", "present")];
const FAILED: Label = [("result", "failed")];

const BLOB_COPIED: Label = [("outcome", "copied")];
const BLOB_MOUNTED: Label = [("outcome", "mounted")];
const BLOB_SKIPPED: Label = [("outcome", "skipped")];

const WAITING: Label = [("state", "waiting")];
const RUNNING: Label = [("state", "running")];
const IN_BACKOFF: Label = [("state", "backoff")];

/// How many images are in which state, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Wait for their turn.
    pub waiting: usize,
    /// Are being copied.
    pub running: usize,
    /// Failed, and are tried again later.
    pub resting: usize,
    /// Are copied alone, because a process died while it copied them.
    pub isolated: usize,
}

/// Tells one listener what it hears, after counting it.
pub struct Counting<'a> {
    copying: &'a Copying,
    progress: &'a dyn Progress,
}

#[derive(Default)]
pub(super) struct Copying {
    copies: Family<Label, Counter>,
    blobs: Family<Label, Counter>,
    sent: Counter,
    seconds: Seconds,
    jobs: Family<Label, Gauge>,
    isolated: Gauge,
}

struct Seconds(Histogram);

impl Default for Seconds {
    fn default() -> Self {
        Self(Histogram::new(COPY_SECONDS))
    }
}

impl Metrics {
    /// A listener that counts what it hears and passes it on to `progress`.
    #[must_use]
    pub fn counting<'a>(&'a self, progress: &'a dyn Progress) -> Counting<'a> {
        Counting {
            copying: &self.0.copying,
            progress,
        }
    }

    /// An attempt to copy an image ended after that time, with a report if it succeeded.
    pub fn copy_ended(&self, report: Option<&CopyReport>, elapsed: Duration) {
        let result = match report {
            None => FAILED,
            Some(report) if report.manifests == 0 => PRESENT,
            Some(_) => COPIED,
        };
        let Copying {
            copies, seconds, ..
        } = &self.0.copying;
        copies.get_or_create(&result).inc();
        seconds.0.observe(elapsed.as_secs_f64());
    }
}

impl Copying {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let copying = Self::default();
        registry.register(
            "copies",
            "Attempts to copy an image, by how they ended",
            copying.copies.clone(),
        );
        registry.register(
            "blobs",
            "Blobs of copied images, by how they came to the backup registry",
            copying.blobs.clone(),
        );
        registry.register_with_unit(
            "sent",
            "Bytes of blobs sent to the backup registry, those of failed attempts included",
            Unit::Bytes,
            copying.sent.clone(),
        );
        registry.register_with_unit(
            "copy_duration",
            "Duration of attempts to copy an image",
            Unit::Seconds,
            copying.seconds.0.clone(),
        );
        registry.register(
            "copy_jobs",
            "Images that wait to be copied, are being copied, or rest after a failure",
            copying.jobs.clone(),
        );
        registry.register(
            "isolated_images",
            "Images that are copied alone, because a process ended without notice while it copied them",
            copying.isolated.clone(),
        );
        for result in [COPIED, PRESENT, FAILED] {
            drop(copying.copies.get_or_create(&result));
        }
        for outcome in [BLOB_COPIED, BLOB_MOUNTED, BLOB_SKIPPED] {
            drop(copying.blobs.get_or_create(&outcome));
        }
        copying
    }

    pub(super) fn set_jobs(&self, jobs: Jobs) {
        let states = [
            (WAITING, jobs.waiting),
            (RUNNING, jobs.running),
            (IN_BACKOFF, jobs.resting),
        ];
        for (state, count) in states {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.jobs.get_or_create(&state).set(count);
        }
        let isolated = i64::try_from(jobs.isolated).unwrap_or(i64::MAX);
        self.isolated.set(isolated);
    }
}

impl Progress for Counting<'_> {
    fn event(&self, event: Event<'_>) {
        let Copying { blobs, sent, .. } = self.copying;
        let outcome = match event {
            Event::BlobCopied { .. } => Some(BLOB_COPIED),
            Event::BlobMounted { .. } => Some(BLOB_MOUNTED),
            Event::BlobSkipped { .. } => Some(BLOB_SKIPPED),
            Event::Bytes { bytes, .. } => {
                sent.inc_by(bytes);
                None
            }
            _ => None,
        };
        if let Some(outcome) = outcome {
            blobs.get_or_create(&outcome).inc();
        }
        self.progress.event(event);
    }
}
