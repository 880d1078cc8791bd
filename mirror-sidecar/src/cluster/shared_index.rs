//! The indexes that the watches write and all other tasks read: one for each backup.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::owners;
use tokio::sync::watch;
use tokio::time::Instant;

use super::events::About;
use super::index::{Change, Index};
use super::loop_guard::{Loop, LoopGuard};
use super::own_workload::OwnWorkload;
use super::pull_locations::PullLocations;
use super::workload::{Key, Object};
use crate::backups::ByBackup;

/// An [`Index`] behind a lock, with notifications of changes.
#[derive(Debug)]
pub struct SharedIndex {
    index: Mutex<Index>,
    own: Option<Mutex<OwnWorkload>>,
    loops: Mutex<LoopGuard>,
    changed: watch::Sender<()>,
    /// Of this index or that of another backup.
    any_changed: watch::Sender<()>,
    outdated: watch::Sender<()>,
}

/// The indexes of all backups. Only that of the default backup knows the own Pod, and the loops. Clones share them.
#[derive(Clone, Debug)]
pub struct Indexes(ByBackup<Arc<SharedIndex>>);

impl SharedIndex {
    #[must_use]
    pub fn new(index: Index) -> Self {
        Self {
            index: Mutex::new(index),
            own: None,
            loops: Mutex::default(),
            changed: watch::Sender::new(()),
            any_changed: watch::Sender::new(()),
            outdated: watch::Sender::new(()),
        }
    }

    /// Returns the shared index of another backup.
    #[must_use]
    pub fn beside(&self, index: Index) -> Self {
        Self {
            any_changed: self.any_changed.clone(),
            ..Self::new(index)
        }
    }

    /// Sets the Pod in which this process runs.
    #[must_use]
    pub fn within_pod(mut self, namespace: &str, name: &str) -> Self {
        self.own = Some(Mutex::new(OwnWorkload::of_pod(namespace, name)));
        self
    }

    /// Returns the object of Events about this service; `None` while it is unknown.
    #[must_use]
    pub fn own_workload(&self) -> Option<About> {
        let own = self.own.as_ref()?;
        own.lock().unwrap_or_else(PoisonError::into_inner).about()
    }

    /// Runs a query. The watches wait for it, so `query` must not block.
    pub fn read<T>(&self, query: impl FnOnce(&Index) -> T) -> T {
        query(&self.lock())
    }

    /// Sets the locations of images that are pulled with a login, before the watches begin.
    pub(super) fn set_pull_locations(&self, locations: PullLocations) {
        self.lock().set_pull_locations(locations);
    }

    pub fn apply(&self, change: Change) {
        self.update_own_workload(&change);
        self.update_loops(&change);
        self.update_index(change);
    }

    fn update_index(&self, change: Change) {
        let (is_news, is_outdated) = {
            let mut index = self.lock();
            (index.apply(change), index.take_outdated())
        };
        if is_news {
            self.changed.send_replace(());
            self.any_changed.send_replace(());
        }
        if is_outdated {
            self.outdated.send_replace(());
        }
    }

    /// Returns a receiver that is notified when the workloads must be listed again, see [`Index::take_outdated`].
    #[must_use]
    pub fn outdated(&self) -> watch::Receiver<()> {
        self.outdated.subscribe()
    }

    /// Returns a receiver that is notified when a query may return something else. A reader of the whole index should pause
    /// after each notification: the first list of a cluster is thousands of changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// As [`Self::subscribe`], for changes of the indexes of all backups.
    #[must_use]
    pub fn subscribe_any(&self) -> watch::Receiver<()> {
        self.any_changed.subscribe()
    }

    /// Returns the workloads of a namespace whose Pods the policy must leave alone, as a list of [`owners`].
    #[must_use]
    pub fn skipped_owners(&self, namespace: &str) -> String {
        let mut list = self.read(|index| index.skipped_owners(namespace));
        for found in self.loops().of_namespace(namespace, Instant::now()) {
            // Fails if the list is full or cannot hold the owner's name.
            let _ = owners::add(&mut list, &found.owner.kind, &found.owner.name);
        }
        list
    }

    pub(super) fn all_loops(&self) -> Vec<Loop> {
        self.loops().all(Instant::now())
    }

    /// Returns whether a workload is left alone because its Pods are re-created in a loop. A `Deployment` matches by the names
    /// of its `ReplicaSet`s.
    pub(super) fn is_in_loop(&self, key: &Key) -> bool {
        let loops = self.loops().of_namespace(&key.namespace, Instant::now());
        let mut this = String::new();
        owners::add(&mut this, key.kind.name(), &key.name)
            && loops
                .iter()
                .any(|found| owners::lists(&this, &found.owner.kind, &found.owner.name))
    }

    fn update_loops(&self, change: &Change) {
        match change {
            Change::Apply(Object::Workload(workload)) => {
                self.loops().observe(workload, Instant::now());
            }
            Change::Delete(Object::Workload(workload)) => {
                self.loops().delete(workload, Instant::now());
            }
            _ => {}
        }
    }

    fn loops(&self) -> MutexGuard<'_, LoopGuard> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update_own_workload(&self, change: &Change) {
        let Some(own) = &self.own else { return };
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Apply(Object::Workload(workload)) => own.observe(workload),
            Change::Delete(Object::Workload(workload)) => own.delete(workload),
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Indexes {
    /// The indexes of all backups, those of the others made with [`SharedIndex::beside`] the default one.
    #[must_use]
    pub fn new(indexes: ByBackup<Arc<SharedIndex>>) -> Self {
        Self(indexes)
    }

    #[must_use]
    pub fn of_default(&self) -> &Arc<SharedIndex> {
        self.0.of_default()
    }

    #[must_use]
    pub fn by_backup(&self) -> &ByBackup<Arc<SharedIndex>> {
        &self.0
    }

    pub fn apply(&self, change: Change) {
        for (_, index) in self.0.named() {
            index.update_index(change.clone());
        }
        self.of_default().apply(change);
    }

    /// Runs a query on all indexes, that of the default backup first. The watches wait for it, so `query` must not block.
    pub fn read<T>(&self, query: impl FnOnce(&[&Index]) -> T) -> T {
        // Always in this order, and no other task holds more than one.
        let guards: Vec<_> = self.0.values().map(|index| index.lock()).collect();
        let indexes: Vec<&Index> = guards.iter().map(|guard| &**guard).collect();
        query(&indexes)
    }
}

impl From<Arc<SharedIndex>> for Indexes {
    fn from(index: Arc<SharedIndex>) -> Self {
        Self(ByBackup::new(index))
    }
}
