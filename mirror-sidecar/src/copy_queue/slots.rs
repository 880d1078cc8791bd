//! The copy slots of the process, which the queues of all backups share.
//!
//! The number of all running copies is bounded. Each queue has a slot in any case, and queues with work share the others
//! evenly, so that no backup starves another. A queue that works alone uses all slots but those that are kept for the others.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The slots. Clones share them.
#[derive(Clone)]
pub struct CopySlots(Arc<Mutex<State>>);

struct State {
    all: usize,
    queues: BTreeMap<u64, QueueUse>,
    next_number: u64,
}

struct QueueUse {
    /// The limit of the queue's own.
    most: usize,
    demand: Demand,
    changed: Arc<Notify>,
}

/// The jobs of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) running: usize,
    pub(super) waiting: usize,
    /// No other copy may start: one runs alone, or waits for that.
    pub(super) is_exclusive: bool,
}

/// The slots as one queue sees them.
pub struct QueueSlots {
    slots: CopySlots,
    /// Unique among all queues that ever shared the slots.
    queue: u64,
}

impl CopySlots {
    /// Slots for `all` copies at a time, or for one copy of each queue if there are more queues.
    #[must_use]
    pub fn new(all: NonZeroUsize) -> Self {
        Self(Arc::new(Mutex::new(State {
            all: all.get(),
            queues: BTreeMap::new(),
            next_number: 0,
        })))
    }

