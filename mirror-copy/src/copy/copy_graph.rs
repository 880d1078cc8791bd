//! Brings everything below one manifest to the target: reads manifests, sends blobs and pushes manifests,
//! all at the same time, each as soon as it can be.

use super::blobs::BLOBS_AT_ONCE;
use super::child_manifests::{Child, Found};
use super::error::CopyError;
use super::graph::Graph;
use super::job::Job;
use super::limits::Part;
use super::node::{Blob, Node, Origin, Read};
use super::progress::Event;
use super::queue::{LARGE, Queue};
use super::report::one_more;
use crate::manifest::Descriptor;
use crate::reference::TagOrDigest;
use crate::registries::Lease;
use crate::registry::Manifest;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::collections::{HashSet, VecDeque};

/// Manifests of one copy that are read at once.
const MANIFESTS_AT_ONCE: usize = 32;

/// Deepest nesting of indexes. Two levels are in use; a limit keeps a hostile image bounded.
const MAX_DEPTH: usize = 8;

/// Most manifests of one copy. Large indexes have some dozen.
const MAX_MANIFESTS: usize = 20_000;

/// Most blobs of one copy. Large images have some hundred, and each costs some hundred bytes of memory.
const MAX_BLOBS: usize = 20_000;

/// Large blobs of one copy that are in flight at once. More would not be faster, only unfinished longer,
/// and would leave no memory for small ones.
const LARGE_AT_ONCE: usize = 6;

/// The work below one manifest.
pub(super) struct CopyGraph<'a> {
    job: &'a Job<'a>,
    graph: Graph,
    blobs: Queue,
    part: Part,
    /// Bytes of the blobs that are in the sum of the copy.
    weighed: u64,
    /// Memory for what was read from manifests.
    held: Vec<Lease>,
    children: VecDeque<Child>,
    /// Manifests that were ever queued.
    asked: HashSet<Digest>,
    running: FuturesUnordered<BoxFuture<'a, Result<Done, CopyError>>>,
    reading: usize,
    sending: usize,
    sending_large: usize,
    /// Whether all manifests were read and reported.
    planned: bool,
}

enum Done {
    Found(Box<Child>, Found),
    Sent(Blob),
    Pushed(Digest),
}

impl<'a> CopyGraph<'a> {
    /// The work below the image itself.
    pub(super) fn of_image(job: &'a Job<'a>) -> Self {
        Self::new(job, Part::Image)
    }

    /// The work below something that refers to it.
    pub(super) fn of_referrer(job: &'a Job<'a>) -> Self {
        Self::new(job, Part::Referrers)
    }

    fn new(job: &'a Job<'a>, part: Part) -> Self {
        Self {
            job,
            part,
            weighed: 0,
            held: Vec::new(),
            graph: Graph::default(),
            blobs: Queue::default(),
            children: VecDeque::new(),
            asked: HashSet::new(),
            running: FuturesUnordered::new(),
            reading: 0,
            sending: 0,
            sending_large: 0,
            planned: false,
        }
    }

    /// Returns when everything that `root` names is at the target, and pushes nothing of itself. `lease` is the memory for
    /// what is read from the root.
    pub(super) async fn copy_closure(
        mut self,
        root: Manifest,
        lease: Lease,
    ) -> Result<Node, CopyError> {
        self.held.push(lease);
        if self.part == Part::Referrers {
            self.job.image_weighed().await;
        }
        let brought = self.copy_all(root).await;
        if brought.is_err() {
            self.job.sums.unweigh(self.weighed);
        }
        brought
    }

    async fn copy_all(&mut self, root: Manifest) -> Result<Node, CopyError> {
        self.asked.insert(root.digest.clone());
        let root = self.read(root, 1)?;
        loop {
            self.start_what_can_be();
            let Some(done) = self.running.next().await else {
                break;
            };
            match done? {
                Done::Found(child, found) => self.found(*child, found)?,
                Done::Sent(blob) => self.sent(&blob),
                Done::Pushed(digest) => self.advance(&digest),
            }
        }
        match self.graph.stuck() {
            // Digests make this impossible; a silent half copy must be impossible, too.
            Some(stuck) => Err(self.job.beyond(stuck, "its indexes name each other")),
            None => Ok(root),
        }
    }

