//! State that all registries of one set share: options, clients, memory, counters, and the cached lists of digest tags.

use super::clients::Clients;
use super::memory_budget::MemoryBudget;
use super::options::RegistryOptions;
use crate::address_policy::AddressPolicy;
use crate::credentials::Credentials;
use crate::lock::lock;
use crate::registry::host_limits::HostLimits;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub(crate) struct Common {
    pub(crate) options: RegistryOptions,
    pub(crate) address_policy: Arc<AddressPolicy>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) memory: Arc<MemoryBudget>,
    /// Of the hosts in use.
    pub(crate) limits: Arc<Mutex<HashMap<String, Weak<HostLimits>>>>,
    pub(crate) digest_tags: DigestTagLists,
    /// Of all hosts together, including those that were dropped.
    pub(crate) counters: Counters,
}

impl Common {
    /// Returns the same with other credentials. Nothing is shared that was learned with the former ones.
    pub(crate) fn with_credentials(&self, credentials: Credentials) -> Self {
        Self {
            options: RegistryOptions {
                credentials,
                ..self.options.clone()
            },
            address_policy: Arc::clone(&self.address_policy),
            clients: Arc::clone(&self.clients),
            memory: Arc::clone(&self.memory),
            limits: Arc::clone(&self.limits),
            digest_tags: DigestTagLists::default(),
            counters: Counters::default(),
        }
    }

    /// Returns the limits of a host.
    pub(crate) fn limits_of(&self, host: &str) -> Arc<HostLimits> {
        let mut limits = lock(&self.limits);
        if let Some(known) = limits.get(host).and_then(Weak::upgrade) {
            return known;
        }
        limits.retain(|_, limits| limits.strong_count() > 0);
        let new = Arc::new(HostLimits::default());
        limits.insert(host.to_owned(), Arc::downgrade(&new));
        new
    }
}

/// Traffic to one registry, or to all registries of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number of HTTP requests, including those to token services and redirect targets.
    pub requests: u64,
    /// Number of pauses that it requested: 429, and 503 with `Retry-After`, outside of a pause.
    pub pauses: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    pauses: AtomicU64,
}

impl Counters {
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            pauses: self.pauses.load(Ordering::Relaxed),
        }
    }
}

/// Prefix of digest tags. Only this algorithm is in use for them.
pub(crate) const DIGEST_TAG: &str = "sha256-";

/// Time that a list is cached: as long as copying the tags of one repository takes, and short enough that the next copy
/// finds a new signature.
const LIST_LIFE: Duration = Duration::from_secs(30);

/// Maximum number of repositories whose lists are cached.
const MAX_LISTS: usize = 64;

/// Maximum size of the lists of all hosts together, in bytes. The longest possible list fits.
pub(crate) const MAX_LIST_BYTES: usize = 1024 * 1024;

/// The digest tags of a repository; `None` if they cannot be listed by one or two requests.
pub(crate) type DigestTags = Option<Arc<[String]>>;

/// The lists of all hosts, by `host/repository`. Each is requested once, however many images need it.
#[derive(Default)]
pub(crate) struct DigestTagLists(Mutex<HashMap<String, (Instant, Slot)>>);

pub(crate) type Slot = Arc<OnceCell<DigestTags>>;

impl DigestTagLists {
    pub(crate) fn slot(&self, repository: String) -> Slot {
        let mut lists = self.lock();
        lists.retain(|_, (since, _)| since.elapsed() < LIST_LIFE);
        if lists.len() >= MAX_LISTS {
            lists.clear();
        }
        let fresh = || (Instant::now(), Slot::default());
        let (_, slot) = lists.entry(repository).or_insert_with(fresh);
        Arc::clone(slot)
    }

    /// Drops all other lists if they are too large together with this one.
    pub(crate) fn make_room(&self, own: &Slot) {
        let mut lists = self.lock();
        if lists.values().map(|(_, slot)| bytes(slot)).sum::<usize>() > MAX_LIST_BYTES {
            lists.retain(|_, (_, slot)| Arc::ptr_eq(slot, own) || bytes(slot) == 0);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Slot)>> {
        lock(&self.0)
    }
}

/// Returns the size of a list in bytes.
pub(crate) fn bytes(slot: &Slot) -> usize {
    let tags = slot.get().and_then(Option::as_deref).unwrap_or_default();
    let each = tags.iter().map(|tag| tag.len() + size_of::<String>());
    each.sum()
}
