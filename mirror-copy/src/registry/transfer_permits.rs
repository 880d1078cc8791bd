//! Permits to transfer blobs: concurrency limits of each host, which adapt to its responses, and memory.

use crate::error::Operation;
use crate::lock::lock;
use crate::registries::memory_budget::Share;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use tokio::sync::oneshot;

/// Blobs read concurrently from one host. Less than the limit for writing, so that one source that hangs cannot block a
/// target for all others.
const READING: usize = 48;

/// Blobs written concurrently to one host: at first, and at most.
const WRITING: (usize, usize) = (64, 96);

/// Permits that each source has in any case, beyond the limit if need be, so that slow sources which hold all permits do not
/// block others. There are only as many sources as concurrent copies, so this adds few.
const OF_EACH_SOURCE: usize = 4;

/// A concurrency limit with additive increase and multiplicative decrease: it grows with successful transfers up to a
/// maximum, and is halved when the host responds 429.
pub(super) struct AimdLimit {
    most: usize,
    state: Mutex<State>,
}

struct State {
    running: usize,
    /// Permits held by each source.
    by_source: HashMap<String, usize>,
    /// Waiting transfers in their order.
    waiting: BTreeMap<u64, Waiting>,
    next_number: u64,
    limit: usize,
    /// Successful transfers since the limit last changed.
    succeeded: usize,
    /// Number of times that the limit was lowered.
    lowered: u64,
    /// A transfer that started after the last lowering succeeded.
    recovered: bool,
}

struct Waiting {
    source: String,
    /// Receives the value of `lowered` when the permit is granted.
    wake: oneshot::Sender<u64>,
}

/// A permit that is held or waited for; dropping it releases it.
pub(super) struct Permit<'a> {
    owner: &'a AimdLimit,
    source: &'a str,
    number: u64,
    /// The value of `lowered` when it was granted.
    since: Option<u64>,
}

impl AimdLimit {
    /// The limit starts at `first` and never exceeds `most`.
    fn new(first: usize, most: usize) -> Self {
        let state = State {
            running: 0,
            by_source: HashMap::new(),
            waiting: BTreeMap::new(),
            next_number: 0,
            limit: first,
            succeeded: 0,
            lowered: 0,
            recovered: true,
        };
        Self {
            most,
            state: Mutex::new(state),
        }
    }

    /// Waits for a permit for a transfer from `source`.
    pub(super) async fn acquire<'a>(&'a self, source: &'a str) -> Permit<'a> {
        let (wake, turn) = oneshot::channel();
        let mut permit = {
            let mut state = lock(&self.state);
            let permit = self.permit(&mut state, source);
            let waiting = Waiting {
                source: source.to_owned(),
                wake,
            };
            state.waiting.insert(permit.number, waiting);
            state.admit();
            permit
        };
        // The sender exists until this transfer is admitted.
        permit.since = turn.await.ok();
        permit
    }

    /// Returns a permit if one is available.
    fn try_acquire<'a>(&'a self, source: &'a str) -> Option<Permit<'a>> {
        let mut state = lock(&self.state);
        if !state.may_have(source) {
            return None;
        }
        state.give(source);
        let mut permit = self.permit(&mut state, source);
        permit.since = Some(state.lowered);
        Some(permit)
    }

    /// Halves the limit. Many requests fail by one overload, so it is lowered once, until a transfer at the new rate has
    /// succeeded.
    fn too_many(&self) {
        let mut state = lock(&self.state);
        if state.recovered {
            let used = match state.running {
                0 | 1 => state.limit,
                running => state.limit.min(running),
            };
            state.limit = (used / 2).max(1);
            state.succeeded = 0;
            state.lowered += 1;
            state.recovered = false;
        }
    }

    fn permit<'a>(&'a self, state: &mut State, source: &'a str) -> Permit<'a> {
        state.next_number += 1;
        Permit {
            owner: self,
            source,
            number: state.next_number,
            since: None,
        }
    }
}

impl State {
    fn may_have(&self, source: &str) -> bool {
        let own = self.by_source.get(source).copied().unwrap_or_default();
        // A host with a low limit has a low minimum for each source.
        let in_any_case = OF_EACH_SOURCE.min(self.limit / OF_EACH_SOURCE).max(1);
        self.running < self.limit || own < in_any_case
    }

    fn give(&mut self, source: &str) {
        self.running += 1;
        match self.by_source.get_mut(source) {
            Some(own) => *own += 1,
            None => _ = self.by_source.insert(source.to_owned(), 1),
        }
    }

    /// Admits waiting transfers that may start now.
    fn admit(&mut self) {
        let next = |state: &Self| {
            let mut waiting = state.waiting.iter();
            let first = waiting.find(|(_, waiting)| state.may_have(&waiting.source));
            first.map(|(number, _)| *number)
        };
        while let Some(number) = next(self)
            && let Some(waiting) = self.waiting.remove(&number)
        {
            self.give(&waiting.source);
            // If the receiver stopped waiting, dropping its permit releases it.
            let _ = waiting.wake.send(self.lowered);
        }
    }

