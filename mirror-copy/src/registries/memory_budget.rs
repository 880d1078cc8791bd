//! Memory for all blobs in flight, shared fairly by the source hosts.
//!
//! A slow source must not block the blobs of all others. So no host can take the whole memory, and one that was slow while
//! others waited gets only one large blob at a time.

mod shares;

use crate::lock::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

use shares::{OVERHEAD, PER_TRANSFER, Shares, Want};

/// Wait of a blob after which slow transfers of other hosts yield to it: most of them end within this time.
const YIELD_AFTER: Duration = Duration::from_mins(1);

/// A share of the memory for each transfer: little for a small blob, so that many of them are in flight concurrently.
#[derive(Default)]
pub(crate) struct MemoryBudget {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    shares: Shares,
    /// Waiting transfers by number: the first one goes first, unless its host may have no more. No queue is empty.
    queues: BTreeMap<QueueKey, BTreeMap<u64, Waiting>>,
    next_number: u64,
}

/// A queue has blobs of one host that are all large, or all not, so that its first blob represents the others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct QueueKey {
    host: String,
    large: u32,
}

struct Waiting {
    want: Want,
    since: Instant,
    wake: oneshot::Sender<()>,
}

/// A share that is held or waited for; dropping it gives it back.
pub(crate) struct Share<'a> {
    memory: &'a MemoryBudget,
    host: &'a str,
    want: Want,
    number: u64,
}

impl MemoryBudget {
    /// Waits for a share for a blob of `size` bytes that comes from `host`.
    pub(crate) async fn take<'a>(&'a self, host: &'a str, size: u64) -> Share<'a> {
        let (turn, share) = self.enter(host, Want::of(size));
        // The sender exists until this transfer is admitted.
        let _ = turn.await;
        share
    }

    /// Returns whether a slow transfer from `host` must yield: a blob of another host has waited for long, which would not
    /// wait if it were alone. `host` then counts as slow from now on. A host with a single share keeps it: a link that is
    /// slow for all hosts still copies everything, one blob after the other.
    pub(crate) fn must_yield(&self, host: &str) -> bool {
        let mut state = lock(&self.state);
        let must = state.shares.has_more_than_one(host) && state.hinders_others(host);
        if must {
            state.shares.was_slow(host, Instant::now());
        }
        must
    }

    fn enter<'a>(&'a self, host: &'a str, want: Want) -> (oneshot::Receiver<()>, Share<'a>) {
        let (wake, turn) = oneshot::channel();
        let mut state = lock(&self.state);
        let number = state.next_number;
        state.next_number += 1;
        let waiting = Waiting {
            want,
            since: Instant::now(),
            wake,
        };
        let line = state.queues.entry(QueueKey::of(host, want)).or_default();
        line.insert(number, waiting);
        state.admit();
        let share = Share {
            memory: self,
            host,
            want,
            number,
        };
        (turn, share)
    }
}

impl State {
    /// Admits waiting transfers that may start now, in their order.
    fn admit(&mut self) {
        let now = Instant::now();
        while let Some((line, number)) = self.admit_one(now) {
            if let Some(waiting) = self.remove(&line, number) {
                // If the receiver stopped waiting, dropping its share gives it back.
                let _ = waiting.wake.send(());
            }
        }
    }

    /// Takes a share for the first transfer that may start now, which stays in its queue.
    fn admit_one(&mut self, now: Instant) -> Option<(QueueKey, u64)> {
        let firsts = self.queues.iter().filter_map(|(line, waiting)| {
            let (number, first) = waiting.first_key_value()?;
            Some((*number, line, first.want))
        });
        let mut firsts: Vec<_> = firsts.collect();
        firsts.sort_unstable_by_key(|(number, ..)| *number);
        for (number, line, want) in firsts {
            if self.shares.take(&line.host, want, now) {
                return Some((line.clone(), number));
            }
            if self.shares.lacks_memory(want) {
                // If small blobs could overtake, a large one would wait forever.
                return None;
            }
        }
        None
    }

    fn remove(&mut self, line: &QueueKey, number: u64) -> Option<Waiting> {
        let waiting = self.queues.get_mut(line)?;
        let removed = waiting.remove(&number);
        if waiting.is_empty() {
            self.queues.remove(line);
        }
        removed
    }

