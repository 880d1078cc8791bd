//! Which image is checked next, and what the last check found. No I/O; the time is passed in.
//!
//! Namespaces take turns, because anyone who may create workloads can name any number of images that do not exist, and a
//! pull-through cache may need a minute to report that. No namespace and no host holds all checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mirror_contract::RefusalKind;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::cluster::index::{CopyState, Image, ImageNamespaces};
use crate::target_lookup::Found;

/// Concurrent checks: a part of the lookups that requests of the policy may start.
const MAX_RUNNING: usize = 16;

/// Concurrent checks at one host.
const MAX_OF_HOST: usize = 8;

/// Concurrent checks for one namespace.
const MAX_OF_NAMESPACE: usize = 4;

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
    images: BTreeMap<Image, Check>,
    /// Images whose check is not due yet.
    later: BTreeSet<(Instant, Image)>,
    /// Images whose check is due, by namespace. One that several namespaces use is in the queues of all of them.
    due: BTreeMap<Arc<str>, Queue>,
    running: Vec<Running>,
    /// The last turn.
    turn: u64,
    /// A state may differ from what [`Self::take_states`] returned last.
    is_changed: bool,
}

#[derive(Debug)]
struct Check {
    state: CopyState,
    backoff: Backoff,
    namespaces: ImageNamespaces,
    /// `None` while it runs.
    due: Option<Instant>,
}

/// The images of one namespace whose check is due.
#[derive(Debug)]
struct Queue {
    /// The lowest is next. A namespace that begins to wait joins at the end.
    turn: u64,
    by_host: BTreeMap<Box<str>, BTreeSet<(Rank, Image)>>,
}

/// Images that have failed come after those that have not, then the one that is due longest comes first.
type Rank = (bool, Instant);

#[derive(Debug)]
struct Running {
    image: Image,
    /// The namespace in whose turn it started.
    namespace: Arc<str>,
}

impl Schedule {
    /// Checks new images of `wanted` now, and forgets all others.
    pub(super) fn sync(&mut self, wanted: BTreeMap<Image, ImageNamespaces>, now: Instant) {
        let mut before = std::mem::take(&mut self.images);
        let turns = std::mem::take(&mut self.due);
        self.later.clear();
        for (image, namespaces) in wanted {
            let check = match before.remove(&image) {
                Some(check) => Check {
                    namespaces,
                    ..check
                },
                None => Check {
                    state: CopyState::Missing,
                    backoff: Backoff::new(BACKOFF[0], BACKOFF[1]).with_jitter(),
                    namespaces,
                    due: Some(now).filter(|_| !self.is_running(&image)),
                },
            };
            self.images.insert(Arc::clone(&image), check);
            self.enqueue(&image, now);
        }
        for (namespace, queue) in &mut self.due {
            if let Some(before) = turns.get(namespace) {
                queue.turn = before.turn;
            }
        }
        self.is_changed = true;
    }

    /// Returns the next image whose check may start now, and counts it as running.
    pub(super) fn begin_next(&mut self, now: Instant) -> Option<Image> {
        self.release(now);
        let (namespace, image) = self.next()?;
        self.dequeue(&image);
        self.turn += 1;
        if let Some(queue) = self.due.get_mut(&namespace) {
            queue.turn = self.turn;
        }
        if let Some(check) = self.images.get_mut(&image) {
            check.due = None;
        }
        self.running.push(Running {
            image: Arc::clone(&image),
            namespace,
        });
        Some(image)
    }

    /// Returns whether the limits allow a check that is due.
    pub(super) fn may_begin(&self) -> bool {
        self.next().is_some()
    }

