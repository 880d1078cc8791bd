//! The jobs by backup and image, and their limits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mirror_contract::ImageRef;
use tokio::time::Instant;

use super::fair_slots::Lane;
use super::job::{Job, Stage, Wait};
use super::sources::BackupId;

/// Limit of images requested by admission, whether they wait, run or back off. A cluster has some thousand. It bounds
/// memory, at about 1 KiB each; a new name displaces an older one.
pub(super) const MAX_REQUESTED: usize = 10_000;

/// Limits of images in use, equal to those of the cluster's index.
#[derive(Clone, Copy, Debug)]
pub(super) struct InUseLimits {
    pub(super) of_namespace: usize,
    /// Beyond this, the namespace with the most images gives way.
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

#[derive(Default)]
pub(super) struct Jobs {
    by_id: HashMap<u64, Job>,
    ids: HashMap<BackupId, HashMap<Arc<ImageRef<'static>>, u64>>,
    /// Jobs requested by admission. Only backups that have some.
    requested: HashMap<BackupId, Requested>,
    /// Images in use by the first of their namespaces.
    in_use: HashMap<Arc<str>, usize>,
    pub(super) in_use_limits: InUseLimits,
    /// Automatic retries by time.
    due: BTreeSet<(Instant, u64)>,
    next_id: u64,
}

/// The jobs of one backup that admission requested.
#[derive(Default)]
struct Requested {
    count: usize,
    /// Those that do not run, in the order in which they are displaced.
    displaceable: BTreeSet<(Order, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// There is room if this job is removed.
    InsteadOf(u64),
    None,
}

/// Which jobs are displaced first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// Failed; anyone who needs the image requests it again.
    Failed,
    /// Its source has no record.
    Untried,
    /// Its source has delivered images.
    Proven,
}

impl Jobs {
    pub(super) fn get(&self, backup: BackupId, image: &ImageRef<'static>) -> Option<&Job> {
        self.by_id(*self.ids.get(&backup)?.get(image)?)
    }

    pub(super) fn by_id(&self, id: u64) -> Option<&Job> {
        self.by_id.get(&id)
    }

