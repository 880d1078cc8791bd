//! Copies everything below one manifest: reads manifests, sends blobs and pushes manifests, all concurrently, each as soon
//! as it can be. Child manifests are looked up at the target first, then at the source.

use super::blobs::BLOBS_AT_ONCE;
use super::error::CopyError;
use super::graph::{Graph, LARGE, Queue};
use super::job::{Job, Part};
use super::node::{Blob, Node, Origin, Read};
use super::progress::Event;
use super::report::one_more;
use crate::error::RegistryError;
use crate::manifest::Descriptor;
use crate::reference::TagOrDigest;
use crate::registries::metadata_budget::Lease;
use crate::registry::Manifest;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use oci_spec::image::Digest;
use std::collections::{HashSet, VecDeque};

/// Manifests of one copy that are read concurrently.
const MANIFESTS_AT_ONCE: usize = 32;

/// Maximum nesting of indexes. Two levels are in use; the limit bounds a hostile image.
pub(super) const MAX_DEPTH: usize = 8;

/// Maximum number of manifests of one copy. Large indexes have a few dozen.
pub(super) const MAX_MANIFESTS: usize = 20_000;

/// Maximum number of blobs of one copy. Large images have a few hundred, and each takes a few hundred bytes of memory.
pub(super) const MAX_BLOBS: usize = 20_000;

/// Large blobs of one copy that are in flight concurrently. More would not be faster, only take longer each, and would leave
/// no memory for small ones.
const LARGE_AT_ONCE: usize = 6;

/// The work below one manifest.
pub(super) struct CopyGraph<'a> {
    job: &'a Job<'a>,
    graph: Graph,
    blobs: Queue,
    part: Part,
    /// Bytes of the blobs that were added to the total of the copy.
    weighed: u64,
    /// Memory for parsed manifests.
    held: Vec<Lease>,
    children: VecDeque<Child>,
    /// Manifests that were ever queued.
    queued: HashSet<Digest>,
    running: FuturesUnordered<BoxFuture<'a, Result<Done, CopyError>>>,
    reading: usize,
    sending: usize,
    sending_large: usize,
    /// All manifests were read and reported.
    planned: bool,
}

enum Done {
    Found(Box<Child>, Found),
    Sent(Blob),
    Pushed(Digest),
}

