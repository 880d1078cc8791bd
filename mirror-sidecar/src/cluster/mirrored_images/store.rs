//! The objects of this installation that exist, from a watch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::watcher::Event;
use tokio::sync::watch;

use super::name::Installation;
use super::resource::{GROUP, KIND, MirroredImage, PLURAL, StoredObject, VERSION};
use crate::cluster::json_filter::Keep;
use crate::cluster::watch::stream::Subject;

/// Longest string that is read: longer than a reason, and than the name of a user.
const MAX_STRING: usize = 4096;
/// Elements of a list that are read: more than users, platforms or conditions are written.
const MAX_ELEMENTS: usize = 64;
const MAX_BYTES: usize = 32 * 1024;

/// The objects. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Store {
    objects: Arc<Mutex<Objects>>,
    is_listed: watch::Sender<bool>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Objects {
    by_name: BTreeMap<Box<str>, Stored>,
    /// Those of a list that is not complete.
    listed: BTreeMap<Box<str>, Stored>,
}

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub version: String,
    /// As JSON, which takes a third of the memory; empty if it cannot be parsed.
    content: Box<str>,
}

/// The watch that fills a store.
pub(super) struct Watched {
    store: Store,
    selector: String,
}

impl Stored {
    fn of(object: StoredObject) -> Option<(Box<str>, Self)> {
        let content = object.content.as_ref();
        let content = content.and_then(|content| serde_json::to_string(content).ok());
        let stored = Self {
            version: object.metadata.resource_version.unwrap_or_default(),
            content: content.unwrap_or_default().into(),
        };
        Some((object.metadata.name?.into(), stored))
    }

    /// Returns the content; `None` if somebody wrote what cannot be parsed.
    pub(super) fn content(&self) -> Option<MirroredImage> {
        serde_json::from_str(&self.content).ok()
    }
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            objects: Arc::default(),
            is_listed: watch::Sender::new(false),
            changed: watch::Sender::new(()),
        }
    }

    pub(super) fn watched(&self, installation: &Installation) -> Watched {
        Watched {
            store: self.clone(),
            selector: installation.selector(),
        }
    }

    /// Returns a receiver of whether the API server has listed the objects.
    pub(super) fn is_listed(&self) -> watch::Receiver<bool> {
        self.is_listed.subscribe()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn get(&self, name: &str) -> Option<Stored> {
        self.lock().by_name.get(name).cloned()
    }

    /// Returns the names that pass a filter, with the versions.
    pub(super) fn names(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<(Box<str>, String)> {
        let objects = self.lock();
        let wanted = objects.by_name.iter().filter(|(name, _)| is_wanted(name));
        wanted
            .map(|(name, stored)| (name.clone(), stored.version.clone()))
            .collect()
    }

    fn apply(&self, event: Event<StoredObject>) {
        let mut objects = self.lock();
        match event {
            Event::Init => objects.listed.clear(),
            Event::InitApply(object) => {
                objects.listed.extend(Stored::of(object));
                return;
            }
            Event::InitDone => {
                objects.by_name = std::mem::take(&mut objects.listed);
                drop(objects);
                self.is_listed.send_replace(true);
                self.changed.send_replace(());
                return;
            }
            Event::Apply(object) => objects.by_name.extend(Stored::of(object)),
            Event::Delete(object) => {
                let name = object.metadata.name.unwrap_or_default();
                objects.by_name.remove(&*name);
            }
        }
        drop(objects);
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subject for Watched {
    type Object = StoredObject;

    fn kind(&self) -> &'static str {
        KIND
    }

    fn path(&self) -> String {
        format!("/apis/{GROUP}/{VERSION}/{PLURAL}")
    }

    fn label_selector(&self) -> Option<String> {
        Some(self.selector.clone())
    }

    fn keep(&self) -> Keep {
        Keep {
            is_wanted: |name| !matches!(name, "managedFields" | "annotations"),
            whole: None,
            string: MAX_STRING,
            elements: MAX_ELEMENTS,
            bytes: MAX_BYTES,
        }
    }

    fn take(&self, event: Event<StoredObject>) {
        self.store.apply(event);
    }

    /// The kind is not installed, or not any more.
    fn set_not_served(&self) -> bool {
        *self.store.lock() = Objects::default();
        self.store.is_listed.send_replace(false);
        true
    }
}
