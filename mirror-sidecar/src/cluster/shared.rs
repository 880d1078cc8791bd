//! The model that the watches write and everybody else reads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::model::{Change, Model};

/// A [`Model`] behind a lock, which tells when it changed.
#[derive(Debug)]
pub struct Cluster {
    model: Mutex<Model>,
    changed: watch::Sender<()>,
}

impl Cluster {
    /// Shares `model`.
    #[must_use]
    pub fn new(model: Model) -> Self {
        Self {
            model: Mutex::new(model),
            changed: watch::Sender::new(()),
        }
    }

    /// Looks at the model. The watches wait meanwhile, so `look` must not wait for anything itself.
    pub fn read<T>(&self, look: impl FnOnce(&Model) -> T) -> T {
        look(&self.lock())
    }

    /// Carries out a change.
    pub fn apply(&self, change: Change) {
        if self.lock().apply(change) {
            self.changed.send_replace(());
        }
    }

    /// Tells when something changed that a query would show. Many changes may be told as one. Whoever looks at the whole
    /// model each time should let some time pass in between: a first list of the cluster is thousands of changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