impl<'a> CopyGraph<'a> {
    pub(super) fn of_image(job: &'a Job<'a>) -> Self {
        Self::new(job, Part::Image)
    }

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
            queued: HashSet::new(),
            running: FuturesUnordered::new(),
            reading: 0,
            sending: 0,
            sending_large: 0,
            planned: false,
        }
    }

    /// Returns when everything that `root` names is at the target, without pushing `root` itself. `lease` is the memory for
    /// the parsed root.
    pub(super) async fn run(mut self, root: Manifest, lease: Lease) -> Result<Node, CopyError> {
        self.held.push(lease);
        if self.part == Part::Referrers {
            self.job.image_weighed().await;
        }
        let copied = self.copy_all(root).await;
        if copied.is_err() {
            self.job.sums.unweigh(self.weighed);
        }
        copied
    }

    async fn copy_all(&mut self, root: Manifest) -> Result<Node, CopyError> {
        self.queued.insert(root.digest.clone());
        let root = self.read(root, 1)?;
        loop {
            self.start_ready_work();
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
            // Digests make this impossible; a silent half copy must be impossible as well.
            Some(stuck) => Err(self.job.beyond(stuck, "its indexes name each other")),
            None => Ok(root),
        }
    }

    fn start_ready_work(&mut self) {
        let (job, part) = (self.job, self.part);
        while self.reading < MANIFESTS_AT_ONCE
            && let Some(child) = self.children.pop_front()
        {
            if self.queued.insert(child.descriptor.digest.clone()) {
                self.reading += 1;
                self.running.push(Box::pin(async move {
                    let found = job.find_child(&child, part).await?;
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
                manifests: self.queued.len() as u64,
            });
        }
        if !self.planned && job.options.max_bytes.is_some() {
            // The size of the image is known only when its last manifest was read.
            return;
        }
        while self.sending < BLOBS_AT_ONCE
            && let Some(blob) = self.blobs.next(self.sending_large < LARGE_AT_ONCE)
        {
            self.sending += 1;
            self.sending_large += usize::from(blob.size >= LARGE);
            self.running.push(Box::pin(async move {
                job.copy_blob(&blob).await?;
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

    /// Parses a manifest and queues everything that it names.
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
        if self.queued.len() + self.children.len() > MAX_MANIFESTS {
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

    /// Pushes the manifests that waited only for this digest.
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

/// A manifest that an index or a list of referrers names.
pub(super) struct Child {
    pub(super) descriptor: Descriptor,
    /// The index, or the subject of the referrer.
    pub(super) parent: Digest,
    /// Number of manifests above it.
    pub(super) depth: usize,
}

/// The place where a child was found.
pub(super) enum Found {
    /// The target has it, and everything below it.
    Present,
    /// The source has it; the lease is the memory to parse it.
    Manifest(Manifest, Lease),
    /// The entry is a blob: build caches put blobs into an index.
    Blob,
    /// The source does not have it, and [`CopyOptions::allow_sparse`](super::CopyOptions::allow_sparse) allows that.
    LeftOut,
}

impl Job<'_> {
    /// Looks for a child at the target if the target is known to have parts of the image, then reads it from the source. In
    /// this order, because public registries limit how many manifests are read.
    pub(super) async fn find_child(&self, child: &Child, part: Part) -> Result<Found, CopyError> {
        let descriptor = &child.descriptor;
        if self.may_have_parts() && self.is_at_target(&descriptor.digest).await? {
            return Ok(Found::Present);
        }
        // The lists of referrers of Google's registries have wrong sizes, so only the digest is checked there.
        let (reserved, read) = match part {
            Part::Image => {
                self.reserve(part, &descriptor.digest, descriptor.size)?;
                (descriptor.size, self.source.manifest_of(descriptor).await)
            }
            Part::Referrers => {
                let by_digest = TagOrDigest::Digest(descriptor.digest.clone());
                (0, self.source.manifest(&by_digest).await)
            }
        };
        match read {
            Ok(manifest) => {
                let lease = self.hold(part, &manifest, reserved).await?;
                Ok(Found::Manifest(manifest, lease))
            }
            Err(error) if error.status() == Some(404) && !descriptor.is_manifest() => {
                Ok(Found::Blob)
            }
            Err(error) if error.status() == Some(404) && self.options.allow_sparse => {
                let (child, parent) = (&descriptor.digest, &child.parent);
                if one_more(&self.tally.children_left_out) == 0 {
                    tracing::warn!(%child, %parent, "left out a manifest that the source does not have; further ones are logged at debug");
                } else {
                    tracing::debug!(%child, %parent, "left out a manifest that the source does not have");
                }
                Ok(Found::LeftOut)
            }
            Err(error) if error.status() == Some(404) => Err(CopyError::SourceIncomplete {
                parent: child.parent.clone(),
                missing: descriptor.digest.clone(),
            }),
            Err(error) => Err(CopyError::Source(error)),
        }
    }

    async fn is_at_target(&self, digest: &Digest) -> Result<bool, CopyError> {
        match self.target.has_manifest(digest).await {
            Ok(has) => Ok(has),
            // Many registries respond the same to a request for something absent and something hidden.
            Err(error) if matches!(error.status(), Some(400..=403)) => Ok(false),
            // Other content under this digest, or a page, is not this manifest; pushing it shows what is wrong.
            Err(
                RegistryError::Digest { .. }
                | RegistryError::Manifest { .. }
                | RegistryError::Protocol { .. },
            ) => Ok(false),
            Err(error) => Err(CopyError::Target(error)),
        }
    }
}
