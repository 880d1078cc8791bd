//! What is known about the copies of the images in use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::{Digest, ImageRef};
use tokio::sync::watch;

use super::index::{CopyState, Image};

/// The copies of the images in use. Clones share what they know.
#[derive(Clone, Debug)]
pub struct CopyStatuses {
    records: Arc<Mutex<Records>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Records {
    by_image: BTreeMap<Image, Record>,
    /// Of all of them, kept up to date with each change.
    counts: Counts,
}

/// What is known about one image in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// How far its copy is.
    pub state: State,
    /// Whether its original is gone, so that the copy is the last one, or is gone as well.
    pub is_last_copy: bool,
    /// Whether its tag moved and the copy was told to stay what it was.
    pub is_kept: bool,
    /// Whether its copy is there, but its original was not when the image was looked for first: nodes that have run it got
    /// it from somewhere else, and somebody may have taken the name since.
    pub appeared_late: bool,
}

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has looked for it yet.
    Unknown,
    /// There is none.
    Missing,
    /// It is being made, or waits for its turn.
    Copying,
    Mirrored {
        digest: Digest<'static>,
    },
    /// It could not be made; it will be tried again.
    Failed {
        /// Why, in one sentence.
        reason: Arc<str>,
    },
    /// It cannot be made until somebody changes something.
    Never {
        /// Why, in one sentence.
        reason: Arc<str>,
    },
}

/// How many images are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// See [`State::Unknown`].
    pub unknown: usize,
    /// See [`State::Missing`].
    pub missing: usize,
    /// See [`State::Copying`].
    pub copying: usize,
    /// See [`State::Mirrored`].
    pub mirrored: usize,
    /// See [`State::Failed`].
    pub failed: usize,
    /// See [`State::Never`].
    pub never: usize,
    /// See [`Record::is_last_copy`].
    pub last_copies: usize,
    /// See [`Record::is_kept`].
    pub kept: usize,
}

impl CopyStatuses {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self {
            records: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Whether there is a copy of `image`, as far as is known without asking anybody.
    #[must_use]
    pub fn copy_state(&self, image: &ImageRef<'static>) -> CopyState {
        let records = self.lock();
        let record = records.by_image.get(image);
        record.map_or(CopyState::Missing, Record::copy_state)
    }

    /// How many images are in which state.
    #[must_use]
    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Tells when something changed.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Notes what is known about an image in use.
    pub(super) fn set(&self, image: &Image, record: Record) {
        let mut records = self.lock();
        if records.by_image.get(image) != Some(&record) {
            records.counts.add(&record);
            let before = records.by_image.insert(Arc::clone(image), record);
            if let Some(before) = before {
                records.counts.remove(&before);
            }
            drop(records);
            self.tell();
        }
    }

    /// Forgets all images but these.
    pub(super) fn keep(&self, is_used: impl Fn(&Image) -> bool) {
        let mut records = self.lock();
        let Records { by_image, counts } = &mut *records;
        let before = by_image.len();
        by_image.retain(|image, record| {
            let stays = is_used(image);
            if !stays {
                counts.remove(record);
            }
            stays
        });
        if by_image.len() != before {
            drop(records);
            self.tell();
        }
    }

    fn tell(&self) {
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What that means for workloads that use the original.
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
    /// What that means for workloads that use the original. A copy of what appeared late is there for whoever admits a
    /// workload anew; nothing that runs may be made to take it.
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
        *self.of(&record.state) += 1;
        self.last_copies += usize::from(record.is_last_copy);
        self.kept += usize::from(record.is_kept);
    }

    /// One that was added before.
    fn remove(&mut self, record: &Record) {
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
    fn the_counts_are_those_of_what_is_there() {
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
            };
            copy_status.set(&image(random.u32(0..20)), record);
            if random.u32(0..50) == 0 {
                let gone = image(random.u32(0..20));
                copy_status.keep(|image| *image != gone);
            }
            let mut expected = Counts::default();
            for record in copy_status.lock().by_image.values() {
                expected.add(record);
            }
            assert_eq!(copy_status.counts(), expected);
        }
    }
}
