//! The states of the copies of images in use.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::{Digest, ImageRef};
use mirror_copy::ImageContents;
use tokio::sync::watch;
use tokio::time::Instant;

use super::index::{CopyState, Image};

/// The states of the copies of images in use. Clones share them.
#[derive(Clone, Debug)]
pub struct CopyStatuses {
    records: Arc<Mutex<Records>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Records {
    by_image: BTreeMap<Image, Record>,
    /// Of images in the targets of rewrites.
    targets: BTreeMap<Image, CopyState>,
    /// Updated with each change.
    counts: Counts,
    /// The same for the images that this replica maintains.
    own_counts: Counts,
}

/// The state of one image in use.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub state: State,
    /// The original is gone, so that the copy is the last one, or is gone as well.
    pub is_last_copy: bool,
    /// The tag moved, and the copy stays as it is (`OnMovedTag::Keep`).
    pub is_kept: bool,
    /// The original was missing at the first check and appeared later: nodes that run the image got it from elsewhere, and
    /// somebody may have taken the name since.
    pub appeared_late: bool,
    /// Only workloads name it whose rules do not use the backup. It does not count.
    pub is_barred: bool,
    pub details: Details,
}

/// The part of a [`Record`] that is only shown. Nothing follows from it, so subscribers are not notified of its changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub maintainer: Maintainer,
    pub upstream: Upstream,
    /// When this process first knew the image.
    pub first_seen: Option<Instant>,
    /// When the backup last responded about the copy.
    pub last_check: Option<Instant>,
    /// When this process last created or updated the copy.
    pub last_copy: Option<Instant>,
    /// Why there is no copy, if no attempt to copy failed.
    pub why_missing: Option<&'static str>,
    /// The size and the platforms of the copy, if they are known.
    pub contents: Option<Arc<ImageContents>>,
    /// The names of copies of the image that workloads use.
    pub copies: Arc<[Image]>,
}

/// The replica that maintains a copy, and knows all about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maintainer {
    /// This replica.
    #[default]
    Own,
    /// Another replica, which alone knows why there is no copy.
    Other,
    /// None: the image is in the backup, and its original is unknown. Each replica knows the same about it.
    None,
}

/// The original, as it was last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    #[default]
    Unknown,
    /// It has the digest of the copy, or exists while there is no copy.
    Current,
    /// Its tag has another digest than the copy.
    Moved,
    /// It is confirmed to be gone.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not checked yet.
    Unknown,
    Missing,
    /// Being copied, or in the copy queue.
    Copying,
    Mirrored {
        digest: Digest<'static>,
    },
    /// The copy failed and will be retried.
    Failed {
        /// One sentence.
        reason: Arc<str>,
    },
    /// The image cannot be copied until somebody changes something.
    Never {
        /// One sentence.
        reason: Arc<str>,
    },
}

/// The number of images in each [`State`], and of those with a flag of [`Record`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub unknown: usize,
    pub missing: usize,
    pub copying: usize,
    pub mirrored: usize,
    pub failed: usize,
    pub never: usize,
    pub last_copies: usize,
    /// Those of them whose copy is gone, too.
    pub lost: usize,
    pub kept: usize,
}