    fn start_what_can_be(&mut self) {
        let (job, part) = (self.job, self.part);
        while self.reading < MANIFESTS_AT_ONCE
            && let Some(child) = self.children.pop_front()
        {
            if self.asked.insert(child.descriptor.digest.clone()) {
                self.reading += 1;
                self.running.push(Box::pin(async move {
                    let found = job.find(&child, part).await?;
                    Ok(Done::Found(Box::new(child), found))
                }));
            }
        }
        if self.reading == 0 && !self.planned {
            self.planned = true;
            if part == Part::Image {
                job.sums.image_weighed();
            }
            job.progress.event(Event::Planned {
                blobs: self.blobs.count() as u64,
                bytes: self.blobs.bytes(),
                manifests: self.asked.len() as u64,
            });
        }
        if !self.planned && job.options.max_bytes.is_some() {
            // Only the last manifest tells whether the image is too large.
            return;
        }
        while self.sending < BLOBS_AT_ONCE
            && let Some(blob) = self.blobs.next(self.sending_large < LARGE_AT_ONCE)
        {
            self.sending += 1;
            self.sending_large += usize::from(blob.size >= LARGE);
            self.running.push(Box::pin(async move {
                job.copy_closure(&blob).await?;
                Ok(Done::Sent(blob))
            }));
        }
    }

    fn found(&mut self, child: Child, found: Found) -> Result<(), CopyError> {
        self.reading -= 1;
        let digest = child.descriptor.digest;
        match found {
            Found::Present => {
                if self.part == Part::Image {
                    one_more(&self.job.tally.manifests_trusted);
                }
                let event = Event::ManifestSkipped { digest: &digest };
                self.job.progress.event(event);
                self.advance(&digest);
            }
            Found::LeftOut => self.advance(&digest),
            Found::Blob => {
                let blob = Blob {
                    digest,
                    size: child.descriptor.size,
                    origin: Origin::Registry,
                };
                self.add_blob(&blob, &child.parent)?;
            }
            Found::Manifest(manifest, lease) => {
                self.held.push(lease);
                let node = self.read(manifest, child.depth + 1)?;
                if let Some(ready) = self.graph.add(node) {
                    self.push(ready);
                }
            }
        }
        Ok(())
    }

    /// Reads what a manifest names, and queues it all.
    fn read(&mut self, manifest: Manifest, depth: usize) -> Result<Node, CopyError> {
        let job = self.job;
        let digest = manifest.digest.clone();
        let read = Node::read(manifest, job.options, || {
            job.source.object(&format!("@{digest}"))
        })?;
        let Read {
            node,
            children,
            foreign,
        } = read;
        if depth > MAX_DEPTH && !children.is_empty() {
            return Err(job.beyond(&digest, "its indexes are nested deeper than 8"));
        }
        job.tally.add_foreign(foreign);
        for blob in &node.blobs {
            self.add_blob(blob, &digest)?;
        }
        let child = |descriptor: Descriptor| Child {
            descriptor,
            parent: digest.clone(),
            depth,
        };
        self.children.extend(children.into_iter().map(child));
        if self.asked.len() + self.children.len() > MAX_MANIFESTS {
            return Err(job.beyond(&digest, "it names more than 20000 manifests"));
        }
        Ok(node)
    }

    fn add_blob(&mut self, blob: &Blob, parent: &Digest) -> Result<(), CopyError> {
        let added = self.blobs.add(blob);
        if added.map_err(|_| self.job.beyond(parent, "it gives one blob two sizes"))? {
            self.job.weigh(blob, parent)?;
            self.weighed += blob.size;
        }
        if self.blobs.count() > MAX_BLOBS {
            return Err(self.job.beyond(parent, "it has more than 20000 blobs"));
        }
        Ok(())
    }

    fn sent(&mut self, blob: &Blob) {
        self.sending -= 1;
        self.sending_large -= usize::from(blob.size >= LARGE);
        self.advance(&blob.digest);
    }

    /// Pushes the manifests that waited for nothing but this digest.
    fn advance(&mut self, digest: &Digest) {
        for node in self.graph.done(digest) {
            self.push(node);
        }
    }

    fn push(&mut self, node: Node) {
        let job = self.job;
        self.running.push(Box::pin(async move {
            let digest = node.manifest.digest.clone();
            let reference = TagOrDigest::Digest(digest.clone());
            job.push_listed(&node, &reference).await?;
            job.pushed(&digest);
            Ok(Done::Pushed(digest))
        }));
    }
}