    pub(super) fn by_id_mut(&mut self, id: u64) -> Option<&mut Job> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn of_backup(&self, backup: BackupId) -> impl Iterator<Item = &Job> {
        let ids = self.ids.get(&backup).into_iter().flat_map(HashMap::values);
        ids.filter_map(|id| self.by_id(*id))
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> usize {
        self.all_requested()
    }

    fn all_requested(&self) -> usize {
        let counts = self.requested.values().map(|requested| requested.count);
        counts.sum()
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Adds a waiting job.
    pub(super) fn add(&mut self, job: Job) {
        let id = job.id;
        match job.lane {
            Lane::Requested => self.requested.entry(job.backup).or_default().count += 1,
            Lane::InUse => *self.in_use.entry(counted_namespace(&job)).or_default() += 1,
        }
        let ids = self.ids.entry(job.backup).or_default();
        ids.insert(Arc::clone(&job.image), id);
        self.by_id.insert(id, job);
        self.make_displaceable(id, Order::Untried);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Job> {
        let job = self.by_id.remove(&id)?;
        if let Some(ids) = self.ids.get_mut(&job.backup) {
            ids.remove(&job.image);
            if ids.is_empty() {
                self.ids.remove(&job.backup);
            }
        }
        self.protect(id, job.backup);
        self.forget_due(&job);
        self.count_out(&job);
        Some(job)
    }

    pub(super) fn set_running(&mut self, id: u64, stage: Stage) {
        if let Some(job) = self.by_id_mut(id) {
            job.stage = stage;
            let backup = job.backup;
            self.protect(id, backup);
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

    pub(super) fn set_backing_off(&mut self, id: u64, wait: Wait) {
        if wait.is_automatic {
            self.due.insert((wait.until, id));
        }
        if let Some(job) = self.by_id_mut(id) {
            job.stage = Stage::BackingOff(wait);
        }
        self.make_displaceable(id, Order::Failed);
    }

    /// The first job whose backoff is over and that is retried automatically.
    pub(super) fn next_due(&self, now: Instant) -> Option<u64> {
        let (until, id) = self.due.first()?;
        (*until <= now).then_some(*id)
    }

    pub(super) fn is_any_due_later(&self) -> bool {
        !self.due.is_empty()
    }

    /// Moves the image to those in use and adds these namespaces. Returns whether anything changed.
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
            let (backup, namespace) = (job.backup, counted_namespace(job));
            self.protect(id, backup);
            self.remove_requested(backup);
            *self.in_use.entry(namespace).or_default() += 1;
            return true;
        }
        let before = job.groups.len();
        job.groups.extend(new);
        job.groups.truncate(most);
        job.groups.len() != before
    }

    /// Finds room for a job of this backup that admission requested. There is always some: the backup with the most of them
    /// loses the oldest that failed, else the oldest of an untried source, else the oldest.
    pub(super) fn room_for_requested(
        &mut self,
        backup: BackupId,
        is_proven: impl Fn(&Job) -> bool,
    ) -> Room {
        if self.all_requested() < MAX_REQUESTED {
            return Room::Free;
        }
        let requested = self.requested.iter();
        let with_new = requested.map(|(other, requested)| {
            let is_own = *other == backup;
            (requested.count + usize::from(is_own), is_own, *other)
        });
        let mut largest_first: Vec<_> = with_new.collect();
        largest_first.sort_unstable_by_key(|of_backup| std::cmp::Reverse(*of_backup));
        let mut backups = largest_first.into_iter().map(|(_, _, backup)| backup);
        let displaced = backups.find_map(|backup| self.first_displaceable(backup, &is_proven));
        displaced.map_or(Room::None, Room::InsteadOf)
    }

    fn first_displaceable(
        &mut self,
        backup: BackupId,
        is_proven: impl Fn(&Job) -> bool,
    ) -> Option<u64> {
        let displaceable = &mut self.requested.get_mut(&backup)?.displaceable;
        loop {
            let (order, id) = displaceable.first().copied()?;
            let is_to_move = order == Order::Untried && self.by_id.get(&id).is_some_and(&is_proven);
            if !is_to_move {
                return Some(id);
            }
            displaceable.pop_first();
            displaceable.insert((Order::Proven, id));
        }
    }

    /// Finds room for an image in use of this namespace. Beyond the limit of all, the youngest job of the namespace
    /// with the most gives way, unless that is this one.
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
        let jobs = self.by_id.values().filter(|job| {
            job.lane == Lane::InUse
                && job.groups.first() == Some(largest)
                && !matches!(job.stage, Stage::Running(_))
        });
        let youngest = jobs.map(|job| job.id).max();
        youngest.map_or(Room::None, Room::InsteadOf)
    }

    fn make_displaceable(&mut self, id: u64, order: Order) {
        let Some(job) = self.by_id.get(&id) else {
            return;
        };
        let (backup, lane) = (job.backup, job.lane);
        self.protect(id, backup);
        if lane == Lane::Requested
            && let Some(requested) = self.requested.get_mut(&backup)
        {
            requested.displaceable.insert((order, id));
        }
    }

    fn protect(&mut self, id: u64, backup: BackupId) {
        if let Some(requested) = self.requested.get_mut(&backup) {
            for order in [Order::Failed, Order::Untried, Order::Proven] {
                requested.displaceable.remove(&(order, id));
            }
        }
    }

    fn remove_requested(&mut self, backup: BackupId) {
        if let Some(requested) = self.requested.get_mut(&backup) {
            requested.count = requested.count.saturating_sub(1);
            if requested.count == 0 {
                self.requested.remove(&backup);
            }
        }
    }

    fn forget_due(&mut self, job: &Job) {
        if let Stage::BackingOff(backoff) = &job.stage {
            self.due.remove(&(backoff.until, job.id));
        }
    }

    fn count_out(&mut self, job: &Job) {
        match job.lane {
            Lane::Requested => self.remove_requested(job.backup),
            Lane::InUse => {
                let namespace = counted_namespace(job);
                if let Some(count) = self.in_use.get_mut(&namespace) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.in_use.remove(&namespace);
                    }
                }
            }
        }
    }
}

/// The namespace whose limit counts the job.
fn counted_namespace(job: &Job) -> Arc<str> {
    job.groups.first().cloned().unwrap_or_default()
}
