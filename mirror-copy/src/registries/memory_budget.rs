//! How much all blobs in flight together may keep in memory, and how the sources share it.
//!
//! A source that trickles must not keep the blobs of all others from being sent. So no host can take everything, and one
//! that was slow while others waited gets no more than one large blob at a time.

mod shares;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

use shares::{OVERHEAD, PER_TRANSFER, Shares, Want};

/// How long a blob has to wait before slow transfers of other hosts make room for it: most end by themselves in that time.
const PATIENCE: Duration = Duration::from_mins(1);

/// A share of the memory for each transfer: little for a small blob, so that many of them fly at once.
#[derive(Default)]
pub(crate) struct MemoryBudget {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    shares: Shares,
    /// Who waits, by number: who came first goes first, unless its host may have no more. None of them is empty.
    lines: BTreeMap<Line, BTreeMap<u64, Waiting>>,
    next_number: u64,
}

/// Blobs of one host that are all large, or all not: what holds for the first of them holds for the others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    host: String,
    large: u32,
}

struct Waiting {
    want: Want,
    since: Instant,
    wake: oneshot::Sender<()>,
}

/// A share that was taken, or is waited for; dropping it gives it back.
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
        // The sender stays until it is this one's turn.
        let _ = turn.await;
        share
    }

    /// Whether a slow transfer from `host` has to make room: a blob of another host has waited for long, which would not
    /// wait if it were alone. If so, `host` counts as slow from now on. A host that has one share only keeps it: so
    /// a link that is slow for everybody still gets everything done, one blob after the other.
    pub(crate) fn must_yield(&self, host: &str) -> bool {
        let mut state = self.state();
        let must = state.shares.has_more_than_one(host) && state.hinders_others(host);
        if must {
            state.shares.was_slow(host, Instant::now());
        }
        must
    }

    fn enter<'a>(&'a self, host: &'a str, want: Want) -> (oneshot::Receiver<()>, Share<'a>) {
        let (wake, turn) = oneshot::channel();
        let mut state = self.state();
        let number = state.next_number;
        state.next_number += 1;
        let waiting = Waiting {
            want,
            since: Instant::now(),
            wake,
        };
        let line = state.lines.entry(Line::of(host, want)).or_default();
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets in who may go now, in the order in which they came.
    fn admit(&mut self) {
        let now = Instant::now();
        while let Some((line, number)) = self.admit_one(now) {
            if let Some(waiting) = self.remove(&line, number) {
                // If it stopped waiting, dropping its share gives it back.
                let _ = waiting.wake.send(());
            }
        }
    }

    /// Takes for the first that may go now; it is still in line.
    fn admit_one(&mut self, now: Instant) -> Option<(Line, u64)> {
        let firsts = self.lines.iter().filter_map(|(line, waiting)| {
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
                // Were small blobs let past, a large one would wait for ever.
                return None;
            }
        }
        None
    }

    fn remove(&mut self, line: &Line, number: u64) -> Option<Waiting> {
        let waiting = self.lines.get_mut(line)?;
        let removed = waiting.remove(&number);
        if waiting.is_empty() {
            self.lines.remove(line);
        }
        removed
    }

    /// Whether somebody of another host waits for long, and would not if only that host had something.
    fn hinders_others(&self, host: &str) -> bool {
        self.lines.iter().any(|(line, waiting)| {
            let first = waiting.first_key_value();
            line.host != host
                && first.is_some_and(|(_, first)| {
                    first.since.elapsed() >= PATIENCE
                        && self.shares.would_fit_alone(&line.host, first.want)
                })
        })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut state = self.memory.state();
        let line = Line::of(self.host, self.want);
        if state.remove(&line, self.number).is_none() {
            state.shares.give_back(self.host, self.want);
        }
        state.admit();
    }
}

impl Line {
    fn of(host: &str, want: Want) -> Self {
        Self {
            host: host.to_owned(),
            large: want.large,
        }
    }
}

impl Want {
    /// What a blob of `size` bytes wants. It is read and written at the same time.
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
    async fn who_came_first_goes_first_but_nobody_waits_for_anothers_limit() {
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
        assert_eq!(memory.state().shares, Shares::default());
    }

    /// Three hosts hold all that large blobs may have, and the fourth comes.
    #[tokio::test(start_paused = true)]
    async fn slow_hosts_make_room_for_who_waits_but_keep_one() {
        let memory = MemoryBudget::default();
        let mut a = as_many_as_fit(&memory, "a", BIG);
        let _b = as_many_as_fit(&memory, "b", BIG);
        let _c = as_many_as_fit(&memory, "c", BIG);
        // Nobody waits but who may have no more anyway.
        let mut more = Box::pin(memory.take("a", BIG));
        assert!(more.as_mut().now_or_never().is_none());
        tokio::time::advance(PATIENCE).await;
        assert!(!memory.must_yield("b"));
        drop(more);

        let mut waiting = Box::pin(memory.take("d", BIG));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(!memory.must_yield("a"), "it waits since this moment only");
        tokio::time::advance(PATIENCE).await;
        assert!(!memory.must_yield("c"), "it has one only");
        assert!(memory.must_yield("a"));
        a.truncate(1);
        let _d = waiting.await;
        // From now on it has one at a time, and that one is left in peace.
        assert!(memory.take("a", BIG).now_or_never().is_none());
        assert!(!memory.must_yield("a"));
        drop(a);
        assert_eq!(as_many_as_fit(&memory, "a", BIG).len(), 1);
        tokio::time::advance(shares::SLOW_FOR).await;
        assert_eq!(as_many_as_fit(&memory, "a", BIG).len(), 4);
    }
}