    fn give_back(&mut self, source: &str) {
        self.running = self.running.saturating_sub(1);
        if let Some(own) = self.by_source.get_mut(source) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                self.by_source.remove(source);
            }
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.owner.state);
        if state.waiting.remove(&self.number).is_some() {
            return;
        }
        state.give_back(self.source);
        if self.since == Some(state.lowered) {
            state.recovered = true;
            state.succeeded += 1;
        }
        if state.succeeded >= state.limit && state.limit < self.owner.most {
            state.limit += 1;
            state.succeeded = 0;
        }
        state.admit();
    }
}

/// Permission to transfer one blob between two registries; dropping it releases everything.
pub(crate) struct TransferPermit<'a> {
    _memory: Share<'a>,
    _reading: Permit<'a>,
    _writing: Permit<'a>,
}

impl<'a> TransferPermit<'a> {
    /// Waits for a permit of either host. A permit of one host is not held while waiting for the other: a host that is slow
    /// or paused blocks no other.
    pub(super) async fn acquire(
        memory: Share<'a>,
        source: &'a AimdLimit,
        target: &'a AimdLimit,
        host: &'a str,
    ) -> Self {
        let (reading, writing) = loop {
            let reading = source.acquire(host).await;
            if let Some(writing) = target.try_acquire(host) {
                break (reading, writing);
            }
            drop(reading);
            let writing = target.acquire(host).await;
            if let Some(reading) = source.try_acquire(host) {
                break (reading, writing);
            }
        };
        Self {
            _memory: memory,
            _reading: reading,
            _writing: writing,
        }
    }
}

/// The limits of one host.
pub(super) struct TransferLimits {
    pub(super) reading: AimdLimit,
    pub(super) writing: AimdLimit,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            reading: AimdLimit::new(READING, READING),
            writing: AimdLimit::new(WRITING.0, WRITING.1),
        }
    }
}

impl TransferLimits {
    /// Handles 429 (Too Many Requests) in response to this operation.
    pub(super) fn too_many(&self, operation: Operation) {
        if !operation.is_write() {
            self.reading.too_many();
        }
        self.writing.too_many();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn taken(limit: &AimdLimit) -> Vec<Permit<'_>> {
        taken_from(limit, "a")
    }

    fn taken_from<'a>(limit: &'a AimdLimit, source: &'a str) -> Vec<Permit<'a>> {
        std::iter::from_fn(|| limit.try_acquire(source)).collect()
    }

    #[test]
    fn one_overload_halves_once_whatever_the_number_of_failures() {
        let limit = AimdLimit::new(48, 64);
        let mut permits = taken(&limit);
        assert_eq!(permits.len(), 48);
        limit.too_many();
        // Transfers at the old rate end, and more of them fail by the overload.
        permits.truncate(40);
        limit.too_many();
        drop(permits);
        assert_eq!(taken(&limit).len(), 24);
        // Those at the new rate succeeded and raised the limit by one.
        assert_eq!(taken(&limit).len(), 25);
    }

    #[test]
    fn the_limit_stays_between_one_and_the_maximum() {
        let limit = AimdLimit::new(48, 64);
        for _ in 0..20 {
            drop(limit.try_acquire("a"));
            limit.too_many();
        }
        assert_eq!(taken(&limit).len(), 1);
        for _ in 0..10_000 {
            drop(limit.try_acquire("a"));
        }
        assert_eq!(taken(&limit).len(), 64);
    }

    #[tokio::test]
    async fn a_waiting_transfer_gets_the_released_permit() {
        let limit = AimdLimit::new(48, 64);
        let mut permits = taken(&limit);
        let waiting = limit.acquire("a");
        let give_back = async { drop(permits.pop()) };
        let (_permit, ()) = tokio::join!(waiting, give_back);
        assert_eq!(permits.len(), 47);
    }

    #[tokio::test]
    async fn a_source_that_holds_all_permits_leaves_some_for_each_other() {
        let limit = AimdLimit::new(48, 64);
        let held = taken_from(&limit, "hostile");
        assert_eq!(held.len(), 48);
        // Transfers of other sources do not wait behind those of the hostile source.
        let mut behind = std::pin::pin!(limit.acquire("hostile"));
        assert!(behind.as_mut().now_or_never().is_none());
        let mut own = taken_from(&limit, "b");
        assert_eq!((own.len(), taken_from(&limit, "c").len()), (4, 4));
        let waiting = limit.acquire("b");
        let give_back = async { drop(own.pop()) };
        let (_permit, ()) = tokio::join!(waiting, give_back);
        assert_eq!(own.len(), 3);
        drop(held);
        let _permit = behind.await;
    }

    /// A transfer that was cancelled while it waited, or in the moment of its admission, holds no permit.
    #[tokio::test]
    async fn a_cancelled_wait_holds_no_permit() {
        let limit = AimdLimit::new(1, 1);
        let held = limit.try_acquire("a");
        let mut waiting = Box::pin(limit.acquire("a"));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        let mut waiting = Box::pin(limit.acquire("a"));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        drop(waiting);
        assert_eq!(taken(&limit).len(), 1);
    }
}
