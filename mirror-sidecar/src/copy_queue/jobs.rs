//! The jobs of all images, and how many there may be.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mirror_contract::ImageRef;
use tokio::time::Instant;

use super::fair_slots::Lane;
use super::job::{Backoff, Job, Stage};

/// Images that admission asks for, whether they wait, run, or back off after a failure. A cluster has some thousand. The
/// limit keeps a flood of invented names from exhausting memory, at about 1 KiB each; a new name displaces an older one.
pub(super) const MAX_ASKED: usize = 10_000;

/// How many images in use there may be: what the index of the cluster keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct InUseLimits {
    pub(super) of_namespace: usize,
    /// Beyond, the namespace that has most gives way.
    pub(super) of_all: usize,
}

impl Default for InUseLimits {
    fn default() -> Self {
        Self {
            of_namespace: 2_000,
            of_all: 10_000,
        }
    }
}

/// The jobs of all images.
#[derive(Default)]
pub(super) struct Jobs {
    by_image: HashMap<Arc<ImageRef<'static>>, Job>,
    images: HashMap<u64, Arc<ImageRef<'static>>>,
    asked: usize,
    /// Images in use by the first of their namespaces.
    in_use: HashMap<Arc<str>, usize>,
    pub(super) in_use_limits: InUseLimits,
    /// Jobs that admission asks for and that do not run, in the order in which they make room.
    displaceable: BTreeSet<(Order, u64)>,
    /// When which job ends its pause by itself.
    due: BTreeSet<(Instant, u64)>,
    next_id: u64,
}

/// Whether there is room for one more job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// If this job is removed.
    InsteadOf(u64),
    None,
}

/// Which jobs make room first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// It failed; whoever needs the image asks again.
    Failed,
    /// Nothing is known of its source.
    Untried,
    /// Its source has delivered images.
    Proven,
}

impl Jobs {
    pub(super) fn get(&self, image: &ImageRef<'static>) -> Option<&Job> {
        self.by_image.get(image)
    }

    pub(super) fn by_id(&self, id: u64) -> Option<&Job> {
        self.by_image.get(self.images.get(&id)?)
    }

