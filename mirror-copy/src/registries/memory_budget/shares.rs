//! Who has how much of the memory for blobs in flight, and who may have more: pure bookkeeping.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// What one transfer keeps at most, in KiB: the HTTP client buffers up to about 400 KiB, and as much
/// again waits to be written.
pub(super) const PER_TRANSFER: u32 = 1024;

/// What a transfer costs besides its content, in KiB: two connections and their tasks.
pub(super) const OVERHEAD: u32 = 32;

/// A full share, in KiB.
pub(super) const FULL: u32 = PER_TRANSFER + OVERHEAD;

/// What all transfers may keep together, in KiB. The process stays below 32 MiB with it.
pub(super) const ALL: u32 = 13 * 1024;

/// Concurrent transfers that may have a full share. The rest of the memory is for small blobs only.
pub(super) const LARGE: u32 = 9;

/// Full shares that one host may have at most: no copy has more large blobs in flight.
const LARGE_PER_HOST: u32 = 6;

/// From this number on, half of all, a host gets more only while a third of all is left for others.
const HALF: u32 = LARGE / 2;

/// How long a host counts as slow. Long, since a large blob over a slow link takes hours.
pub(super) const SLOW_FOR: Duration = Duration::from_hours(6);

/// Slow hosts that are remembered. Who invents more of them is forgotten early, the oldest first.
const MAX_SLOW: usize = 256;

/// What a transfer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Full shares: 1 for a large blob, 0 for others.
    pub(super) large: u32,
    /// In KiB.
    pub(super) memory: u32,
}

/// What somebody has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Have {
    large: u32,
    memory: u32,
}

/// Who has how much.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    all: Have,
    /// Only hosts that have something.
    hosts: HashMap<String, Have>,
    /// Hosts that were slow while others waited, and since when.
    slow: HashMap<String, Instant>,
}

impl Shares {
    /// Gives `host` what it wants, if it may have it.
    pub(super) fn take(&mut self, host: &str, want: Want, now: Instant) -> bool {
        if self
            .slow
            .get(host)
            .is_some_and(|since| now - *since >= SLOW_FOR)
        {
            self.slow.remove(host);
        }
        let have = self.of(host);
        if !may_have(have, self.all, want, self.slow.contains_key(host)) {
            return false;
        }
        let entry = self.hosts.entry(host.to_owned()).or_default();
        entry.add(want);
        self.all.add(want);
        true
    }

    pub(super) fn give_back(&mut self, host: &str, want: Want) {
        self.all.subtract(want);
        if let Some(have) = self.hosts.get_mut(host) {
            have.subtract(want);
            if *have == Have::default() {
                self.hosts.remove(host);
            }
        }
    }

    /// Whether there is too little memory for this, whoever wants it.
    pub(super) fn lacks_memory(&self, want: Want) -> bool {
        self.all.large + want.large <= LARGE && self.all.memory + want.memory > ALL
    }

    /// Whether `host` would get what it wants if nobody else had anything.
    pub(super) fn would_fit_alone(&self, host: &str, want: Want) -> bool {
        let have = self.of(host);
        may_have(have, have, want, self.slow.contains_key(host))
    }

    /// Whether `host` has more than one large blob takes.
    pub(super) fn has_more_than_one(&self, host: &str) -> bool {
        self.of(host).memory > FULL
    }

    /// Notes that `host` was slow while others waited.
    pub(super) fn was_slow(&mut self, host: &str, now: Instant) {
        if self.slow.len() >= MAX_SLOW && !self.slow.contains_key(host) {
            let oldest = self.slow.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                self.slow.remove(&oldest);
            }
        }
        self.slow.insert(host.to_owned(), now);
    }

    fn of(&self, host: &str) -> Have {
        self.hosts.get(host).copied().unwrap_or_default()
    }
}

impl Have {
    fn add(&mut self, want: Want) {
        self.large += want.large;
        self.memory += want.memory;
    }

    fn subtract(&mut self, want: Want) {
        self.large = self.large.saturating_sub(want.large);
        self.memory = self.memory.saturating_sub(want.memory);
    }
}

/// Whether a host that has `have`, while all together have `all`, may have what it wants.
///
/// The more a host has, the more must be left for others: so a host that has nothing nearly always finds something.
fn may_have(have: Have, all: Have, want: Want, is_slow: bool) -> bool {
    let Have { large, memory } = have;
    if all.large + want.large > LARGE || all.memory + want.memory > ALL {
        return false;
    }
    if memory == 0 {
        return true;
    }
    if is_slow && memory + want.memory > FULL {
        return false;
    }
    let left_large = match large {
        0..HALF => 1,
        HALF..LARGE_PER_HOST => LARGE / 3,
        _ => LARGE,
    };
    let large_is_fine = want.large == 0 || all.large + want.large + left_large <= LARGE;
    large_is_fine && all.memory + want.memory + FULL <= ALL
}
