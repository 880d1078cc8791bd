//! How many blobs go to or from one host at once. The number finds itself.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Places for blob transfers. Every transfer that went well makes room for more, up to a limit; a host
/// that says it is too much is given half at once (additive increase, multiplicative decrease).
pub(crate) struct Streams {
    most: usize,
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    running: usize,
    limit: usize,
    /// Transfers since the limit last changed.
    went_well: usize,
    /// How often the limit was lowered.
    lowered: u64,
    /// Whether something that began after the last lowering went well.
    recovered: bool,
}

/// A place that was taken; dropping it gives it back.
pub(crate) struct Place<'a> {
    streams: &'a Streams,
    /// `lowered` when it was taken.
    since: u64,
}

impl Streams {
    /// `first` places at the beginning, never more than `most`.
    pub(crate) fn new(first: usize, most: usize) -> Self {
        let state = State {
            running: 0,
            limit: first,
            went_well: 0,
            lowered: 0,
            recovered: true,
        };
        Self {
            most,
            state: Mutex::new(state),
            freed: Notify::new(),
        }
    }

    /// Waits for a place.
    pub(crate) async fn take(&self) -> Place<'_> {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.freed.notified().await;
        }
    }

    /// A place, if there is one.
    pub(crate) fn try_take(&self) -> Option<Place<'_>> {
        let mut state = self.lock();
        (state.running < state.limit).then(|| {
            state.running += 1;
            Place {
                streams: self,
                since: state.lowered,
            }
        })
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let places = {
            let mut state = self.streams.lock();
            state.running -= 1;
            if self.since == state.lowered {
                state.recovered = true;
                state.went_well += 1;
            }
            if state.went_well >= state.limit && state.limit < self.streams.most {
                state.limit += 1;
                state.went_well = 0;
            }
            state.limit.saturating_sub(state.running)
        };
        // One for the place and, if the limit has grown, one for the new one.
        for _ in 0..places.min(2) {
            self.streams.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(streams: &Streams) -> Vec<Place<'_>> {
        std::iter::from_fn(|| streams.try_take()).collect()
    }

    #[test]
    fn one_overload_halves_once_however_many_hear_of_it() {
        let streams = Streams::new(48, 64);
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
        let streams = Streams::new(48, 64);
        for _ in 0..20 {
            drop(streams.try_take());
            streams.too_many();
        }
        assert_eq!(taken(&streams).len(), 1);
        for _ in 0..10_000 {
            drop(streams.try_take());
        }
        assert_eq!(taken(&streams).len(), 64);
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_is_given_back() {
        let streams = Streams::new(48, 64);
        let mut places = taken(&streams);
        let waiting = streams.take();
        let give_back = async { drop(places.pop()) };
        let (_place, ()) = tokio::join!(waiting, give_back);
        assert_eq!(places.len(), 47);
    }
}
