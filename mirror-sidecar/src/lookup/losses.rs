//! Copies that the backup registry loses after they were verified, because of clean-up rules, an evicting cache, or replicas
//! that disagree. They are restored with a backoff.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_contract::ImageRef;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::logging::Throttle;

/// How long a copy is tracked after it was created, and how long a loss counts.
const WATCHED_FOR: Duration = Duration::from_hours(1);

/// Losses of one image from which on it has a backoff. After fewer, the copy is restored immediately: somebody may have
/// deleted it.
const LOSSES_BEFORE_BACKOFF: u32 = 5;

const FIRST_BACKOFF: Duration = Duration::from_secs(30);
const LONGEST_BACKOFF: Duration = Duration::from_mins(15);

/// Tracked images, at about 250 bytes each.
const MAX_IMAGES: usize = 10_000;

/// Shortest time between two warnings.
const WARN_INTERVAL: Duration = Duration::from_hours(1);

/// The copies that this process created lately. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    records: Arc<Mutex<HashMap<ImageRef<'static>, Record>>>,
    warning: Arc<Throttle>,
}

#[derive(Debug)]
struct Record {
    losses: u32,
    backoff: Backoff,
    /// When the copy was created, or found to be lost.
    changed: Instant,
    is_there: bool,
}

impl Losses {
    pub(super) fn new() -> Self {
        Self {
            records: Arc::default(),
            warning: Arc::new(Throttle::new(WARN_INTERVAL)),
        }
    }

    /// Records a new copy.
    pub(super) fn copied(&self, image: &ImageRef<'static>, now: Instant) {
        let mut records = self.records();
        if records.len() >= MAX_IMAGES && !records.contains_key(image) {
            records.retain(|_, record| record.is_fresh(now));
            if records.len() >= MAX_IMAGES {
                return;
            }
        }
        let record = records.entry(image.clone()).or_insert_with(|| Record {
            losses: 0,
            backoff: Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF),
            changed: now,
            is_there: true,
        });
        record.changed = now;
        record.is_there = true;
    }

    /// Records that the backup had no copy of this image at this time. Logs a warning after the second loss.
    pub(super) fn missing(&self, image: &ImageRef<'static>, asked_at: Instant) {
        let mut records = self.records();
        let Some(record) = records.get_mut(image) else {
            return;
        };
        if !record.is_fresh(asked_at) {
            records.remove(image);
            return;
        }
        // A copy may have been created since the request.
        if !record.is_there || record.changed >= asked_at {
            return;
        }
        let after = asked_at.duration_since(record.changed);
        record.losses = record.losses.saturating_add(1);
        record.is_there = false;
        record.changed = asked_at;
        if record.losses >= LOSSES_BEFORE_BACKOFF {
            record.backoff.fail(asked_at);
        }
        if record.losses > 1
            && let Some(times) = self.warning.count()
        {
            tracing::warn!(
                %image, losses = record.losses, after_s = after.as_secs(), times,
                "the backup registry loses copies; check its clean-up rules, its storage, and what else deletes tags there"
            );
        }
    }

    /// Returns the remaining backoff of this image.
    pub(super) fn backoff(&self, image: &ImageRef<'static>, now: Instant) -> Option<Duration> {
        let until = self.records().get(image)?.backoff.until(now)?;
        Some(until.duration_since(now))
    }

    fn records(&self) -> MutexGuard<'_, HashMap<ImageRef<'static>, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.changed) < WATCHED_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageRef<'static> {
        ImageRef::parse("ghcr.io/acme/app:1").unwrap().into_owned()
    }

    /// Losses in a row, each found several times; gives the pauses in seconds.
    fn pauses(losses: &Losses, count: u32, now: &mut Instant) -> Vec<u64> {
        let image = image();
        let lose = |_| {
            losses.copied(&image, *now);
            *now += Duration::from_secs(1);
            losses.missing(&image, *now);
            losses.missing(&image, *now);
            let pause = losses.backoff(&image, *now).unwrap_or_default();
            *now += pause;
            assert_eq!(losses.backoff(&image, *now), None);
            pause.as_secs()
        };
        (0..count).map(lose).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn copies_that_are_lost_again_and_again_are_made_less_often() {
        let (losses, mut now) = (Losses::new(), Instant::now());
        assert_eq!(
            pauses(&losses, 11, &mut now),
            [0, 0, 0, 0, 30, 60, 120, 240, 480, 900, 900]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_stays_is_not_held_against_the_registry() {
        let (losses, mut now) = (Losses::new(), Instant::now());
        pauses(&losses, 6, &mut now);
        losses.copied(&image(), now);
        now += WATCHED_FOR;
        losses.missing(&image(), now);
        assert_eq!(losses.backoff(&image(), now), None);
        assert_eq!(pauses(&losses, 1, &mut now), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_was_made_meanwhile_is_no_loss() {
        let (losses, now) = (Losses::new(), Instant::now());
        losses.copied(&image(), now + Duration::from_secs(1));
        losses.missing(&image(), now);
        assert!(losses.records()[&image()].is_there);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_never_copied_here_is_no_loss() {
        let losses = Losses::new();
        losses.missing(&image(), Instant::now());
        assert!(losses.records().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn images_are_bounded() {
        let losses = Losses::new();
        let named = |n: usize| {
            let name = format!("ghcr.io/acme/app:{n}");
            ImageRef::parse(&name).unwrap().into_owned()
        };
        for n in 0..=MAX_IMAGES {
            losses.copied(&named(n), Instant::now());
        }
        assert_eq!(losses.records().len(), MAX_IMAGES);
        losses.copied(&named(MAX_IMAGES), Instant::now() + WATCHED_FOR);
        assert_eq!(losses.records().len(), 1);
    }
}