    /// Returns whether a blob of another host has waited for long, and would not if only that host had transfers.
    fn hinders_others(&self, host: &str) -> bool {
        self.queues.iter().any(|(line, waiting)| {
            let first = waiting.first_key_value();
            line.host != host
                && first.is_some_and(|(_, first)| {
                    first.since.elapsed() >= YIELD_AFTER
                        && self.shares.would_fit_alone(&line.host, first.want)
                })
        })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.memory.state);
        let line = QueueKey::of(self.host, self.want);
        if state.remove(&line, self.number).is_none() {
            state.shares.give_back(self.host, self.want);
        }
        state.admit();
    }
}

impl QueueKey {
    fn of(host: &str, want: Want) -> Self {
        Self {
            host: host.to_owned(),
            large: want.large,
        }
    }
}

impl Want {
    /// Returns the share for a blob of `size` bytes. It is read and written concurrently.
    fn of(size: u64) -> Self {
        let content = size.div_ceil(1024).saturating_mul(2);
        let content = u32::try_from(content).unwrap_or(u32::MAX);
        Self {
            large: u32::from(content >= PER_TRANSFER),
            memory: content.min(PER_TRANSFER) + OVERHEAD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const BIG: u64 = 1 << 30;
    const SMALL: u64 = 100 << 10;

    fn as_many_as_fit<'a>(memory: &'a MemoryBudget, host: &'a str, size: u64) -> Vec<Share<'a>> {
        std::iter::from_fn(|| memory.take(host, size).now_or_never()).collect()
    }

    #[test]
    fn large_blobs_leave_memory_for_small_ones() {
        let memory = MemoryBudget::default();
        let hosts = ["a", "b", "c", "d"];
        let large: Vec<_> = hosts.map(|host| as_many_as_fit(&memory, host, BIG)).into();
        let large: Vec<_> = large.iter().map(Vec::len).collect();
        assert_eq!(large, [6, 2, 1, 0]);
        assert!(as_many_as_fit(&memory, "a", SMALL).len() >= 10);
    }

    #[test]
    fn no_host_takes_everything() {
        let memory = MemoryBudget::default();
        let small = as_many_as_fit(&memory, "a", SMALL);
        assert_eq!(as_many_as_fit(&memory, "b", BIG).len(), 1);
        drop(small);
        let _large = ["a", "b"].map(|host| as_many_as_fit(&memory, host, BIG));
        assert_eq!(as_many_as_fit(&memory, "c", BIG).len(), 1);
    }

    #[tokio::test]
    async fn the_first_goes_first_but_no_host_waits_for_the_limit_of_another() {
        let memory = MemoryBudget::default();
        let mut large = as_many_as_fit(&memory, "a", BIG);
        let mut first = Box::pin(memory.take("a", BIG));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(memory.take("b", BIG).now_or_never().is_some());
        let mut second = Box::pin(memory.take("a", BIG));
        assert!(second.as_mut().now_or_never().is_none());
        drop(large.pop());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop(second.await);
        drop(large);
        assert_eq!(as_many_as_fit(&memory, "a", BIG).len(), 6);
        assert_eq!(lock(&memory.state).shares, Shares::default());
    }

    /// Three hosts hold all that large blobs may have, and the fourth comes.
    #[tokio::test(start_paused = true)]
    async fn slow_hosts_yield_to_waiting_ones_but_keep_one() {
        let memory = MemoryBudget::default();
        let mut a = as_many_as_fit(&memory, "a", BIG);
        let _b = as_many_as_fit(&memory, "b", BIG);
        let _c = as_many_as_fit(&memory, "c", BIG);
        // Only a host that may have no more waits.
        let mut more = Box::pin(memory.take("a", BIG));
        assert!(more.as_mut().now_or_never().is_none());
        tokio::time::advance(YIELD_AFTER).await;
        assert!(!memory.must_yield("b"));
        drop(more);

        let mut waiting = Box::pin(memory.take("d", BIG));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(!memory.must_yield("a"), "it waits since this moment only");
        tokio::time::advance(YIELD_AFTER).await;
        assert!(!memory.must_yield("c"), "it has one only");
        assert!(memory.must_yield("a"));
        a.truncate(1);
        let _d = waiting.await;
        // From now on it has one at a time, which does not yield.
        assert!(memory.take("a", BIG).now_or_never().is_none());
        assert!(!memory.must_yield("a"));
        drop(a);
        assert_eq!(as_many_as_fit(&memory, "a", BIG).len(), 1);
        tokio::time::advance(shares::SLOW_FOR).await;
        assert_eq!(as_many_as_fit(&memory, "a", BIG).len(), 4);
    }
}
