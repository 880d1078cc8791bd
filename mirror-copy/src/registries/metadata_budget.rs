//! Memory for manifests, lists and other responses, in the whole process.
//!
//! Every copy and request may hold a little without waiting. One that needs more waits for one of a few medium places, and
//! one that needs still more also for the only large place. Places are taken in this order only, and the holder of the large
//! one waits for no other, so there is no deadlock. Copies hold their places until they end; single requests have places of
//! their own and hold them only while a body is read, which has a time limit. A copy may wait for a request while it holds a
//! place, never the other way round.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Memory of one copy. Manifests with 300 layers fit into the first size, with 1,000 into the second.
const COPY: Sizes = Sizes {
    free: 512 * KIB,
    medium: 2 * MIB,
    large: 32 * MIB,
};

/// Number of medium places for copies: as many as run concurrently by default.
const MEDIUM_COPIES: usize = 4;

/// Memory of one request. Errors, tokens and nearly all manifests fit into the first size, pages of a list into the second.
const REQUEST: Sizes = Sizes {
    free: 64 * KIB,
    medium: MIB,
    large: 8 * MIB,
};

/// Number of medium places for requests; of one host only one request at a time has one.
const MEDIUM_REQUESTS: usize = 6;

/// Maximum memory of a holder in bytes: without waiting, with a medium place, and with the large place.
#[derive(Clone, Copy)]
struct Sizes {
    free: u64,
    medium: u64,
    large: u64,
}

/// Memory for manifests, lists and other responses, shared by all copies and requests that use it. Cheap to clone; clones
/// share the memory.
///
/// The default is one budget for the process, shared by all sets of registries.
#[derive(Clone)]
pub struct MetadataBudget {
    copies: Places,
    requests: Places,
}

#[derive(Clone)]
struct Places {
    sizes: Sizes,
    medium: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl MetadataBudget {
    /// Creates a separate budget: 40 MiB for copies and 14 MiB for requests, besides 512 KiB for each copy and 64 KiB for
    /// each request.
    #[must_use]
    pub fn new() -> Self {
        Self {
            copies: Places::new(COPY, MEDIUM_COPIES),
            requests: Places::new(REQUEST, MEDIUM_REQUESTS),
        }
    }

    /// Returns a reservation for one copy.
    pub(crate) fn for_copy(&self) -> Arc<Reservation> {
        Reservation::new(&self.copies, None)
    }

    /// Returns a reservation for one request. Of those that share `turn`, one at a time has a place.
    pub(crate) fn for_request(&self, turn: &Arc<Semaphore>) -> Arc<Reservation> {
        Reservation::new(&self.requests, Some(Arc::clone(turn)))
    }
}

impl Default for MetadataBudget {
    fn default() -> Self {
        static OF_PROCESS: LazyLock<MetadataBudget> = LazyLock::new(MetadataBudget::new);
        OF_PROCESS.clone()
    }
}

impl fmt::Debug for MetadataBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataBudget").finish_non_exhaustive()
    }
}

impl Places {
    fn new(sizes: Sizes, medium: usize) -> Self {
        Self {
            sizes,
            medium: Arc::new(Semaphore::new(medium)),
            large: Arc::new(Semaphore::new(1)),
        }
    }
}

/// The memory of one copy or one request. It keeps its places until it is dropped: a body whose connection broke while its
/// reader waited for a place is read again without waiting.
pub(crate) struct Reservation {
    places: Places,
    /// Acquired before any place.
    turn: Option<Arc<Semaphore>>,
    used: AtomicU64,
    held: Mutex<Held>,
    state: watch::Sender<MemoryState>,
}

/// A place for more memory than every copy may hold without waiting ([`MetadataBudget`]). A holder of the large place also
/// has a medium one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryPlace {
    /// One of four places: 2 MiB for a copy.
    Medium,
    /// The only one of its size: 32 MiB for a copy.
    Large,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryState {
    /// The largest place.
    pub(crate) holds: Option<MemoryPlace>,
    pub(crate) waits_for: Option<MemoryPlace>,
}

#[derive(Default)]
struct Held {
    turn: Option<OwnedSemaphorePermit>,
    medium: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
}

/// Part of a reservation; dropping it releases it.
pub(crate) struct Lease {
    of: Arc<Reservation>,
    bytes: u64,
}

/// A copy or request exceeds the limit, which is this many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BeyondLimit(pub(crate) u64);

impl Reservation {
    fn new(places: &Places, turn: Option<Arc<Semaphore>>) -> Arc<Self> {
        Arc::new(Self {
            places: places.clone(),
            turn,
            used: AtomicU64::new(0),
            held: Mutex::default(),
            state: watch::Sender::default(),
        })
    }

    /// Returns the state and its changes.
    pub(crate) fn state(&self) -> watch::Receiver<MemoryState> {
        self.state.subscribe()
    }

    /// Returns an empty lease, to grow.
    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        Lease {
            of: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Waits until this much memory in total may be held.
    async fn ensure(&self, used: u64) {
        if used <= self.places.sizes.free {
            return;
        }
        let mut held = self.held.lock().await;
        if held.medium.is_none() {
            if let Some(turn) = &self.turn {
                held.turn = Arc::clone(turn).acquire_owned().await.ok();
            }
            held.medium = self.place(MemoryPlace::Medium, &self.places.medium).await;
        }
        if used > self.places.sizes.medium && held.large.is_none() {
            held.large = self.place(MemoryPlace::Large, &self.places.large).await;
        }
    }

    async fn place(
        &self,
        place: MemoryPlace,
        places: &Arc<Semaphore>,
    ) -> Option<OwnedSemaphorePermit> {
        let permit = if let Ok(permit) = Arc::clone(places).try_acquire_owned() {
            Some(permit)
        } else {
            let _waiting = Waiting::new(&self.state, place);
            Arc::clone(places).acquire_owned().await.ok()
        };
        self.state.send_modify(|state| state.holds = Some(place));
        permit
    }
}

/// Marks the reservation as waiting until it is dropped, also when the wait is cancelled.
struct Waiting<'a>(&'a watch::Sender<MemoryState>);