    /// Adds a queue that uses at most `most` slots, until it is dropped.
    #[must_use]
    pub fn queue(&self, most: Option<NonZeroUsize>) -> QueueSlots {
        let mut state = self.state();
        let queue = state.next_number;
        state.next_number += 1;
        let new = QueueUse {
            most: most.map_or(usize::MAX, NonZeroUsize::get),
            demand: Demand::default(),
            changed: Arc::default(),
        };
        state.queues.insert(queue, new);
        QueueSlots {
            slots: self.clone(),
            queue,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueSlots {
    /// The number of the queue.
    pub(super) fn number(&self) -> u64 {
        self.queue
    }

    /// Notifies of changes of the limit.
    pub(super) fn changed(&self) -> Arc<Notify> {
        let state = self.slots.state();
        let own = state.queues.get(&self.queue);
        own.map(|own| Arc::clone(&own.changed)).unwrap_or_default()
    }

    /// Returns how many copies the queue may run now.
    pub(super) fn limit(&self) -> usize {
        self.slots.state().limit(self.queue)
    }

    /// Returns whether no copy of another queue runs.
    pub(super) fn are_others_idle(&self) -> bool {
        let state = self.slots.state();
        state
            .others(self.queue)
            .all(|other| other.demand.running == 0)
    }

    /// Takes a slot for one more copy; returns `false` if there is none.
    pub(super) fn take(&self) -> bool {
        let mut state = self.slots.state();
        let limit = state.limit(self.queue);
        let Some(own) = state.queues.get_mut(&self.queue) else {
            return false;
        };
        let is_free = own.demand.running < limit;
        own.demand.running += usize::from(is_free);
        is_free
    }

    /// Sets the jobs of the queue. Other queues are notified if they may use more slots.
    pub(super) fn set(&self, demand: Demand) {
        self.slots
            .state()
            .update(self.queue, |own| own.demand = demand);
    }
}

impl Drop for QueueSlots {
    fn drop(&mut self) {
        let mut state = self.slots.state();
        state.update(self.queue, |own| own.demand = Demand::default());
        state.queues.remove(&self.queue);
    }
}

impl State {
    /// Changes a queue, and notifies the others with waiting jobs if more of these may start.
    fn update(&mut self, queue: u64, change: impl FnOnce(&mut QueueUse)) {
        let limits = |state: &Self| -> Vec<usize> {
            let queues = state.queues.keys();
            queues.map(|queue| state.limit(*queue)).collect()
        };
        let before = limits(self);
        let Some(own) = self.queues.get_mut(&queue) else {
            return;
        };
        let ran = own.demand.running;
        change(own);
        // An image that is copied alone waits for the end of all others.
        let has_ended = own.demand.running < ran;
        let after = limits(self);
        for ((number, other), (before, after)) in self.queues.iter().zip(before.iter().zip(after)) {
            if *number != queue && other.demand.waiting > 0 && (has_ended || after > *before) {
                other.changed.notify_one();
            }
        }
    }

    fn others(&self, queue: u64) -> impl Iterator<Item = &QueueUse> {
        let others = self.queues.iter();
        others
            .filter(move |(other, _)| **other != queue)
            .map(|(_, other)| other)
    }

    fn limit(&self, queue: u64) -> usize {
        let Some(own) = self.queues.get(&queue) else {
            return 0;
        };
        let exclusive = self
            .queues
            .iter()
            .find(|(_, queue)| queue.demand.is_exclusive);
        if exclusive.is_some_and(|(first, _)| *first != queue) {
            return 0;
        }
        let all = self.all.max(self.queues.len());
        let is_busy = |queue: &&QueueUse| queue.demand.running + queue.demand.waiting > 0;
        let busy = self.others(queue).filter(is_busy).count() + 1;
        let idle = self.queues.len().saturating_sub(busy);
        let share = (all.saturating_sub(idle) / busy).max(1);
        let of_others: usize = self
            .others(queue)
            .map(|other| other.demand.running.max(other.kept(share)))
            .sum();
        all.saturating_sub(of_others).max(1).min(own.most)
    }
}

impl QueueUse {
    /// The slots that are kept for this queue, of a `share`.
    fn kept(&self, share: usize) -> usize {
        let wanted = self.demand.running + self.demand.waiting;
        wanted.min(share).min(self.most).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots<const N: usize>(all: usize, most: [usize; N]) -> [QueueSlots; N] {
        let slots = CopySlots::new(NonZeroUsize::new(all).unwrap());
        most.map(|most| slots.queue(NonZeroUsize::new(most)))
    }

    fn take_all(queue: &QueueSlots) -> usize {
        let mut taken = 0;
        while queue.take() {
            taken += 1;
        }
        taken
    }

    fn set(queue: &QueueSlots, running: usize, waiting: usize) {
        queue.set(Demand {
            running,
            waiting,
            is_exclusive: false,
        });
    }

    #[test]
    fn a_single_queue_has_all_slots() {
        let [a] = slots(4, [0]);
        assert_eq!((a.limit(), take_all(&a), a.limit()), (4, 4, 4));
    }

    #[test]
    fn each_queue_has_a_slot_and_busy_queues_have_the_same_number() {
        let [a, b, c] = slots(8, [0, 0, 0]);
        set(&a, 0, 100);
        assert_eq!(take_all(&a), 6, "one is kept for each of the others");
        set(&a, 6, 94);
        set(&b, 0, 100);
        assert_eq!(take_all(&b), 1);
        set(&b, 1, 99);
        assert!(!a.take(), "B has less than its share");
        for running in [5, 4] {
            set(&a, running, 94);
            assert!(!a.take());
            assert!(b.take());
        }
        set(&c, 0, 1);
        assert!(c.take());
        assert_eq!(take_all(&c), 0);
    }

    #[test]
    fn there_are_never_more_copies_than_slots() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let all = random.usize(1..9);
            let queues = slots(all, [0, random.usize(0..5), 0]);
            let mut running = [0_usize; 3];
            let mut waiting = [0_usize; 3];
            for _ in 0..300 {
                let queue = random.usize(0..3);
                let own = &queues[queue];
                match random.u8(0..3) {
                    0 => waiting[queue] += random.usize(0..4),
                    1 => running[queue] = running[queue].saturating_sub(1),
                    _ => {
                        while waiting[queue] > 0 && own.take() {
                            waiting[queue] -= 1;
                            running[queue] += 1;
                        }
                    }
                }
                set(own, running[queue], waiting[queue]);
                assert!(running.iter().sum::<usize>() <= all.max(3));
            }
        }
    }

    #[test]
    fn a_lower_limit_of_a_queue_holds() {
        let [a, b] = slots(8, [2, 0]);
        set(&a, 0, 100);
        assert_eq!(take_all(&a), 2);
        set(&a, 2, 98);
        set(&b, 0, 100);
        assert_eq!(take_all(&b), 6, "the others get what it does not use");
    }

    #[test]
    fn nothing_starts_beside_an_exclusive_copy() {
        let [a, b] = slots(4, [0, 0]);
        set(&b, 1, 5);
        assert!(!a.are_others_idle());
        let exclusive = Demand {
            running: 0,
            waiting: 1,
            is_exclusive: true,
        };
        a.set(exclusive);
        assert_eq!((b.limit(), take_all(&b)), (0, 0));
        set(&b, 0, 5);
        assert!(a.are_others_idle() && a.take());
        drop(a);
        assert!(b.take());
    }
}
