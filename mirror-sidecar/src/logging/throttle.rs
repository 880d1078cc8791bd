//! Warnings that somebody else can cause as often as they like.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets an event be logged at most once in a while, and counts the others.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    events: u64,
}

impl Throttle {
    /// Allows one event in this time.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self {
            every,
            state: Mutex::default(),
        }
    }

    /// Counts an event. If it may be logged, returns how many there were since the last one that was, itself included.
    pub fn count(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.events = state.events.saturating_add(1);
        let now = Instant::now();
        let is_due = |last| now.saturating_duration_since(last) >= self.every;
        if !state.last.is_none_or(is_due) {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_in_a_while_with_the_number_of_all() {
        let throttle = Throttle::new(Duration::from_secs(10));
        assert_eq!(throttle.count(), Some(1));
        for _ in 0..5 {
            assert_eq!(throttle.count(), None);
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(throttle.count(), Some(6));
        assert_eq!(throttle.count(), None);
    }
}
