//! Limits the rate of log lines that others can cause at any rate.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Permits a number of log lines per interval, and counts all events.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    burst: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    /// Lines permitted since then.
    logged: u32,
    /// Events since the last permitted line.
    events: u64,
}

impl Throttle {
    /// Permits one line per interval.
    pub fn new(every: Duration) -> Self {
        Self::with_burst(every, 1)
    }

    /// Permits `burst` lines per interval.
    pub fn with_burst(every: Duration, burst: u32) -> Self {
        Self {
            every,
            burst,
            state: Mutex::default(),
        }
    }

    /// Counts an event. If it may be logged, returns the number of events since the last one that was, including this one.
    pub fn count(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.events = state.events.saturating_add(1);
        let now = Instant::now();
        let is_over = |since| now.saturating_duration_since(since) >= self.every;
        if state.since.is_none_or(is_over) {
            (state.since, state.logged) = (Some(now), 0);
        }
        if state.logged >= self.burst {
            return None;
        }
        state.logged += 1;
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

    #[tokio::test(start_paused = true)]
    async fn a_few_in_a_while() {
        let throttle = Throttle::with_burst(Duration::from_secs(10), 2);
        let counts = [(); 4].map(|()| throttle.count());
        assert_eq!(counts, [Some(1), Some(1), None, None]);
        tokio::time::advance(Duration::from_secs(10)).await;
        let counts = [(); 3].map(|()| throttle.count());
        assert_eq!(counts, [Some(3), Some(1), None]);
    }
}
