//! The right to move one blob between two registries: memory for it, and a place at either end.

use super::Registry;
use super::aimd::Place;
use crate::registries::Share;

/// The right to move one blob; dropping it gives everything back.
pub(crate) struct TransferPermit<'a> {
    _memory: Share<'a>,
    _reading: Place<'a>,
    _writing: Place<'a>,
}

impl Registry {
    /// Waits until something may be asked of `target` about a blob of `source`.
    pub(crate) async fn place_to_ask<'a>(source: &'a Self, target: &'a Self) -> impl Sized + 'a {
        target.shared.places.writing.take(source.host()).await
    }

    /// Whether a slow transfer from `source` has to make room for blobs of other hosts that wait. Not for every piece:
    /// it takes a lock.
    pub(crate) fn must_yield(source: &Self, target: &Self) -> bool {
        target.shared.common.memory.must_yield(source.host())
    }

    /// Waits until a blob of `size` bytes may travel between two registries. Nobody holds a place of one
    /// host while waiting for one of the other: a host that is slow or shut blocks nobody else.
    pub(crate) async fn place_between<'a>(
        source: &'a Self,
        target: &'a Self,
        size: u64,
    ) -> TransferPermit<'a> {
        let host = source.host();
        let share = target.shared.common.memory.take(host, size).await;
        let (source, target) = (&source.shared.places.reading, &target.shared.places.writing);
        let (reading, writing) = loop {
            let reading = source.take(host).await;
            if let Some(writing) = target.try_take(host) {
                break (reading, writing);
            }
            drop(reading);
            let writing = target.take(host).await;
            if let Some(reading) = source.try_take(host) {
                break (reading, writing);
            }
        };
        TransferPermit {
            _memory: share,
            _reading: reading,
            _writing: writing,
        }
    }
}
