//! When each image is checked next, and what the last check found. No I/O; the time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mirror_contract::{ImageRef, RefusalKind};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::cluster::index::CopyState;
use crate::target_lookup::Found;

/// Interval between checks of an image that the target has, while a workload still uses the original.
const RECHECK_INTERVAL: Duration = Duration::from_mins(10);

/// First and longest backoff after a check without an image.
const BACKOFF: [Duration; 2] = [Duration::from_secs(15), Duration::from_mins(30)];

/// Failures in a row, about four minutes, after which the other images of a workload do not wait for a target that fails.
const GIVE_UP_AFTER: u32 = 5;

/// Wait after a check that was not started, since too many lookups run.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The images in the targets of rewrites that workloads could use.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    images: BTreeMap<ImageRef<'static>, Check>,
    due: BTreeSet<(Instant, ImageRef<'static>)>,
}

#[derive(Debug)]
struct Check {
    state: CopyState,
    backoff: Backoff,
    /// Its entry in the set of due checks; `None` while it runs.
    due: Option<Instant>,
}

impl Schedule {
    /// Checks new images of `wanted` now, and forgets all others.
    pub(super) fn sync(&mut self, wanted: impl Iterator<Item = ImageRef<'static>>, now: Instant) {
        let mut before = std::mem::take(&mut self.images);
        self.due.clear();
        for image in wanted {
            let check = before.remove(&image).unwrap_or_else(|| Check {
                state: CopyState::Missing,
                backoff: Backoff::new(BACKOFF[0], BACKOFF[1]).with_jitter(),
                due: Some(now),
            });
            self.due.extend(check.due.map(|due| (due, image.clone())));
            self.images.insert(image, check);
        }
    }

    /// Returns the next image whose check is due, and counts it as running.
    pub(super) fn begin_next(&mut self, now: Instant) -> Option<ImageRef<'static>> {
        let (due, _) = self.due.first()?;
        if *due > now {
            return None;
        }
        let (_, image) = self.due.pop_first()?;
        self.images.get_mut(&image)?.due = None;
        Some(image)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Records the result of a check.
    pub(super) fn end(&mut self, image: &ImageRef<'static>, found: &Found, now: Instant) {
        // It may have been forgotten, and may be wanted again since.
        let Some(check) = self.images.get_mut(image) else {
            return;
        };
        if let Some(due) = check.due.take() {
            self.due.remove(&(due, image.clone()));
        }
        let due = match found.as_ref().map_err(|refusal| refusal.kind) {
            Ok(_) => {
                check.backoff.succeed();
                now + RECHECK_INTERVAL
            }
            Err(RefusalKind::Pending) => now + RETRY_AFTER,
            Err(RefusalKind::Failed | RefusalKind::Unavailable) => {
                check.backoff.fail(now);
                check.backoff.until(now).unwrap_or(now + RETRY_AFTER)
            }
        };
        check.state = match found.as_ref().map_err(|refusal| refusal.kind) {
            Ok(_) => CopyState::Mirrored,
            Err(RefusalKind::Failed) => CopyState::Never,
            Err(_) if check.backoff.failures() >= GIVE_UP_AFTER => CopyState::Never,
            Err(RefusalKind::Pending | RefusalKind::Unavailable) => CopyState::Missing,
        };
        check.due = Some(due);
        self.due.insert((due, image.clone()));
    }

    pub(super) fn states(&self) -> BTreeMap<ImageRef<'static>, CopyState> {
        let images = self.images.iter();
        images
            .map(|(image, check)| (image.clone(), check.state))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use mirror_contract::{Digest, Refusal};

    use super::*;

    fn image(name: &str) -> ImageRef<'static> {
        format!("harbor.test/hub/{name}:1").parse().unwrap()
    }

    fn refused(kind: RefusalKind) -> Found {
        Err(Refusal::new(kind, "no"))
    }

    #[test]
    fn missing_images_are_checked_with_backoff_and_found_ones_rarely() {
        let mut schedule = Schedule::default();
        let mut now = Instant::now();
        schedule.sync([image("a")].into_iter(), now);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(schedule.begin_next(now), Some(image("a")));
            assert_eq!(schedule.begin_next(now), None);
            schedule.end(&image("a"), &refused(RefusalKind::Failed), now);
            assert_eq!(schedule.states()[&image("a")], CopyState::Never);
            let due = schedule.next_due().unwrap();
            waits.push((due - now).as_secs());
            now = due;
        }
        assert!(waits[0] >= 15 && waits[1] >= 30 && waits[11] >= 1800);
        assert_eq!(schedule.begin_next(now), Some(image("a")));
        let digest = format!("sha256:{}", "a".repeat(64));
        let digest = Digest::parse(&digest).unwrap().into_owned();
        schedule.end(&image("a"), &Ok(digest), now);
        assert_eq!(schedule.states()[&image("a")], CopyState::Mirrored);
        assert_eq!(schedule.next_due(), Some(now + RECHECK_INTERVAL));
    }

    #[test]
    fn other_images_wait_some_minutes_for_a_target_that_fails() {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        let mut now = start;
        schedule.sync([image("a")].into_iter(), now);
        while schedule.states()[&image("a")] == CopyState::Missing {
            now = schedule.next_due().unwrap();
            schedule.begin_next(now);
            schedule.end(&image("a"), &refused(RefusalKind::Unavailable), now);
        }
        let minutes = (now - start).as_secs() / 60;
        assert!((3..=5).contains(&minutes), "{minutes}");
    }

    #[test]
    fn images_that_nobody_wants_are_forgotten_while_their_check_runs() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.sync([image("a"), image("b")].into_iter(), now);
        assert_eq!(schedule.begin_next(now), Some(image("a")));
        schedule.sync([image("b")].into_iter(), now);
        schedule.end(&image("a"), &refused(RefusalKind::Unavailable), now);
        let states = schedule.states();
        assert_eq!(
            states.into_iter().collect::<Vec<_>>(),
            [(image("b"), CopyState::Missing)]
        );
        assert_eq!(schedule.begin_next(now), Some(image("b")));
        assert_eq!(schedule.next_due(), None);
    }
}