    /// Returns when the next check becomes due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(due, _)| *due)
    }

    /// Records the result of a check.
    pub(super) fn end(&mut self, image: &Image, found: &Found, now: Instant) {
        self.running.retain(|running| running.image != *image);
        // It may have been forgotten, and may be wanted again since.
        let Some(check) = self.images.get_mut(image) else {
            return;
        };
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
        let state = match found.as_ref().map_err(|refusal| refusal.kind) {
            Ok(_) => CopyState::Mirrored,
            Err(RefusalKind::Failed) => CopyState::Never,
            Err(_) if check.backoff.failures() >= GIVE_UP_AFTER => CopyState::Never,
            Err(RefusalKind::Pending | RefusalKind::Unavailable) => CopyState::Missing,
        };
        self.is_changed |= std::mem::replace(&mut check.state, state) != state;
        check.due = Some(due);
        self.enqueue(image, now);
    }

    /// Returns the states of all images, if one may have changed since the last call.
    pub(super) fn take_states(&mut self) -> Option<BTreeMap<Image, CopyState>> {
        let is_changed = std::mem::take(&mut self.is_changed);
        let images = self.images.iter();
        is_changed.then(|| {
            images
                .map(|(image, check)| (Arc::clone(image), check.state))
                .collect()
        })
    }

    /// Moves images whose check is due now to the queues of their namespaces.
    pub(super) fn release(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, image)) = self.later.pop_first() {
                self.enqueue(&image, now);
            }
        }
    }

    fn enqueue(&mut self, image: &Image, now: Instant) {
        let Some(check) = self.images.get(image) else {
            return;
        };
        let Some(due) = check.due else {
            return;
        };
        if due > now {
            self.later.insert((due, Arc::clone(image)));
            return;
        }
        for namespace in &check.namespaces {
            let queue = self.due.entry(Arc::clone(namespace)).or_insert_with(|| {
                self.turn += 1;
                Queue {
                    turn: self.turn,
                    by_host: BTreeMap::new(),
                }
            });
            let images = queue.by_host.entry(image.host().into()).or_default();
            images.insert((check.rank(due), Arc::clone(image)));
        }
    }

    fn dequeue(&mut self, image: &Image) {
        let check = self.images.get(image);
        let Some((check, due)) = check.and_then(|check| Some((check, check.due?))) else {
            return;
        };
        for namespace in &check.namespaces {
            let Some(queue) = self.due.get_mut(namespace) else {
                continue;
            };
            if let Some(images) = queue.by_host.get_mut(image.host()) {
                images.remove(&(check.rank(due), Arc::clone(image)));
                if images.is_empty() {
                    queue.by_host.remove(image.host());
                }
            }
            if queue.by_host.is_empty() {
                self.due.remove(namespace);
            }
        }
    }

    /// Returns the image whose check may start next, and the namespace whose turn it is: one with the fewest running checks.
    fn next(&self) -> Option<(Arc<str>, Image)> {
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        let queues = self.due.iter().filter_map(|(namespace, queue)| {
            let running = self.running.iter();
            let held = running
                .filter(|running| running.namespace == *namespace)
                .count();
            let image = queue.next(|host| self.running_at(host))?;
            (held < MAX_OF_NAMESPACE).then_some(((held, queue.turn), namespace, image))
        });
        let (_, namespace, image) = queues.min_by_key(|(rank, ..)| *rank)?;
        Some((Arc::clone(namespace), Arc::clone(image)))
    }

    fn running_at(&self, host: &str) -> usize {
        let running = self.running.iter();
        running
            .filter(|running| running.image.host() == host)
            .count()
    }

    fn is_running(&self, image: &Image) -> bool {
        self.running.iter().any(|running| running.image == *image)
    }
}

impl Queue {
    /// Returns the next image, of the host with the fewest running checks.
    fn next(&self, running_at: impl Fn(&str) -> usize) -> Option<&Image> {
        let hosts = self.by_host.iter().filter_map(|(host, images)| {
            let running = running_at(host);
            let (rank, image) = images.first()?;
            (running < MAX_OF_HOST).then_some(((running, *rank), image))
        });
        let (_, image) = hosts.min_by_key(|(rank, _)| *rank)?;
        Some(image)
    }
}

impl Check {
    fn rank(&self, due: Instant) -> Rank {
        (self.backoff.failures() > 0, due)
    }
}

#[cfg(test)]
mod tests {
    use mirror_contract::{Digest, Refusal};

    use super::*;

    fn image(name: &str) -> Image {
        Image::new(format!("harbor.test/hub/{name}:1").parse().unwrap())
    }

