//! In which order blobs are sent: pure bookkeeping, no I/O.

use super::node::Blob;
use oci_spec::image::Digest;
use std::collections::{BTreeMap, HashMap};

/// From this size on a blob counts as large, in bytes: sending it takes longer than asking for it, and it
/// needs a full share of the memory.
pub(super) const LARGE: u64 = 512 * 1024;

/// Blobs that wait to be sent, each once. The largest come first, since what takes longest must not
/// start last; small ones fill the places that large ones may not have.
#[derive(Default)]
pub(super) struct Queue {
    /// By size; what came first comes first among equals.
    waiting: BTreeMap<(u64, std::cmp::Reverse<u64>), Blob>,
    /// Everything that ever was in the queue, with its size.
    known: HashMap<Digest, u64>,
    bytes: u64,
    next: u64,
}

/// A digest came with two sizes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TwoSizes;

impl Queue {
    /// Adds a blob unless it was added before; says whether it was added.
    pub(super) fn add(&mut self, blob: &Blob) -> Result<bool, TwoSizes> {
        match self.known.get(&blob.digest) {
            Some(size) if *size == blob.size => return Ok(false),
            Some(_) => return Err(TwoSizes),
            None => {}
        }
        self.known.insert(blob.digest.clone(), blob.size);
        // Sizes are what a manifest says, so the sum can be anything.
        self.bytes = self.bytes.saturating_add(blob.size);
        self.next += 1;
        let place = (blob.size, std::cmp::Reverse(self.next));
        self.waiting.insert(place, blob.clone());
        Ok(true)
    }

    /// The next blob: the largest, or the largest that is not [`LARGE`].
    pub(super) fn next(&mut self, large_too: bool) -> Option<Blob> {
        if large_too {
            return self.waiting.pop_last().map(|(_, blob)| blob);
        }
        let first_large = (LARGE, std::cmp::Reverse(u64::MAX));
        let (place, _) = self.waiting.range(..first_large).next_back()?;
        let place = *place;
        self.waiting.remove(&place)
    }

    /// Different blobs so far.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Origin;
    use super::*;

    fn blob(number: u64, size: u64) -> Blob {
        Blob {
            digest: format!("sha256:{number:064x}").parse().unwrap(),
            size,
            origin: Origin::Registry,
        }
    }

    fn sizes(queue: &mut Queue, large_too: bool) -> Vec<u64> {
        std::iter::from_fn(|| queue.next(large_too).map(|blob| blob.size)).collect()
    }

    #[test]
    fn the_largest_comes_first_and_small_ones_fill() {
        let mut queue = Queue::default();
        for (number, size) in [(1, 10), (2, LARGE), (3, 3 * LARGE), (4, LARGE - 1), (5, 0)] {
            queue.add(&blob(number, size)).unwrap();
            queue.add(&blob(number, size)).unwrap();
        }
        assert_eq!(queue.next(true).map(|blob| blob.size), Some(3 * LARGE));
        assert_eq!(sizes(&mut queue, false), [LARGE - 1, 10, 0]);
        assert_eq!(sizes(&mut queue, true), [LARGE]);
        assert_eq!((queue.count(), queue.bytes()), (5, 5 * LARGE + 9));
    }

    #[test]
    fn a_blob_has_one_size() {
        let mut queue = Queue::default();
        queue.add(&blob(1, 10)).unwrap();
        assert_eq!(queue.add(&blob(1, 11)), Err(TwoSizes));
    }
}
