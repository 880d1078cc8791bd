//! Which sources deliver: records of registrable domains and of addresses, for each backup.
//!
//! A copy is slow because of its source or because of its backup, so that a source has a record for each backup.
//!
//! A domain that delivered is judged by its own record alone. The owner of a name chooses its addresses, and a content
//! delivery network has many honest registries behind one, so failures of others behind an address count only for
//! domains without a record, and only while nothing behind that address delivers.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mirror_contract::ImageRef;
use mirror_copy::address_policy::registrable_domain;
use tokio::time::Instant;

/// How long a domain counts as proven after it delivered an image.
const PROVEN_FOR: Duration = Duration::from_hours(24);

/// Records of domains, and of addresses. A cluster uses some dozen registries. The oldest that never delivered are
/// dropped first, so that invented names cannot displace a registry that works.
const MAX_RECORDS: usize = 4096;

/// Domains behind one address that must fail, with no delivery from there in between, before the address counts.
const ADDRESS_STRIKES: u32 = 3;

/// A backup of the queue, by the order in which they were added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BackupId(u32);

/// A registrable domain from which images are copied to one backup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Domain {
    pub(super) backup: BackupId,
    /// Limits of slots count it for all backups together.
    pub(super) name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(super) host: Arc<str>,
    pub(super) domain: Domain,
    /// The repository without its last component: an account, an organization, a project.
    pub(super) account: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Delivered an image within [`PROVEN_FOR`].
    Proven,
    /// No record.
    Untried,
    /// Did not respond, or was slow while others waited, and has delivered nothing since.
    Penalized,
}

#[derive(Debug, Default)]
pub(crate) struct Sources {
    domains: Records<Domain>,
    addresses: Records<(BackupId, IpAddr)>,
    hosts: HashMap<Arc<str>, IpAddr>,
}

#[derive(Debug)]
struct Records<K> {
    by_key: HashMap<K, Record>,
    updates: u64,
}

#[derive(Debug, Default)]
struct Record {
    responded_at: Option<Instant>,
    delivered_at: Option<Instant>,
    struck_at: Option<Instant>,
    strikes: u32,
    updated: u64,
}

impl BackupId {
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl Source {
    pub(super) fn of(backup: BackupId, image: &ImageRef<'_>) -> Self {
        let account = image.path().rsplit_once('/').map_or("", |(left, _)| left);
        Self {
            host: image.host().into(),
            domain: Domain {
                backup,
                name: registrable_domain(image.host()).into(),
            },
            account: account.into(),
        }
    }

    /// The source of lookups that do not depend on a backup.
    pub(crate) fn of_any_backup(image: &ImageRef<'_>) -> Self {
        Self::of(BackupId::default(), image)
    }

    pub(crate) fn domain_name(&self) -> Arc<str> {
        Arc::clone(&self.domain.name)
    }

    pub(super) fn is_same_account(&self, other: &Self) -> bool {
        self.domain == other.domain && self.account == other.account
    }
}

impl Sources {
    pub(crate) fn class(&self, source: &Source, now: Instant) -> Class {
        match self.domains.by_key.get(&source.domain) {
            Some(record) if record.strikes > 0 => return Class::Penalized,
            Some(record) if record.is_proven(now) => return Class::Proven,
            _ => {}
        }
        let record = self
            .address(source)
            .and_then(|address| self.addresses.by_key.get(&(source.domain.backup, address)));
        match record {
            Some(record) if record.strikes >= ADDRESS_STRIKES => Class::Penalized,
            _ => Class::Untried,
        }
    }

    pub(super) fn address(&self, source: &Source) -> Option<IpAddr> {
        self.hosts.get(&source.host).copied()
    }

    pub(super) fn learn_address(&mut self, source: &Source, address: IpAddr) {
        if self.hosts.len() >= MAX_RECORDS && !self.hosts.contains_key(&source.host) {
            // Learned again with the next connection.
            self.hosts.clear();
        }
        self.hosts.insert(Arc::clone(&source.host), address);
    }

    /// Records a manifest from the source.
    pub(super) fn responded(&mut self, source: &Source, now: Instant) {
        self.each_record(source, |record| record.responded_at = Some(now));
    }

    /// Records a delivered image.
    pub(crate) fn delivered(&mut self, source: &Source, now: Instant) {
        self.each_record(source, |record| {
            record.responded_at = Some(now);
            record.delivered_at = Some(now);
            record.strikes = 0;
        });
    }

    /// Records that the source did not deliver in time.
    pub(crate) fn strike(&mut self, source: &Source, now: Instant) {
        let is_first = self
            .domains
            .by_key
            .get(&source.domain)
            .is_none_or(|record| record.strikes == 0);
        self.domains
            .update(&source.domain, |record| record.strike(now));
        // One domain that fails repeatedly does not count against others behind its address.
        if is_first && let Some(address) = self.address(source) {
            self.addresses
                .update(&(source.domain.backup, address), |record| {
                    record.strike(now);
                });
        }
    }

    /// The last time at which the source did not deliver in time.
    pub(super) fn struck_at(&self, source: &Source) -> Option<Instant> {
        self.domains.by_key.get(&source.domain)?.struck_at
    }

    pub(super) fn has_responded_since(&self, source: &Source, since: Instant) -> bool {
        let record = self.domains.by_key.get(&source.domain);
        record.is_some_and(|record| record.responded_at >= Some(since))
    }

    pub(super) fn has_delivered_since(&self, source: &Source, since: Instant) -> bool {
        let record = self.domains.by_key.get(&source.domain);
        record.is_some_and(|record| record.delivered_at >= Some(since))
    }

    fn each_record(&mut self, source: &Source, update: impl Fn(&mut Record)) {
        self.domains.update(&source.domain, &update);
        if let Some(address) = self.address(source) {
            self.addresses
                .update(&(source.domain.backup, address), &update);
        }
    }
}

impl Record {
    fn is_proven(&self, now: Instant) -> bool {
        self.delivered_at
            .is_some_and(|at| now.duration_since(at) < PROVEN_FOR)
    }

    fn strike(&mut self, now: Instant) {
        self.struck_at = Some(now);
        self.strikes = self.strikes.saturating_add(1);
    }
}

impl<K> Default for Records<K> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            updates: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Records<K> {
    fn update(&mut self, key: &K, update: impl FnOnce(&mut Record)) {
        self.updates += 1;
        if self.by_key.len() >= MAX_RECORDS && !self.by_key.contains_key(key) {
            self.make_room();
        }
        let record = self.by_key.entry(key.clone()).or_default();
        record.updated = self.updates;
        update(record);
    }

    /// Drops half of the records in one go, so that a flood of names does not sort them each time.
    fn make_room(&mut self) {
        let mut order: Vec<_> = self
            .by_key
            .iter()
            .map(|(key, record)| (record.delivered_at.is_some(), record.updated, key.clone()))
            .collect();
        order.sort_unstable_by_key(|(has_delivered, updated, _)| (*has_delivered, *updated));
        for (_, _, key) in order.into_iter().take(MAX_RECORDS / 2) {
            self.by_key.remove(&key);
        }
    }
}