impl CopyStatuses {
    #[must_use]
    pub fn new() -> Self {
        Self {
            records: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Returns the states of copies in another backup. Subscribers of one are notified of changes of both.
    #[must_use]
    pub fn of_other_backup(&self) -> Self {
        Self {
            records: Arc::default(),
            changed: self.changed.clone(),
        }
    }

    /// Returns the state of the copy of `image`, or of the image itself if it is in the target of a rewrite, without a
    /// request.
    #[must_use]
    pub fn copy_state(&self, image: &ImageRef<'static>) -> CopyState {
        let records = self.lock();
        match records.by_image.get(image) {
            Some(record) => record.copy_state(),
            None => records
                .targets
                .get(image)
                .copied()
                .unwrap_or(CopyState::Missing),
        }
    }

    /// Returns whether the copy of `original`, which is named by its digest, is in use as far as is known: of an image that
    /// was not checked yet, any digest may be that of its copy.
    pub(crate) fn contain(&self, original: &ImageRef<'_>) -> bool {
        // The lowest of all references to this repository.
        let lowest = format!("{}/{}:0", original.host(), original.path());
        let lowest = lowest.parse::<ImageRef<'static>>();
        let (Some(digest), Ok(lowest)) = (original.digest(), lowest) else {
            return false;
        };
        let records = self.lock();
        let images = records.by_image.range::<ImageRef<'static>, _>(lowest..);
        let is_of_repository = |image: &ImageRef<'_>| {
            (image.host(), image.path()) == (original.host(), original.path())
        };
        let mut of_repository = images.take_while(|(image, _)| is_of_repository(image));
        of_repository.any(|(image, record)| match (&record.state, image.digest()) {
            (State::Mirrored { digest: copied }, _) => copied == digest,
            (State::Unknown, Some(named)) => named == digest,
            (State::Unknown, None) => true,
            _ => false,
        })
    }

    /// Images in use that were not checked yet.
    #[cfg(test)]
    pub(crate) fn not_checked(images: &[ImageRef<'static>]) -> Self {
        let copy_status = Self::new();
        for image in images {
            let record = Record {
                state: State::Unknown,
                is_last_copy: false,
                is_kept: false,
                appeared_late: false,
                is_barred: false,
                details: Details::default(),
            };
            copy_status.set(&Image::new(image.clone()), record);
        }
        copy_status
    }

    /// Sets the states of all images in the targets of rewrites.
    pub(super) fn set_targets(&self, targets: BTreeMap<Image, CopyState>) {
        let mut records = self.lock();
        if records.targets != targets {
            records.targets = targets;
            drop(records);
            self.notify();
        }
    }

    #[must_use]
    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Returns the numbers of the images that this replica maintains.
    #[must_use]
    pub fn own_counts(&self) -> Counts {
        self.lock().own_counts
    }

    /// Returns the state of an image in use; `None` if it is not in use, or was not seen yet.
    #[must_use]
    pub fn record(&self, image: &ImageRef<'static>) -> Option<Record> {
        self.lock().by_image.get(image).cloned()
    }

    /// Calls `visit` with the images in use from `start` in their order, until it returns `false`. All tasks wait for it.
    pub fn visit(
        &self,
        start: Bound<&ImageRef<'static>>,
        mut visit: impl FnMut(&Image, &Record) -> bool,
    ) {
        let records = self.lock();
        for (image, record) in records
            .by_image
            .range::<ImageRef<'static>, _>((start, Bound::Unbounded))
        {
            if !visit(image, record) {
                return;
            }
        }
    }

    /// Returns whether the target of a rewrite has this image; `None` if this replica does not check it.
    #[must_use]
    pub fn target_state(&self, image: &ImageRef<'static>) -> Option<CopyState> {
        self.lock().targets.get(image).copied()
    }

    /// Returns a receiver that is notified of changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn set(&self, image: &Image, record: Record) {
        let mut records = self.lock();
        records.count(&record);
        let before = records.by_image.get(image);
        let is_news = before.is_none_or(|before| !record.has_same_effect(before));
        if let Some(before) = records.by_image.insert(Arc::clone(image), record) {
            records.count_out(&before);
        }
        drop(records);
        if is_news {
            self.notify();
        }
    }

    pub(super) fn retain(&self, is_used: impl Fn(&Image) -> bool) {
        let mut records = self.lock();
        let before = records.by_image.len();
        let unused = records.by_image.extract_if(.., |image, _| !is_used(image));
        let unused: Vec<_> = unused.map(|(_, record)| record).collect();
        for record in &unused {
            records.count_out(record);
        }
        if records.by_image.len() != before {
            drop(records);
            self.notify();
        }
    }

    fn notify(&self) {
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records {
    fn count(&mut self, record: &Record) {
        self.counts.add(record);
        if record.is_own() {
            self.own_counts.add(record);
        }
    }

    fn count_out(&mut self, record: &Record) {
        self.counts.remove(record);
        if record.is_own() {
            self.own_counts.remove(record);
        }
    }
}

impl State {
    #[must_use]
    pub fn copy_state(&self) -> CopyState {
        match self {
            Self::Mirrored { .. } => CopyState::Mirrored,
            Self::Unknown | Self::Missing | Self::Copying | Self::Failed { .. } => {
                CopyState::Missing
            }
            Self::Never { .. } => CopyState::Never,
        }
    }
}

impl Record {
    /// Returns `Withheld` for an image that appeared late: new workloads may use the copy, but running ones must not be moved to
    /// it.
    #[must_use]
    pub fn copy_state(&self) -> CopyState {
        if self.appeared_late {
            CopyState::Withheld
        } else {
            self.state.copy_state()
        }
    }

    /// Neither the original nor the copy is there.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.is_last_copy && !matches!(self.state, State::Mirrored { .. })
    }

    /// This replica maintains the copy.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.details.maintainer == Maintainer::Own
    }

    /// Returns whether everything but the details is the same.
    fn has_same_effect(&self, other: &Self) -> bool {
        let Self {
            state,
            is_last_copy,
            is_kept,
            appeared_late,
            is_barred,
            details: _,
        } = self;
        *state == other.state
            && *is_last_copy == other.is_last_copy
            && *is_kept == other.is_kept
            && *appeared_late == other.appeared_late
            && *is_barred == other.is_barred
    }
}

impl Counts {
    pub fn add(&mut self, record: &Record) {
        if record.is_barred {
            return;
        }
        *self.of(&record.state) += 1;
        self.last_copies += usize::from(record.is_last_copy);
        self.lost += usize::from(record.is_lost());
        self.kept += usize::from(record.is_kept);
    }

