//! How many copies are made at the same time, in all and from one registry.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

/// The places for copies. A registry gets half of them at most: one that is slow, limits its clients or is gone must not
/// keep the images of all others from being copied.
pub(super) struct Places {
    all: Semaphore,
    per_host: usize,
    /// Only registries of which something is copied or waits.
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A place that was taken; dropping it gives it back.
pub(super) struct Place<'a> {
    _all: Option<SemaphorePermit<'a>>,
    _host: HostPlace<'a>,
}

struct HostPlace<'a> {
    places: &'a Places,
    name: &'a str,
    semaphore: Arc<Semaphore>,
    taken: bool,
}

impl Places {
    pub(super) fn new(all: NonZeroUsize) -> Self {
        let all = all.get().min(Semaphore::MAX_PERMITS);
        Self {
            all: Semaphore::new(all),
            per_host: all.div_ceil(2),
            hosts: Mutex::default(),
        }
    }

    /// Waits for a place for a copy from the registry `host`. The registry's own limit comes first, so that nobody who
    /// waits for it holds a place that others could use.
    pub(super) async fn take<'a>(&'a self, host: &'a str) -> Place<'a> {
        let mut place = HostPlace {
            places: self,
            name: host,
            semaphore: self.semaphore(host),
            taken: false,
        };
        // Neither semaphore is ever closed, so these always are permits.
        if let Ok(permit) = place.semaphore.acquire().await {
            permit.forget();
        }
        place.taken = true;
        Place {
            _all: self.all.acquire().await.ok(),
            _host: place,
        }
    }

    fn semaphore(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let semaphore = hosts
            .entry(host.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(self.per_host)));
        Arc::clone(semaphore)
    }
}

impl Drop for HostPlace<'_> {
    fn drop(&mut self) {
        if self.taken {
            self.semaphore.add_permits(1);
        }
        let mut hosts = self
            .places
            .hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The map's and this one: nobody else uses or waits for it.
        if Arc::strong_count(&self.semaphore) == 2 {
            hosts.remove(self.name);
        }
    }
}
