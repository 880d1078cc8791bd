//! The images whose checks are due, in the order of time. No I/O; the time is passed in.
//!
//! Nothing here iterates over all images: a cluster may use very many.

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use super::image_state::ImageState;
use super::probe::Check;
use crate::cluster::index::Image;

/// New images that are checked in a row while re-checks wait: new workloads must not wait for re-checks, and a tenant who
/// keeps creating image names must not starve them.
const NEW_IN_A_ROW: u32 = 3;

/// When each check of each image is due.
#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    /// First checks of the backup.
    new: Timers,
    /// Re-checks of the backup.
    again: Timers,
    upstream: Timers,
    parts: Timers,
    new_in_a_row: u32,
}

/// Images ordered by time.
#[derive(Debug, Default)]
struct Timers {
    in_order: BTreeSet<(Instant, Image)>,
    times: HashMap<Image, Instant>,
}

impl WorkQueue {
    /// Sets when the checks of an image are due. Must be called after each change of its state.
    pub(super) fn set(&mut self, image: &Image, state: &ImageState) {
        let at = state.next(Check::Backup);
        self.new.set(image, at.filter(|_| state.is_new()));
        self.again.set(image, at.filter(|_| !state.is_new()));
        self.upstream.set(image, state.next(Check::Upstream));
        self.parts.set(image, state.next(Check::Parts));
    }

    pub(super) fn forget(&mut self, image: &Image) {
        for timers in [
            &mut self.new,
            &mut self.again,
            &mut self.upstream,
            &mut self.parts,
        ] {
            timers.set(image, None);
        }
    }

    /// The next image whose backup check is due. The caller starts the check.
    pub(super) fn due_in_backup(&mut self, now: Instant) -> Option<Image> {
        let (new, again) = (self.new.due(now), self.again.due(now));
        let is_new_ones_turn = again.is_none() || self.new_in_a_row < NEW_IN_A_ROW;
        let new = new.filter(|_| is_new_ones_turn);
        self.new_in_a_row = if new.is_some() {
            self.new_in_a_row.saturating_add(1)
        } else {
            0
        };
        new.or(again)
    }

    pub(super) fn due_upstream(&self, now: Instant) -> Option<Image> {
        self.upstream.due(now)
    }

    pub(super) fn due_parts(&self, now: Instant) -> Option<Image> {
        self.parts.due(now)
    }

    /// When the next check of this kind is due.
    pub(super) fn next(&self, check: Check) -> Option<Instant> {
        match check {
            Check::Backup => self.new.next().into_iter().chain(self.again.next()).min(),
            Check::Upstream => self.upstream.next(),
            Check::Parts => self.parts.next(),
        }
    }
}

impl Timers {
    fn set(&mut self, image: &Image, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.times.insert(Image::clone(image), at),
            None => self.times.remove(image),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.in_order.remove(&(before, Image::clone(image)));
        }
        if let Some(at) = at {
            self.in_order.insert((at, Image::clone(image)));
        }
    }

    fn next(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, _)| *at)
    }

    fn due(&self, now: Instant) -> Option<Image> {
        let (at, image) = self.in_order.first()?;
        (*at <= now).then(|| Image::clone(image))
    }
}
