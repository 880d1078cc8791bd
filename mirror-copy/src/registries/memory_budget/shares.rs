//! Shares of the memory for blobs in flight, by host, without I/O.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Maximum memory of one transfer in KiB: the HTTP client buffers up to about 400 KiB for reading, and as much for writing.
pub(super) const PER_TRANSFER: u32 = 1024;

/// Memory of a transfer besides its content, in KiB: two connections and their tasks.
pub(super) const OVERHEAD: u32 = 32;

/// A full share, in KiB.
pub(super) const FULL: u32 = PER_TRANSFER + OVERHEAD;

/// Maximum memory of all transfers together, in KiB. The process stays below 32 MiB with it.
pub(super) const ALL: u32 = 13 * 1024;

/// Concurrent transfers that may have a full share. The rest of the memory is for small blobs only.
pub(super) const LARGE: u32 = 9;

/// Maximum number of full shares of one host: no copy has more large blobs in flight.
const LARGE_PER_HOST: u32 = 6;

/// From this number of full shares on, a host gets more only while a third of all is left for others.
const HALF: u32 = LARGE / 2;

/// Time that a host counts as slow. Long, since a large blob over a slow link takes hours.
pub(super) const SLOW_FOR: Duration = Duration::from_hours(6);

/// Maximum number of slow hosts. The oldest ones are dropped first.
const MAX_SLOW: usize = 256;

/// The share that a transfer requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Full shares: 1 for a large blob, 0 for others.
    pub(super) large: u32,
    /// In KiB.
    pub(super) memory: u32,
}

/// The shares of one host, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Have {
    large: u32,
    memory: u32,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    all: Have,
    /// Hosts with transfers.
    hosts: HashMap<String, Have>,
    /// Hosts that were slow while others waited, and the time of that.
    slow: HashMap<String, Instant>,
}

impl Shares {
    /// Takes a share for `host` if it may have it. Returns whether it did.
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

    /// Returns whether the memory is too small for this share, independent of the host.
    pub(super) fn lacks_memory(&self, want: Want) -> bool {
        self.all.large + want.large <= LARGE && self.all.memory + want.memory > ALL
    }

    /// Returns whether `host` would get the share if no other host had any.
    pub(super) fn would_fit_alone(&self, host: &str, want: Want) -> bool {
        let have = self.of(host);
        may_have(have, have, want, self.slow.contains_key(host))
    }

    /// Returns whether `host` has more than a full share.
    pub(super) fn has_more_than_one(&self, host: &str) -> bool {
        self.of(host).memory > FULL
    }

    /// Records that `host` was slow while others waited.
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

/// Returns whether a host with `have`, while all hosts together have `all`, may have another share.
///
/// The more a host has, the more must be left for others, so that a host without transfers nearly always gets a share.
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
