//! How many blobs go to or from one host at once. The number finds itself.

use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// What a host is given at first: enough to hide the way of 100 ms to it, and what tuned copiers use.
const FIRST: usize = 48;

/// Never more, however well it goes.
const MOST: usize = 64;

/// Places for blob transfers. Every transfer that went well makes room for more, up to [`MOST`]; a host
/// that says it is too much is given half at once (additive increase, multiplicative decrease).
pub(crate) struct Streams {
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    running: usize,
    limit: usize,
    /// Transfers since the limit last changed.
    went_well: usize,
    /// Whether nothing went well since the limit was lowered.
    lowered: bool,
}

/// A place that was taken; dropping it gives it back.
pub(crate) struct Place<'a>(&'a Streams);

impl Default for Streams {
    fn default() -> Self {
        let state = State {
            running: 0,
            limit: FIRST,
            went_well: 0,
            lowered: false,
        };
        Self {
            state: Mutex::new(state),
            freed: Notify::new(),
        }
    }
}

impl Streams {
    /// Waits for a place, first come, first served.
    pub(crate) async fn take(&self) -> Place<'_> {
        loop {
            if self.try_take() {
                return Place(self);
            }
            self.freed.notified().await;
        }
    }

    /// The host said that it is too much.
    pub(crate) fn too_many(&self) {
        let mut state = self.lock();
        // Many requests hear of one overload; only what is sent at the new rate may lower it again.
        if !state.lowered {
            let used = if state.running > 1 {
                state.limit.min(state.running)
            } else {
                state.limit
            };
            state.limit = (used / 2).max(1);
            state.went_well = 0;
            state.lowered = true;
        }
    }

    fn try_take(&self) -> bool {
        let mut state = self.lock();
        let room = state.running < state.limit;
        state.running += usize::from(room);
        room
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let places = {
            let mut state = self.0.lock();
            state.running -= 1;
            state.went_well += 1;
            state.lowered = false;
            if state.went_well >= state.limit && state.limit < MOST {
                state.limit += 1;
                state.went_well = 0;
            }
            state.limit.saturating_sub(state.running)
        };
        // One for the place and, if the limit has grown, one for the new one.
        for _ in 0..places.min(2) {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn taken(streams: &Streams) -> Vec<Place<'_>> {
        std::iter::from_fn(|| streams.take().now_or_never()).collect()
    }

    #[test]
    fn too_many_halves_and_success_grows() {
        let streams = Streams::default();
        let places = taken(&streams);
        assert_eq!(places.len(), FIRST);
        streams.too_many();
        streams.too_many();
        drop(places);
        // 24 that went well make one more place; the other 24 not yet another.
        assert_eq!(taken(&streams).len(), FIRST / 2 + 1);
    }

    #[test]
    fn there_is_always_one_place_and_never_more_than_the_most() {
        let streams = Streams::default();
        for _ in 0..20 {
            drop(streams.take().now_or_never());
            streams.too_many();
        }
        assert_eq!(taken(&streams).len(), 1);
        for _ in 0..10_000 {
            drop(streams.take().now_or_never());
        }
        assert_eq!(taken(&streams).len(), MOST);
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_is_given_back() {
        let streams = Streams::default();
        let mut places = taken(&streams);
        let waiting = streams.take();
        let give_back = async { drop(places.pop()) };
        let (_place, ()) = tokio::join!(waiting, give_back);
        assert_eq!(places.len(), FIRST - 1);
    }
}
