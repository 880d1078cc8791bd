//! The states of the copies of images in use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::{Digest, ImageRef};
use tokio::sync::watch;

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

    /// Returns a receiver that is notified of changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn set(&self, image: &Image, record: Record) {
        let mut records = self.lock();
        if records.by_image.get(image) != Some(&record) {
            records.counts.add(&record);
            let before = records.by_image.insert(Arc::clone(image), record);
            if let Some(before) = before {
                records.counts.remove(&before);
            }
            drop(records);
            self.notify();
        }
    }

    pub(super) fn retain(&self, is_used: impl Fn(&Image) -> bool) {
        let mut records = self.lock();
        let Records {
            by_image, counts, ..
        } = &mut *records;
        let before = by_image.len();
        by_image.retain(|image, record| {
            let is_used = is_used(image);
            if !is_used {
                counts.remove(record);
            }
            is_used
        });
        if by_image.len() != before {
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
}

impl Counts {
    fn add(&mut self, record: &Record) {
        if record.is_barred {
            return;
        }
        *self.of(&record.state) += 1;
        self.last_copies += usize::from(record.is_last_copy);
        self.kept += usize::from(record.is_kept);
    }

    fn remove(&mut self, record: &Record) {
        if record.is_barred {
            return;
        }
        *self.of(&record.state) -= 1;
        self.last_copies -= usize::from(record.is_last_copy);
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
            };
            copy_status.set(&image(random.u32(0..20)), record);
            if random.u32(0..50) == 0 {
                let gone = image(random.u32(0..20));
                copy_status.retain(|image| *image != gone);
            }
            let mut expected = Counts::default();
            for record in copy_status.lock().by_image.values() {
                expected.add(record);
            }
            assert_eq!(copy_status.counts(), expected);
        }
    }
}