impl<'a> Waiting<'a> {
    fn new(state: &'a watch::Sender<MemoryState>, place: MemoryPlace) -> Self {
        state.send_modify(|state| state.waits_for = Some(place));
        Self(state)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.waits_for = None);
    }
}

impl Lease {
    /// Waits until `bytes` more may be held.
    pub(crate) async fn grow(&mut self, bytes: u64) -> Result<(), BeyondLimit> {
        let limit = self.of.places.sizes.large;
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let before = self
            .of
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        let before = before.map_err(|_| BeyondLimit(limit))?;
        // From here on dropping the lease releases it, even while this waits.
        self.bytes += bytes;
        self.of.ensure(before + bytes).await;
        Ok(())
    }

    /// Releases the memory beyond `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.of.used.fetch_sub(less, Ordering::AcqRel);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Bytes with the lease of their memory.
pub(crate) struct Leased(
    pub(crate) Vec<u8>,
    #[expect(dead_code, reason = "held, never read")] pub(crate) Lease,
);

impl AsRef<[u8]> for Leased {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    /// Returns a lease of this size if it is available without waiting.
    fn holds(reservation: &Arc<Reservation>, bytes: u64) -> Option<Lease> {
        let mut lease = reservation.lease();
        lease.grow(bytes).now_or_never()?.ok()?;
        Some(lease)
    }

    #[test]
    fn the_free_size_needs_no_wait_and_more_is_bounded() {
        let budget = MetadataBudget::new();
        let copies: Vec<_> = (0..100).map(|_| budget.for_copy()).collect();
        let mut leases: Vec<_> = copies
            .iter()
            .filter_map(|copy| holds(copy, COPY.free))
            .collect();
        assert_eq!(leases.len(), 100);
        leases.extend(copies.iter().filter_map(|copy| holds(copy, MIB)));
        assert_eq!(leases.len(), 100 + MEDIUM_COPIES);
        leases.extend(copies.iter().filter_map(|copy| holds(copy, 8 * MIB)));
        assert_eq!(leases.len(), 101 + MEDIUM_COPIES, "one large place");
        let turn = Arc::new(Semaphore::new(1));
        assert!(
            holds(&budget.for_request(&turn), REQUEST.large).is_some(),
            "requests wait for no copy"
        );
        drop(leases);
        let used = copies.iter().map(|copy| copy.used.load(Ordering::Relaxed));
        assert_eq!(used.sum::<u64>(), 0);
        drop(copies);
        assert!(holds(&budget.for_copy(), COPY.large).is_some());
    }

    #[test]
    fn exceeding_the_limit_fails_without_a_wait() {
        let copy = MetadataBudget::new().for_copy();
        let mut lease = copy.lease();
        for bytes in [COPY.large + 1, u64::MAX] {
            let grown = lease.grow(bytes).now_or_never();
            assert_eq!(grown, Some(Err(BeyondLimit(COPY.large))));
        }
        assert!(lease.grow(COPY.large).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_cancelled_wait_or_a_finished_copy_releases_memory() {
        let budget = MetadataBudget::new();
        let [first, second, third] = [(); 3].map(|()| budget.for_copy());
        let large = holds(&first, COPY.large).unwrap();
        let mut lease = second.lease();
        assert!(lease.grow(COPY.large).now_or_never().is_none());
        drop(lease);
        assert_eq!(second.used.load(Ordering::Relaxed), 0);
        let mut waiting = third.lease();
        let mut growing = Box::pin(waiting.grow(COPY.large));
        assert!(growing.as_mut().now_or_never().is_none());
        drop(large);
        assert!(
            growing.as_mut().now_or_never().is_none(),
            "it has not ended"
        );
        drop(first);
        growing.await.unwrap();
    }

    #[test]
    fn one_request_of_a_host_at_a_time_holds_a_place() {
        let budget = MetadataBudget::new();
        let hosts = [(); 9].map(|()| Arc::new(Semaphore::new(1)));
        let each = |hosts: &[Arc<Semaphore>]| {
            let requests = hosts.iter().map(|host| budget.for_request(host));
            requests
                .filter_map(|request| holds(&request, MIB))
                .collect::<Vec<_>>()
        };
        let [a, b, ..] = &hosts;
        let twice = [a.clone(), a.clone(), b.clone()];
        assert_eq!(each(&twice).len(), 2);
        let all = each(&hosts);
        assert_eq!(all.len(), MEDIUM_REQUESTS);
        drop(all);
        assert_eq!(each(&hosts).len(), MEDIUM_REQUESTS, "all were given back");
    }

    /// Many copies and requests that all grow, in any order, up to the large size: all of them finish.
    #[tokio::test(start_paused = true)]
    async fn there_is_no_deadlock() {
        let budget = MetadataBudget::new();
        let host = Arc::new(Semaphore::new(1));
        let growers = (0..12).map(|number| {
            let (budget, host) = (budget.clone(), Arc::clone(&host));
            async move {
                let copy = budget.for_copy();
                let mut kept = copy.lease();
                for _ in 0..8 {
                    kept.grow(3 * MIB).await.unwrap();
                    let request = budget.for_request(&host);
                    let mut body = request.lease();
                    for _ in 0..=number {
                        body.grow(512 * KIB).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        let all = futures_util::future::join_all(growers);
        tokio::time::timeout(std::time::Duration::from_mins(1), all)
            .await
            .unwrap();
    }
}