    pub(super) fn by_id_mut(&mut self, id: u64) -> Option<&mut Job> {
        self.by_image.get_mut(self.images.get(&id)?)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Job> {
        self.by_image.values()
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Adds a job that waits.
    pub(super) fn add(&mut self, job: Job) {
        let id = job.id;
        match job.lane {
            Lane::Requested => self.asked += 1,
            Lane::InUse => *self.in_use.entry(home(&job)).or_default() += 1,
        }
        self.images.insert(id, Arc::clone(&job.image));
        self.by_image.insert(Arc::clone(&job.image), job);
        self.make_displaceable(id, Order::Untried);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Job> {
        let image = self.images.remove(&id)?;
        let job = self.by_image.remove(&image)?;
        self.protect(id);
        self.forget_due(&job);
        self.count_out(&job);
        Some(job)
    }

    /// The job runs from now on.
    pub(super) fn set_running(&mut self, id: u64, stage: Stage) {
        self.protect(id);
        if let Some(job) = self.by_id_mut(id) {
            job.stage = stage;
        }
    }

    pub(super) fn set_waiting(&mut self, id: u64) {
        if let Some(job) = self.by_id_mut(id) {
            let stage = std::mem::replace(&mut job.stage, Stage::Waiting);
            if let Stage::BackingOff(backoff) = stage {
                self.due.remove(&(backoff.until, id));
            }
        }
        self.make_displaceable(id, Order::Untried);
    }

    pub(super) fn set_backing_off(&mut self, id: u64, backoff: Backoff) {
        if backoff.is_automatic {
            self.due.insert((backoff.until, id));
        }
        if let Some(job) = self.by_id_mut(id) {
            job.stage = Stage::BackingOff(backoff);
        }
        self.make_displaceable(id, Order::Failed);
    }

    /// The first job whose pause is over and that is tried again by itself.
    pub(super) fn next_due(&self, now: Instant) -> Option<u64> {
        let (until, id) = self.due.first()?;
        (*until <= now).then_some(*id)
    }

    pub(super) fn is_any_due_later(&self) -> bool {
        !self.due.is_empty()
    }

    /// The image is in use from now on, also by these namespaces. Returns whether that changes anything.
    pub(super) fn join(&mut self, id: u64, groups: &[Arc<str>], most: usize) -> bool {
        let Some(job) = self.by_id_mut(id) else {
            return false;
        };
        let was_asked = job.lane == Lane::Requested;
        let new: Vec<_> = if was_asked {
            groups.to_vec()
        } else {
            let is_new = |group: &&Arc<str>| !job.groups.contains(group);
            groups.iter().filter(is_new).cloned().collect()
        };
        if was_asked {
            job.lane = Lane::InUse;
            job.groups = new;
            let home = home(job);
            self.asked = self.asked.saturating_sub(1);
            *self.in_use.entry(home).or_default() += 1;
            self.protect(id);
            return true;
        }
        let before = job.groups.len();
        job.groups.extend(new);
        job.groups.truncate(most);
        job.groups.len() != before
    }

    /// The room for one more that admission asks for: there is always some, of the oldest that failed, else the oldest of
    /// those of which nothing is known, else the oldest.
    pub(super) fn room_for_asked(&mut self, is_proven: impl Fn(&Job) -> bool) -> Room {
        if self.asked < MAX_ASKED {
            return Room::Free;
        }
        while let Some((order, id)) = self.displaceable.first().copied() {
            if order == Order::Untried && self.by_id(id).is_some_and(&is_proven) {
                self.protect(id);
                self.displaceable.insert((Order::Proven, id));
                continue;
            }
            return Room::InsteadOf(id);
        }
        Room::None
    }

    /// The room for one more image in use of this namespace. If all have too many, the youngest of the namespace that has
    /// most gives way, unless that is this one.
    pub(super) fn room_for_in_use(&self, namespace: &str) -> Room {
        let own = self.in_use.get(namespace).copied().unwrap_or_default();
        if own >= self.in_use_limits.of_namespace {
            return Room::None;
        }
        if self.in_use.values().sum::<usize>() < self.in_use_limits.of_all {
            return Room::Free;
        }
        let largest = self
            .in_use
            .iter()
            .max_by_key(|(name, count)| (**count, *name));
        let Some((largest, _)) = largest.filter(|(_, most)| **most > own + 1) else {
            return Room::None;
        };
        let jobs = self.all().filter(|job| {
            job.lane == Lane::InUse
                && job.groups.first() == Some(largest)
                && !matches!(job.stage, Stage::Running(_))
        });
        let youngest = jobs.map(|job| job.id).max();
        youngest.map_or(Room::None, Room::InsteadOf)
    }

    fn make_displaceable(&mut self, id: u64, order: Order) {
        self.protect(id);
        if self
            .by_id(id)
            .is_some_and(|job| job.lane == Lane::Requested)
        {
            self.displaceable.insert((order, id));
        }
    }

    fn protect(&mut self, id: u64) {
        for order in [Order::Failed, Order::Untried, Order::Proven] {
            self.displaceable.remove(&(order, id));
        }
    }

    fn forget_due(&mut self, job: &Job) {
        if let Stage::BackingOff(backoff) = &job.stage {
            self.due.remove(&(backoff.until, job.id));
        }
    }

    fn count_out(&mut self, job: &Job) {
        match job.lane {
            Lane::Requested => self.asked = self.asked.saturating_sub(1),
            Lane::InUse => {
                let home = home(job);
                if let Some(count) = self.in_use.get_mut(&home) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.in_use.remove(&home);
                    }
                }
            }
        }
    }
}

/// The namespace that a job counts for.
fn home(job: &Job) -> Arc<str> {
    job.groups.first().cloned().unwrap_or_default()
}
