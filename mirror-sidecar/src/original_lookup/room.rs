//! Room for lookups of originals: who waits is woken in their turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::turns::{Request, Turns};

/// Longest wait for room. A workload is created again, or looked at again, within that time.
const WAIT_WITHIN: Duration = Duration::from_mins(1);

#[derive(Clone, Default)]
pub(super) struct Room(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    turns: Turns,
    /// Wakes each lookup that waits.
    wake: HashMap<u64, oneshot::Sender<()>>,
}

/// A lookup that waits for room or has it. It leaves on drop.
pub(super) struct Place {
    room: Room,
    id: u64,
    turn: oneshot::Receiver<()>,
}

impl Room {
    /// Begins to wait for room; returns `None` if too many wait.
    pub(super) fn enter(&self, request: Request) -> Option<Place> {
        let mut state = self.lock();
        let (id, displaced) = state.turns.add(request)?;
        // Its receiver learns that it lost its place.
        displaced.and_then(|id| state.wake.remove(&id));
        let (wake, turn) = oneshot::channel();
        state.wake.insert(id, wake);
        state.wake_next();
        drop(state);
        let room = self.clone();
        Some(Place { room, id, turn })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_next(&mut self) {
        while let Some(id) = self.turns.start_next() {
            if let Some(wake) = self.wake.remove(&id) {
                // A receiver that is gone leaves on drop.
                let _ = wake.send(());
            }
        }
    }
}

impl Place {
    /// Waits for room; returns `false` if there was none in time, or if others came first.
    pub(super) async fn wait(&mut self) -> bool {
        matches!(timeout(WAIT_WITHIN, &mut self.turn).await, Ok(Ok(())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.turns.remove(self.id);
        state.wake.remove(&self.id);
        state.wake_next();
    }
}
