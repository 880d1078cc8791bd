//! The order of the work of one copy, without I/O: which manifest waits for which digests, and which blob is sent next.

use super::node::{Blob, Node};
use oci_spec::image::Digest;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Manifests that wait for the blobs and manifests that they name.
#[derive(Default)]
pub(super) struct Graph {
    waiting: HashMap<Digest, Waiting>,
    /// Manifests that wait for a digest.
    waiters: HashMap<Digest, Vec<Digest>>,
    done: HashSet<Digest>,
}

struct Waiting {
    node: Node,
    /// Number of different digests that are missing.
    missing: usize,
}

impl Graph {
    /// Adds a manifest. Returns it if everything that it names is done already.
    pub(super) fn add(&mut self, node: Node) -> Option<Node> {
        let missing: HashSet<Digest> = node
            .names()
            .filter(|digest| !self.done.contains(*digest))
            .cloned()
            .collect();
        if missing.is_empty() {
            return Some(node);
        }
        let own = &node.manifest.digest;
        for digest in &missing {
            let waiters = self.waiters.entry(digest.clone()).or_default();
            waiters.push(own.clone());
        }
        let missing = missing.len();
        self.waiting.insert(own.clone(), Waiting { node, missing });
        None
    }

    /// Records that a digest is at the target. Returns the manifests that waited for nothing else.
    pub(super) fn done(&mut self, digest: &Digest) -> Vec<Node> {
        self.done.insert(digest.clone());
        let mut ready = Vec::new();
        for waiter in self.waiters.remove(digest).unwrap_or_default() {
            let Some(waiting) = self.waiting.get_mut(&waiter) else {
                continue;
            };
            waiting.missing -= 1;
            if waiting.missing == 0 {
                ready.extend(self.waiting.remove(&waiter).map(|waiting| waiting.node));
            }
        }
        ready
    }

    /// Returns a manifest that still waits.
    pub(super) fn stuck(&self) -> Option<&Digest> {
        self.waiting.keys().next()
    }
}

/// Minimum size of a large blob, in bytes: sending it takes longer than probing for it, and it needs a full share of the
/// memory.
pub(super) const LARGE: u64 = 512 * 1024;

/// Blobs that wait to be sent, each once. The largest come first, since they take longest; small ones use the permits that
/// large ones may not have.
#[derive(Default)]
pub(super) struct Queue {
    /// By size; of equal ones the first that was added comes first.
    waiting: BTreeMap<(u64, std::cmp::Reverse<u64>), Blob>,
    /// Everything that ever was in the queue, with its size in bytes.
    known: HashMap<Digest, u64>,
    bytes: u64,
    next: u64,
}

/// A digest was added with two sizes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TwoSizes;

impl Queue {
    /// Adds a blob unless it was added before. Returns whether it was added.
    pub(super) fn add(&mut self, blob: &Blob) -> Result<bool, TwoSizes> {
        match self.known.get(&blob.digest) {
            Some(size) if *size == blob.size => return Ok(false),
            Some(_) => return Err(TwoSizes),
            None => {}
        }
        self.known.insert(blob.digest.clone(), blob.size);
        // Sizes are what a manifest claims, so the sum can be anything.
        self.bytes = self.bytes.saturating_add(blob.size);
        self.next += 1;
        let key = (blob.size, std::cmp::Reverse(self.next));
        self.waiting.insert(key, blob.clone());
        Ok(true)
    }

    /// Removes the next blob: the largest, or the largest below [`LARGE`].
    pub(super) fn next(&mut self, large_too: bool) -> Option<Blob> {
        if large_too {
            return self.waiting.pop_last().map(|(_, blob)| blob);
        }
        let first_large = (LARGE, std::cmp::Reverse(u64::MAX));
        let (key, _) = self.waiting.range(..first_large).next_back()?;
        let key = *key;
        self.waiting.remove(&key)
    }

    /// Number of different blobs that were ever added.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// Total size of these blobs in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Blob;
    use super::super::node::Origin;
    use super::*;
    use crate::registry::Manifest;
    use bytes::Bytes;

    fn digest(number: usize) -> Digest {
        format!("sha256:{number:064x}").parse().unwrap()
    }

    fn node(own: usize, children: &[usize], blobs: &[usize]) -> Node {
        let blob = |number: &usize| Blob {
            digest: digest(*number),
            size: 1,
            origin: super::super::node::Origin::Registry,
        };
        Node {
            manifest: Manifest {
                bytes: Bytes::new(),
                media_type: String::new(),
                digest: digest(own),
            },
            media_type: String::new(),
            subject: None,
            children: children.iter().map(|number| digest(*number)).collect(),
            blobs: blobs.iter().map(blob).collect(),
            foreign_layers: Vec::new(),
        }
    }

    fn ready(graph: &mut Graph, number: usize) -> Vec<Digest> {
        let ready = graph.done(&digest(number)).into_iter();
        ready.map(|node| node.manifest.digest).collect()
    }

    #[test]
    fn a_manifest_is_ready_when_the_last_of_its_digests_is() {
        let mut graph = Graph::default();
        assert!(graph.add(node(100, &[], &[1, 2, 2])).is_none());
        assert!(graph.add(node(101, &[], &[2])).is_none());
        assert!(graph.add(node(200, &[100, 101], &[])).is_none());
        assert_eq!(ready(&mut graph, 2), [digest(101)]);
        assert_eq!(ready(&mut graph, 2), [], "once only");
        assert_eq!(ready(&mut graph, 1), [digest(100)]);
        assert_eq!(ready(&mut graph, 101), []);
        assert_eq!(graph.stuck(), Some(&digest(200)));
        assert_eq!(ready(&mut graph, 100), [digest(200)]);
        assert!(graph.stuck().is_none());
    }

    #[test]
    fn what_is_done_is_not_waited_for() {
        let mut graph = Graph::default();
        graph.done(&digest(1));
        assert!(graph.add(node(100, &[], &[1])).is_some());
        assert!(graph.add(node(101, &[], &[])).is_some());
    }

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
