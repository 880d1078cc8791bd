//! What has to be at the target before what: pure bookkeeping, no I/O.

use super::node::Node;
use oci_spec::image::Digest;
use std::collections::{HashMap, HashSet};

/// Manifests that wait for the blobs and manifests that they name.
#[derive(Default)]
pub(super) struct Graph {
    waiting: HashMap<Digest, Waiting>,
    /// Who waits for a digest.
    waiters: HashMap<Digest, Vec<Digest>>,
    done: HashSet<Digest>,
}

struct Waiting {
    node: Node,
    /// How many different digests are missing.
    missing: usize,
}

impl Graph {
    /// Adds a manifest. Gives it back if everything that it names is done already.
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

    /// Notes that a digest is at the target. Gives the manifests that waited for nothing else.
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

    /// A manifest that still waits.
    pub(super) fn stuck(&self) -> Option<&Digest> {
        self.waiting.keys().next()
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Blob;
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
}