    fn remove(&mut self, record: &Record) {
        if record.is_barred {
            return;
        }
        *self.of(&record.state) -= 1;
        self.last_copies -= usize::from(record.is_last_copy);
        self.lost -= usize::from(record.is_lost());
        self.kept -= usize::from(record.is_kept);
    }

    fn of(&mut self, state: &State) -> &mut usize {
        match state {
            State::Unknown => &mut self.unknown,
            State::Missing => &mut self.missing,
            State::Copying => &mut self.copying,
            State::Mirrored { .. } => &mut self.mirrored,
            State::Failed { .. } => &mut self.failed,
            State::Never { .. } => &mut self.never,
        }
    }
}

impl Default for CopyStatuses {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_original_is_in_use_by_the_digest_of_its_copy() {
        let copy_status = CopyStatuses::new();
        let image = |name: &str| -> ImageRef<'static> { name.parse().unwrap() };
        let digest = |digit: char| format!("sha256:{}", digit.to_string().repeat(64));
        let mirrored = || State::Mirrored {
            digest: Digest::parse(&digest('a')).unwrap().into_owned(),
        };
        let pinned = format!("quay.io/pinned@{}", digest('a'));
        for (name, state) in [
            ("quay.io/app:1", mirrored()),
            ("quay.io/app-2:1", mirrored()),
            (&pinned, State::Unknown),
            ("quay.io/new:1", State::Unknown),
            ("quay.io/failed:1", State::Missing),
        ] {
            let record = Record {
                state,
                is_last_copy: false,
                is_kept: false,
                appeared_late: false,
                is_barred: false,
                details: Details::default(),
            };
            copy_status.set(&Image::new(image(name)), record);
        }
        for (repository, digit, is_in_use) in [
            ("app", 'a', true),
            ("app", 'b', false),
            ("app-2", 'a', true),
            ("pinned", 'a', true),
            ("pinned", 'b', false),
            ("new", 'b', true),
            ("failed", 'a', false),
            ("other", 'a', false),
        ] {
            let original = image(&format!("quay.io/{repository}@{}", digest(digit)));
            assert_eq!(copy_status.contain(&original), is_in_use, "{original}");
        }
        assert!(!copy_status.contain(&image("quay.io/app:1")));
    }

    #[test]
    fn the_counts_are_those_of_the_records() {
        let copy_status = CopyStatuses::new();
        let image = |number: u32| Image::new(format!("quay.io/a{number}:1").parse().unwrap());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let state = match random.u32(0..3) {
                0 => State::Missing,
                1 => State::Copying,
                _ => State::Unknown,
            };
            let record = Record {
                state,
                is_last_copy: random.bool(),
                is_kept: random.bool(),
                appeared_late: false,
                is_barred: random.bool(),
                details: Details {
                    maintainer: if random.bool() {
                        Maintainer::Own
                    } else {
                        Maintainer::Other
                    },
                    ..Details::default()
                },
            };
            copy_status.set(&image(random.u32(0..20)), record);
            if random.u32(0..50) == 0 {
                let gone = image(random.u32(0..20));
                copy_status.retain(|image| *image != gone);
            }
            let (mut expected, mut own) = (Counts::default(), Counts::default());
            copy_status.visit(Bound::Unbounded, |_, record| {
                expected.add(record);
                if record.is_own() {
                    own.add(record);
                }
                true
            });
            assert_eq!(copy_status.counts(), expected);
            assert_eq!(copy_status.own_counts(), own);
        }
    }
}