    /// These images, each used in all of these namespaces.
    fn wanted(images: &[&str], namespaces: &[&str]) -> BTreeMap<Image, ImageNamespaces> {
        let namespaces: ImageNamespaces = namespaces.iter().map(|name| (*name).into()).collect();
        let images = images.iter();
        images
            .map(|name| (image(name), namespaces.clone()))
            .collect()
    }

    fn state(schedule: &mut Schedule, name: &str) -> CopyState {
        schedule.is_changed = true;
        schedule.take_states().unwrap()[&image(name)]
    }

    fn refused(kind: RefusalKind) -> Found {
        Err(Refusal::new(kind, "no"))
    }

    #[test]
    fn missing_images_are_checked_with_backoff_and_found_ones_rarely() {
        let mut schedule = Schedule::default();
        let mut now = Instant::now();
        schedule.sync(wanted(&["a"], &["shop"]), now);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(schedule.begin_next(now), Some(image("a")));
            assert_eq!(schedule.begin_next(now), None);
            schedule.end(&image("a"), &refused(RefusalKind::Failed), now);
            assert_eq!(state(&mut schedule, "a"), CopyState::Never);
            let due = schedule.next_due().unwrap();
            waits.push((due - now).as_secs());
            now = due;
        }
        assert!(waits[0] >= 15 && waits[1] >= 30 && waits[11] >= 1800);
        assert_eq!(schedule.begin_next(now), Some(image("a")));
        let digest = format!("sha256:{}", "a".repeat(64));
        let digest = Digest::parse(&digest).unwrap().into_owned();
        schedule.end(&image("a"), &Ok(digest), now);
        assert_eq!(state(&mut schedule, "a"), CopyState::Mirrored);
        assert_eq!(schedule.next_due(), Some(now + RECHECK_INTERVAL));
    }

    #[test]
    fn other_images_wait_some_minutes_for_a_target_that_fails() {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        let mut now = start;
        schedule.sync(wanted(&["a"], &["shop"]), now);
        while state(&mut schedule, "a") == CopyState::Missing {
            now = schedule.next_due().unwrap_or(now);
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
        schedule.sync(wanted(&["a", "b"], &["shop"]), now);
        assert_eq!(schedule.begin_next(now), Some(image("a")));
        schedule.sync(wanted(&["b"], &["shop"]), now);
        schedule.end(&image("a"), &refused(RefusalKind::Unavailable), now);
        let states = schedule.take_states().unwrap();
        assert_eq!(
            states.into_iter().collect::<Vec<_>>(),
            [(image("b"), CopyState::Missing)]
        );
        assert_eq!(schedule.take_states(), None);
        assert_eq!(schedule.begin_next(now), Some(image("b")));
        assert_eq!(schedule.next_due(), None);
        // Wanted again before the check ends.
        schedule.sync(BTreeMap::new(), now);
        schedule.sync(wanted(&["b"], &["shop"]), now);
        assert_eq!(schedule.begin_next(now), None);
        schedule.end(&image("b"), &refused(RefusalKind::Pending), now);
        assert_eq!(schedule.next_due(), Some(now + RETRY_AFTER));
    }

    #[test]
    fn an_image_is_checked_once_for_all_its_namespaces() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.sync(wanted(&["a", "b"], &["cafe", "shop"]), now);
        assert_eq!(schedule.begin_next(now), Some(image("a")));
        assert_eq!(schedule.begin_next(now), Some(image("b")));
        assert!(!schedule.may_begin() && schedule.due.is_empty());
        assert_ne!(schedule.running[0].namespace, schedule.running[1].namespace);
    }

    #[test]
    fn images_that_failed_wait_behind_those_that_did_not() {
        let mut schedule = Schedule::default();
        let mut now = Instant::now();
        schedule.sync(wanted(&["a"], &["shop"]), now);
        schedule.begin_next(now);
        schedule.end(&image("a"), &refused(RefusalKind::Failed), now);
        now += Duration::from_mins(1);
        schedule.sync(wanted(&["a", "b"], &["shop"]), now);
        assert_eq!(schedule.begin_next(now), Some(image("b")));
        assert_eq!(schedule.begin_next(now), Some(image("a")));
    }
}
