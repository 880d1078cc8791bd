//! The queue of TLS handshakes.
//!
//! A key exchange with a signature takes as long as about a hundred responses. Without a queue, hundreds of handshakes would
//! occupy the threads of the runtime, and queries would wait behind them.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::peer::Peer;

/// Peers, and handshakes of a peer, from which on cancelled ones are removed. There are never more connections.
const COMPACT_AT: usize = 1024;

/// Limits concurrent handshakes. Peers take turns, and the newest handshake of a peer is first: the oldest may be too late
/// anyway, and an honest client that shares its address with hostile ones does not wait behind all of theirs.
pub(super) struct HandshakeQueue {
    parallel: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    /// The first peer is next.
    waiting: VecDeque<(Peer, Vec<oneshot::Sender<HandshakePermit>>)>,
}

/// The permit for a handshake. It is passed on on drop.
pub(super) struct HandshakePermit(Arc<HandshakeQueue>);

impl HandshakeQueue {
    /// Half of the cores are left to everything else.
    pub(super) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::with_parallel((processors / 2).max(1))
    }

    fn with_parallel(parallel: usize) -> Self {
        Self {
            parallel,
            state: Mutex::default(),
        }
    }

    pub(super) async fn acquire(self: &Arc<Self>, peer: Peer) -> HandshakePermit {
        let turn = {
            let mut state = self.lock();
            if state.running < self.parallel {
                state.running += 1;
                return HandshakePermit(Arc::clone(self));
            }
            state.push(peer)
        };
        match turn.await {
            Ok(permit) => permit,
            // Senders are dropped only with the queue.
            Err(_) => std::future::pending().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, peer: Peer) -> oneshot::Receiver<HandshakePermit> {
        let (sender, turn) = oneshot::channel();
        if let Some((_, of_peer)) = self.waiting.iter_mut().find(|(other, _)| *other == peer) {
            if of_peer.len() >= COMPACT_AT {
                of_peer.retain(|sender| !sender.is_closed());
            }
            of_peer.push(sender);
        } else {
            if self.waiting.len() >= COMPACT_AT {
                let is_waiting = |sender: &oneshot::Sender<_>| !sender.is_closed();
                self.waiting
                    .retain(|(_, of_peer)| of_peer.iter().any(is_waiting));
            }
            self.waiting.push_back((peer, vec![sender]));
        }
        turn
    }

    fn pop(&mut self) -> Option<oneshot::Sender<HandshakePermit>> {
        loop {
            let (peer, mut of_peer) = self.waiting.pop_front()?;
            while let Some(sender) = of_peer.pop() {
                if !sender.is_closed() {
                    if !of_peer.is_empty() {
                        self.waiting.push_back((peer, of_peer));
                    }
                    return Some(sender);
                }
            }
        }
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.lock();
            let next = state.pop();
            if next.is_none() {
                state.running = state.running.saturating_sub(1);
            }
            next
        };
        if let Some(next) = next {
            // If the handshake was just cancelled, the permit comes back and is dropped here, which passes it on.
            drop(next.send(HandshakePermit(Arc::clone(&self.0))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::net::{IpAddr, Ipv4Addr};
    use std::pin::Pin;

    type Turn = Pin<Box<dyn Future<Output = HandshakePermit> + Send>>;

    fn acquire(queue: &Arc<HandshakeQueue>, peer: u8) -> Turn {
        let queue = Arc::clone(queue);
        let peer = IpAddr::from(Ipv4Addr::new(10, 0, 0, peer)).into();
        let mut turn: Turn = Box::pin(async move { queue.acquire(peer).await });
        assert!((&mut turn).now_or_never().is_none());
        turn
    }

    #[test]
    fn peers_take_turns_and_the_newest_of_each_comes_first() {
        let queue = Arc::new(HandshakeQueue::with_parallel(1));
        let peer = IpAddr::from(Ipv4Addr::LOCALHOST).into();
        let mut permit = queue.acquire(peer).now_or_never();
        assert!(permit.is_some());
        let mut turns: Vec<_> = [1, 1, 1, 2, 2].map(|peer| acquire(&queue, peer)).into();
        // The newest of the first peer is given up.
        turns[2] = acquire(&queue, 3);
        let mut order = Vec::new();
        while permit.take().is_some() {
            for (index, turn) in turns.iter_mut().enumerate() {
                if !order.contains(&index)
                    && let Some(next) = turn.now_or_never()
                {
                    order.push(index);
                    assert!(permit.replace(next).is_none());
                }
            }
        }
        assert_eq!(order, [1, 4, 2, 0, 3]);
        assert_eq!(queue.lock().running, 0);
        assert!(queue.lock().waiting.is_empty());
    }

    #[test]
    fn what_was_given_up_is_forgotten() {
        let queue = Arc::new(HandshakeQueue::with_parallel(1));
        let _running = queue
            .acquire(IpAddr::from(Ipv4Addr::LOCALHOST).into())
            .now_or_never();
        for _ in 0..10 * COMPACT_AT {
            drop(acquire(&queue, 1));
        }
        let kept: usize = queue
            .lock()
            .waiting
            .iter()
            .map(|(_, of_peer)| of_peer.len())
            .sum();
        assert!(kept <= COMPACT_AT, "{kept}");
    }

    /// A permit that was sent to one who does not take it goes on to the next.
    #[test]
    fn a_permit_that_nobody_takes_is_not_lost() {
        let queue = Arc::new(HandshakeQueue::with_parallel(1));
        let running = queue
            .acquire(IpAddr::from(Ipv4Addr::LOCALHOST).into())
            .now_or_never();
        let (first, second) = (acquire(&queue, 1), acquire(&queue, 2));
        drop(running);
        drop(first);
        assert!(second.now_or_never().is_some());
        assert_eq!(queue.lock().running, 0);
    }
}
