//! The index that the watches write and everybody else reads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mirror_contract::owners;
use tokio::sync::watch;
use tokio::time::Instant;

use super::events::About;
use super::index::{Change, Index};
use super::loop_guard::{Loop, LoopGuard};
use super::own_workload::OwnWorkload;
use super::workload::{Key, Object};

/// A [`Index`] behind a lock, which tells when it changed.
#[derive(Debug)]
pub struct SharedIndex {
    index: Mutex<Index>,
    own: Option<Mutex<OwnWorkload>>,
    loops: Mutex<LoopGuard>,
    changed: watch::Sender<()>,
}

impl SharedIndex {
    #[must_use]
    pub fn new(index: Index) -> Self {
        Self {
            index: Mutex::new(index),
            own: None,
            loops: Mutex::default(),
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

    /// Looks at the index. The watches wait meanwhile, so `look` must not wait for anything itself.
    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.lock())
    }

    /// Carries out a change.
    pub fn apply(&self, change: Change) {
        self.follow_own_workload(&change);
        self.follow_loops(&change);
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

    /// The workloads of a namespace whose Pods the policy is to leave alone, as a list of [`owners`].
    #[must_use]
    pub fn skipped_owners(&self, namespace: &str) -> String {
        let mut list = self.read(|index| index.skipped_owners(namespace));
        for found in self.loops().of_namespace(namespace, Instant::now()) {
            // The list is full, or the owner has no name that it could hold.
            let _ = owners::add(&mut list, &found.owner.kind, &found.owner.name);
        }
        list
    }

    /// The workloads whose Pods are re-created again and again after a rewrite.
    pub(super) fn all_loops(&self) -> Vec<Loop> {
        self.loops().all(Instant::now())
    }

    /// Whether the Pods of a workload are re-created again and again, so that it is left alone. `Deployment`s are known by
    /// the names of their `ReplicaSet`s.
    pub(super) fn is_in_loop(&self, key: &Key) -> bool {
        let loops = self.loops().of_namespace(&key.namespace, Instant::now());
        let mut this = String::new();
        owners::add(&mut this, key.kind.name(), &key.name)
            && loops
                .iter()
                .any(|found| owners::lists(&this, &found.owner.kind, &found.owner.name))
    }

    fn follow_loops(&self, change: &Change) {
        match change {
            Change::Seen(Object::Workload(workload)) => {
                self.loops().see(workload, Instant::now());
            }
            Change::Gone(Object::Workload(workload)) => {
                self.loops().lose(workload, Instant::now());
            }
            _ => {}
        }
    }

    fn loops(&self) -> MutexGuard<'_, LoopGuard> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
