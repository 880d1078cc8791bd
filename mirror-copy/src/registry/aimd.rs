//! How many blobs go to or from one host at once. The number finds itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Places that each source has at a host in any case, beyond the limit if need be. So sources that hold all places with
/// blobs that trickle keep nobody else from sending. As few sources as copies run at a time, so this adds little.
const OF_EACH_SOURCE: usize = 4;

/// Places for blob transfers. Every transfer that went well makes room for more, up to a limit; a host
/// that says it is too much is given half at once (additive increase, multiplicative decrease).
pub(crate) struct AimdLimit {
    most: usize,
    state: Mutex<State>,
}

struct State {
    running: usize,
    /// Places of each source that has some.
    by_source: HashMap<String, usize>,
    /// Those that wait, in the order in which they came.
    waiting: BTreeMap<u64, Waiting>,
    next_number: u64,
    limit: usize,
    /// Transfers since the limit last changed.
    went_well: usize,
    /// How often the limit was lowered.
    lowered: u64,
    /// Whether something that began after the last lowering went well.
    recovered: bool,
}

struct Waiting {
    source: String,
    /// Gets `lowered` as it is when the place is given.
    wake: oneshot::Sender<u64>,
}

/// A place that was taken, or is waited for; dropping it gives it back.
pub(crate) struct Place<'a> {
    streams: &'a AimdLimit,
    source: &'a str,
    number: u64,
    /// `lowered` when it was taken.
    since: Option<u64>,
}

impl AimdLimit {
    /// `first` places at the beginning, never more than `most`.
    pub(crate) fn new(first: usize, most: usize) -> Self {
        let state = State {
            running: 0,
            by_source: HashMap::new(),
            waiting: BTreeMap::new(),
            next_number: 0,
            limit: first,
            went_well: 0,
            lowered: 0,
            recovered: true,
        };
        Self {
            most,
            state: Mutex::new(state),
        }
    }

    /// Waits for a place for something that comes from `source`.
    pub(crate) async fn take<'a>(&'a self, source: &'a str) -> Place<'a> {
        let (wake, turn) = oneshot::channel();
        let mut place = {
            let mut state = self.lock();
            let place = self.place(&mut state, source);
            let waiting = Waiting {
                source: source.to_owned(),
                wake,
            };
            state.waiting.insert(place.number, waiting);
            state.admit();
            place
        };
        // The sender stays until it is this one's turn.
        place.since = turn.await.ok();
        place
    }

    /// A place, if there is one.
    pub(crate) fn try_take<'a>(&'a self, source: &'a str) -> Option<Place<'a>> {
        let mut state = self.lock();
        if !state.may_have(source) {
            return None;
        }
        state.give(source);
        let mut place = self.place(&mut state, source);
        place.since = Some(state.lowered);
        Some(place)
    }

    /// The host said that it is too much. Many requests hear of one overload, so the limit is lowered once,
    /// until something sent at the new rate has gone well.
    pub(crate) fn too_many(&self) {
        let mut state = self.lock();
        if state.recovered {
            let used = match state.running {
                0 | 1 => state.limit,
                running => state.limit.min(running),
            };
            state.limit = (used / 2).max(1);
            state.went_well = 0;
            state.lowered += 1;
            state.recovered = false;
        }
    }

    fn place<'a>(&'a self, state: &mut State, source: &'a str) -> Place<'a> {
        state.next_number += 1;
        Place {
            streams: self,
            source,
            number: state.next_number,
            since: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_have(&self, source: &str) -> bool {
        let own = self.by_source.get(source).copied().unwrap_or_default();
        // A host that takes few at a time takes few from each source.
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

    /// Lets in those that wait and may go now.
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
            // If it stopped waiting, dropping its place gives it back.
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

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.streams.lock();
        if state.waiting.remove(&self.number).is_some() {
            return;
        }
        state.give_back(self.source);
        if self.since == Some(state.lowered) {
            state.recovered = true;
            state.went_well += 1;
        }
        if state.went_well >= state.limit && state.limit < self.streams.most {
            state.limit += 1;
            state.went_well = 0;
        }
        state.admit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn taken(streams: &AimdLimit) -> Vec<Place<'_>> {
        taken_from(streams, "a")
    }

    fn taken_from<'a>(streams: &'a AimdLimit, source: &'a str) -> Vec<Place<'a>> {
        std::iter::from_fn(|| streams.try_take(source)).collect()
    }

    #[test]
    fn one_overload_halves_once_however_many_hear_of_it() {
        let streams = AimdLimit::new(48, 64);
        let mut places = taken(&streams);
        assert_eq!(places.len(), 48);
        streams.too_many();
        // What was sent at the old rate ends, and more of it hears of the overload.
        places.truncate(40);
        streams.too_many();
        drop(places);
        assert_eq!(taken(&streams).len(), 24);
        // Those were sent at the new rate, went well and made room for one more.
        assert_eq!(taken(&streams).len(), 25);
    }

    #[test]
    fn there_is_always_one_place_and_never_more_than_the_most() {
        let streams = AimdLimit::new(48, 64);
        for _ in 0..20 {
            drop(streams.try_take("a"));
            streams.too_many();
        }
        assert_eq!(taken(&streams).len(), 1);
        for _ in 0..10_000 {
            drop(streams.try_take("a"));
        }
        assert_eq!(taken(&streams).len(), 64);
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_is_given_back() {
        let streams = AimdLimit::new(48, 64);
        let mut places = taken(&streams);
        let waiting = streams.take("a");
        let give_back = async { drop(places.pop()) };
        let (_place, ()) = tokio::join!(waiting, give_back);
        assert_eq!(places.len(), 47);
    }

    #[tokio::test]
    async fn a_source_that_holds_all_places_leaves_some_for_each_other() {
        let streams = AimdLimit::new(48, 64);
        let held = taken_from(&streams, "hostile");
        assert_eq!(held.len(), 48);
        // Who waits for a place behind the hostile source's own is not held up by it.
        let mut behind = std::pin::pin!(streams.take("hostile"));
        assert!(behind.as_mut().now_or_never().is_none());
        let mut own = taken_from(&streams, "b");
        assert_eq!((own.len(), taken_from(&streams, "c").len()), (4, 4));
        let waiting = streams.take("b");
        let give_back = async { drop(own.pop()) };
        let (_place, ()) = tokio::join!(waiting, give_back);
        assert_eq!(own.len(), 3);
        drop(held);
        let _place = behind.await;
    }

    /// A transfer that was stopped while it waited, or in the moment in which it got its place, holds none.
    #[tokio::test]
    async fn who_stops_waiting_holds_nothing() {
        let streams = AimdLimit::new(1, 1);
        let held = streams.try_take("a");
        let mut waiting = Box::pin(streams.take("a"));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        let mut waiting = Box::pin(streams.take("a"));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        drop(waiting);
        assert_eq!(taken(&streams).len(), 1);
    }
}
