//! Which images are to be looked at, in the order of time. No I/O: time is given.
//!
//! A cluster may use very many images, so nothing here goes over all of them to find the next.

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use super::image_state::{ImageState, Look};
use crate::cluster::index::Image;

/// New images that are looked for in a row while others wait: workloads that just came must not wait for the rounds, but
/// whoever makes ever new names must not end the rounds either.
const NEW_IN_A_ROW: u32 = 3;

/// What is to be looked at, and when.
#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    /// Images for whose copies nobody has looked yet.
    new: Line,
    /// Images whose copies are looked at again.
    again: Line,
    upstream: Line,
    parts: Line,
    new_in_a_row: u32,
}

/// Images in the order of time.
#[derive(Debug, Default)]
struct Line {
    in_order: BTreeSet<(Instant, Image)>,
    times: HashMap<Image, Instant>,
}

impl WorkQueue {
    /// Notes when an image is to be looked at. Must be called whenever it changed.
    pub(super) fn note(&mut self, image: &Image, item: &ImageState) {
        let at = item.next(Look::Backup);
        self.new.set(image, at.filter(|_| item.is_new()));
        self.again.set(image, at.filter(|_| !item.is_new()));
        self.upstream.set(image, item.next(Look::Upstream));
        self.parts.set(image, item.next(Look::Parts));
    }

    /// Forgets an image.
    pub(super) fn forget(&mut self, image: &Image) {
        for line in [
            &mut self.new,
            &mut self.again,
            &mut self.upstream,
            &mut self.parts,
        ] {
            line.set(image, None);
        }
    }

    /// The next image for whose copy to look now. Whoever asks begins that.
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

    /// The next image whose original is to be asked for now.
    pub(super) fn due_upstream(&self, now: Instant) -> Option<Image> {
        self.upstream.due(now)
    }

    /// The next image whose parts are to be looked for now.
    pub(super) fn due_parts(&self, now: Instant) -> Option<Image> {
        self.parts.due(now)
    }

    /// When there is something to look at next.
    pub(super) fn next(&self, look: Look) -> Option<Instant> {
        match look {
            Look::Backup => self.new.next().into_iter().chain(self.again.next()).min(),
            Look::Upstream => self.upstream.next(),
            Look::Parts => self.parts.next(),
        }
    }
}

impl Line {
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
