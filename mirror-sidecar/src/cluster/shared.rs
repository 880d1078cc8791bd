//! The model that the watches write and everybody else reads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::events::About;
use super::model::{Change, Model};
use super::own_workload::OwnWorkload;
use super::workload::Object;

/// A [`Model`] behind a lock, which tells when it changed.
#[derive(Debug)]
pub struct Cluster {
    model: Mutex<Model>,
    own: Option<Mutex<OwnWorkload>>,
    changed: watch::Sender<()>,
}

impl Cluster {
    /// Shares `model`.
    #[must_use]
    pub fn new(model: Model) -> Self {
        Self {
            model: Mutex::new(model),
            own: None,
            changed: watch::Sender::new(()),
        }
    }

    /// The same for a process that runs in this Pod.
    #[must_use]
    pub fn within_pod(mut self, namespace: &str, name: &str) -> Self {
        self.own = Some(Mutex::new(OwnWorkload::of_pod(namespace, name)));
        self
    }

    /// What an Event about this service is about; `None` as long as that is not known.
    #[must_use]
    pub fn own_workload(&self) -> Option<About> {
        let own = self.own.as_ref()?;
        own.lock().unwrap_or_else(PoisonError::into_inner).about()
    }

    /// Looks at the model. The watches wait meanwhile, so `look` must not wait for anything itself.
    pub fn read<T>(&self, look: impl FnOnce(&Model) -> T) -> T {
        look(&self.lock())
    }

    /// Carries out a change.
    pub fn apply(&self, change: Change) {
        self.follow_own_workload(&change);
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

    fn follow_own_workload(&self, change: &Change) {
        let Some(own) = &self.own else { return };
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Seen(Object::Workload(workload)) => own.see(workload),
            Change::Gone(Object::Workload(workload)) => own.lose(workload),
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
