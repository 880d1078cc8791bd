//! What the service did, in figures: counted here, shown as `OpenMetrics` text at `/metrics`.
//!
//! No label has a value that comes from outside, so their number never grows.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mirror_copy::{CopyReport, Event, Progress};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The media type of what [`Metrics::encode`] gives (`OpenMetrics` 1.0, "Protocol Negotiation").
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the histogram in seconds: from an image whose layers are all there to one of many gigabytes.
const COPY_SECONDS: [f64; 11] = [
    0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
];

/// The figures. Clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    copies: Family<Label, Counter>,
    blobs: Family<Label, Counter>,
    sent: Counter,
    seconds: Histogram,
    jobs: Family<Label, Gauge>,
}

/// How many images are in which state, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Wait for their turn.
    pub waiting: usize,
    /// Are being copied.
    pub running: usize,
    /// Failed, and are tried again later.
    pub resting: usize,
}

/// Tells one listener what it hears, after counting it.
pub struct Counting<'a> {
    metrics: &'a Metrics,
    progress: &'a dyn Progress,
}

/// One label: a name and one of the values below.
type Label = [(&'static str, &'static str); 1];

const COPIED: Label = [("result", "copied")];
const PRESENT: Label = [("result", "present")];
const FAILED: Label = [("result", "failed")];

const BLOB_COPIED: Label = [("outcome", "copied")];
const BLOB_MOUNTED: Label = [("outcome", "mounted")];
const BLOB_SKIPPED: Label = [("outcome", "skipped")];

const WAITING: Label = [("state", "waiting")];
const RUNNING: Label = [("state", "running")];
const RESTING: Label = [("state", "resting")];

impl Metrics {
    /// All figures at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("image_mirror"),
            copies: Family::default(),
            blobs: Family::default(),
            sent: Counter::default(),
            seconds: Histogram::new(COPY_SECONDS),
            jobs: Family::default(),
        };
        inner.register();
        inner.touch();
        Self(Arc::new(inner))
    }

    /// A listener that counts what it hears and passes it on to `progress`.
    #[must_use]
    pub fn counting<'a>(&'a self, progress: &'a dyn Progress) -> Counting<'a> {
        Counting {
            metrics: self,
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
        let Inner {
            copies, seconds, ..
        } = &*self.0;
        copies.get_or_create(&result).inc();
        seconds.observe(elapsed.as_secs_f64());
    }

    /// All figures as `OpenMetrics` text; `jobs` is the state at this moment.
    ///
    /// # Errors
    /// Never for a reason that a caller could mend.
    pub fn encode(&self, jobs: Jobs) -> Result<String, fmt::Error> {
        let states = [
            (WAITING, jobs.waiting),
            (RUNNING, jobs.running),
            (RESTING, jobs.resting),
        ];
        for (state, count) in states {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.0.jobs.get_or_create(&state).set(count);
        }
        let mut body = String::new();
        text::encode(&mut body, &self.0.registry)?;
        Ok(body)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "copies",
            "Attempts to copy an image, by how they ended",
            self.copies.clone(),
        );
        registry.register(
            "blobs",
            "Blobs of copied images, by how they came to the backup registry",
            self.blobs.clone(),
        );
        registry.register_with_unit(
            "sent",
            "Bytes of blobs sent to the backup registry, those of failed attempts included",
            Unit::Bytes,
            self.sent.clone(),
        );
        registry.register_with_unit(
            "copy_duration",
            "Duration of attempts to copy an image",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "jobs",
            "Images that were asked for and have no copy yet, by state",
            self.jobs.clone(),
        );
        registry.register(
            "build",
            "The running program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
    }

    /// A figure that is not there is something else than zero: who watches for growth needs both ends.
    fn touch(&self) {
        for result in [COPIED, PRESENT, FAILED] {
            drop(self.copies.get_or_create(&result));
        }
        for outcome in [BLOB_COPIED, BLOB_MOUNTED, BLOB_SKIPPED] {
            drop(self.blobs.get_or_create(&outcome));
        }
    }
}

impl Progress for Counting<'_> {
    fn event(&self, event: Event<'_>) {
        let Inner { blobs, sent, .. } = &*self.metrics.0;
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
