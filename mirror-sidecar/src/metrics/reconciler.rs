//! Figures about the images that the cluster uses: their copies, and what looks at them find.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Label, Metrics};
use crate::cluster::copy_status::Counts;

/// What a look at the backup found of an image in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupCheck {
    /// The copy is there.
    Present,
    /// The copy is there, and its lost tag or anchor was put back.
    Repaired,
    /// The copy is something else than before, and nothing that was done here explains that.
    Changed,
    /// The tag is there, and something below it is not.
    Incomplete,
    /// There is no copy.
    Missing,
    /// The registry said nothing that could be relied on.
    Unavailable,
}

/// What a look at the registry of the original found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamCheck {
    /// The original is what the copy is.
    Current,
    /// The tag moved, and the copy follows.
    Updated,
    /// The tag moved, and the copy stays; or it followed already in this interval.
    Kept,
    /// The original is not there.
    Gone,
    /// The registry said nothing that could be relied on.
    Unknown,
    /// The registry was not asked, to spare its rate limit or because it does not answer.
    Throttled,
}

#[derive(Default)]
pub(super) struct Reconciler {
    in_use: Family<Label, Gauge>,
    last_copies: Gauge,
    kept: Gauge,
    backup: Family<Label, Counter>,
    upstream: Family<Label, Counter>,
}

impl BackupCheck {
    const ALL: [Self; 6] = [
        Self::Present,
        Self::Repaired,
        Self::Changed,
        Self::Incomplete,
        Self::Missing,
        Self::Unavailable,
    ];

    const fn label(self) -> Label {
        let result = match self {
            Self::Present => "present",
            Self::Repaired => "repaired",
            Self::Changed => "changed",
            Self::Incomplete => "incomplete",
            Self::Missing => "missing",
            Self::Unavailable => "unavailable",
        };
        [("result", result)]
    }
}

impl UpstreamCheck {
    const ALL: [Self; 6] = [
        Self::Current,
        Self::Updated,
        Self::Kept,
        Self::Gone,
        Self::Unknown,
        Self::Throttled,
    ];

    const fn label(self) -> Label {
        let result = match self {
            Self::Current => "current",
            Self::Updated => "updated",
            Self::Kept => "kept",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
            Self::Throttled => "throttled",
        };
        [("result", result)]
    }
}

impl Metrics {
    /// The copy of an image in use was looked for.
    pub fn backup_checked(&self, result: BackupCheck) {
        self.0
            .reconciler
            .backup
            .get_or_create(&result.label())
            .inc();
    }

    /// The original of an image in use was looked at, or was due.
    pub fn upstream_checked(&self, result: UpstreamCheck) {
        self.0
            .reconciler
            .upstream
            .get_or_create(&result.label())
            .inc();
    }

    /// So many images in use are in each state now.
    pub fn in_use(&self, counts: Counts) {
        self.0.reconciler.set(counts);
    }
}

impl Reconciler {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let reconciler = Self::default();
        registry.register(
            "images_in_use",
            "Images that the cluster uses, by the state of their copies",
            reconciler.in_use.clone(),
        );
        registry.register(
            "last_copies",
            "Images in use whose original is gone; of those that this replica looks after",
            reconciler.last_copies.clone(),
        );
        registry.register(
            "kept_tags",
            "Images in use whose tag moved while the copy stayed; of those that this replica looks after",
            reconciler.kept.clone(),
        );
        registry.register(
            "backup_checks",
            "Looks at the backup for copies of images in use, by what they found",
            reconciler.backup.clone(),
        );
        registry.register(
            "upstream_checks",
            "Looks at the originals of images in use, by what they found",
            reconciler.upstream.clone(),
        );
        for result in BackupCheck::ALL {
            drop(reconciler.backup.get_or_create(&result.label()));
        }
        for result in UpstreamCheck::ALL {
            drop(reconciler.upstream.get_or_create(&result.label()));
        }
        reconciler.set(Counts::default());
        reconciler
    }

    fn set(&self, counts: Counts) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let states = [
            ("unknown", counts.unknown),
            ("missing", counts.missing),
            ("copying", counts.copying),
            ("mirrored", counts.mirrored),
            // What nobody tries again soon has failed, too.
            ("failed", counts.failed.saturating_add(counts.never)),
        ];
        for (state, count) in states {
            let label: Label = [("state", state)];
            self.in_use.get_or_create(&label).set(gauge(count));
        }
        self.last_copies.set(gauge(counts.last_copies));
        self.kept.set(gauge(counts.kept));
    }
}
