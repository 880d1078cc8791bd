//! Checks of parsing a manifest and of the order of its parts. See [`crate::fuzzing`].

// A fuzz target and a test report a fault by panicking.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

use super::error::CopyError;
use super::graph::{Graph, Queue};
use super::node::{Node, Origin, Read};
use super::options::CopyOptions;
use crate::fuzzing::check_digest;
use crate::hash::Hasher;
use crate::manifest::{self, Contents, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::registry::Manifest;
use bytes::Bytes;
use std::collections::HashSet;

/// Maximum number of descriptors of one manifest (`manifest::MAX_DESCRIPTORS`).
const MOST: usize = 10_000;

/// The data is a first line with the `Content-Type`, then the manifest.
///
/// # Panics
/// If an invariant is violated.
pub fn manifest(data: &[u8]) {
    let mut halves = data.splitn(2, |byte| *byte == b'\n');
    let content_type = halves.next().unwrap_or_default();
    let bytes = halves.next().unwrap_or_default();
    let content_type = manifest::bare_type(&String::from_utf8_lossy(content_type));
    match manifest::read(bytes, &content_type) {
        Ok(contents) => {
            check_type(&contents, &content_type, bytes);
            check_descriptors(&contents);
            walk(bytes, content_type);
        }
        Err(error) => assert!(error.to_string().len() < 4096, "{error}"),
    }
}

fn check_type(contents: &Contents, content_type: &str, bytes: &[u8]) {
    // Fields that are not parsed need not be text, nor a number that fits.
    let text = String::from_utf8_lossy(bytes);
    let Ok(said) = serde_json::from_str::<serde_json::Value>(&text) else {
        return;
    };
    assert!(said.is_object());
    if let Some(said) = said["mediaType"].as_str().filter(|said| !said.is_empty()) {
        assert_eq!(contents.media_type, said, "what the body says holds");
    }
    let is_known = |media_type: &str| {
        [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type)
    };
    if is_known(content_type) {
        assert_eq!(contents.media_type, content_type, "the header holds");
    }
    assert!(!contents.media_type.is_empty());
    let has = |field: &str| !said[field].is_null();
    let is_index = has("manifests");
    let is_image = has("config") || has("layers") || has("blobs");
    assert!(!(is_index && is_image), "an index and an image in one");
    match contents.media_type.as_str() {
        OCI_INDEX | DOCKER_LIST => assert!(!is_image, "an index with blobs"),
        OCI_MANIFEST | DOCKER_MANIFEST => assert!(!is_index, "an image with manifests"),
        _ => {}
    }
    assert!(!has("fsLayers"), "schema 1");
}

fn check_descriptors(contents: &Contents) {
    let Contents {
        subject,
        children,
        blobs,
        ..
    } = contents;
    assert!(children.len() + blobs.len() <= MOST);
    subject.iter().for_each(check_digest);
    for descriptor in children.iter().chain(blobs) {
        check_digest(&descriptor.digest);
        if let Some(content) = descriptor.inline() {
            assert_eq!(content.len() as u64, descriptor.size, "{descriptor:?}");
        }
    }
}

/// All parts become present, one by one: then the manifest must be ready, and not before.
fn walk(bytes: &[u8], media_type: String) {
    let manifest = Manifest {
        bytes: Bytes::copy_from_slice(bytes),
        media_type,
        digest: Hasher::sha256().of(bytes).parse().expect("our own digest"),
    };
    let Read {
        node,
        children,
        foreign,
    } = match Node::read(manifest, &CopyOptions::default(), String::new) {
        Ok(read) => read,
        // Inline content with another digest.
        Err(CopyError::BlobDigest { .. }) => return,
        Err(error) => unreachable!("it was read before: {error}"),
    };
    assert_eq!(node.children.len(), children.len());
    assert!(node.blobs.len() as u64 + foreign <= MOST as u64);
    let mut queue = Queue::default();
    for blob in &node.blobs {
        assert!(!matches!(blob.origin, Origin::Urls(_)), "not asked for");
        if queue.add(blob).is_err() {
            return;
        }
    }
    let mut last = u64::MAX;
    let queued = std::iter::from_fn(|| queue.next(true));
    let different = queued.inspect(|blob| {
        assert!(blob.size <= last, "the largest comes first");
        last = blob.size;
    });
    let blobs: HashSet<_> = node.blobs.iter().map(|blob| &blob.digest).collect();
    assert_eq!(different.count(), blobs.len(), "each blob once");

    let mut names: HashSet<_> = node.names().cloned().collect();
    // A manifest cannot contain its own digest, except by chance in the fuzzer.
    names.remove(&node.manifest.digest);
    let mut graph = Graph::default();
    let mut ready = usize::from(graph.add(node).is_some());
    let count = names.len();
    for (number, digest) in names.iter().enumerate() {
        assert_eq!(ready, 0, "ready with {number} of {count}");
        ready += graph.done(digest).len();
        assert_eq!(graph.done(digest).len(), 0, "ready twice");
    }
    assert_eq!(ready, 1);
    assert!(graph.stuck().is_none());
}
