//! A blob as a verified stream that is resumed after broken connections, and as the body of an upload.

use super::blobs::OpenBlob;
use super::repository::Repository;
use super::response::{compressed, next_chunk, wrong_size};
use crate::error::{Operation, RegistryError, Subject};
use crate::hash::Hasher;
use crate::lock::lock;
use bytes::{Buf as _, Bytes};
use futures_util::stream::{self, Stream};
use oci_spec::image::Digest;
use reqwest::Url;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A broken connection after this many new bytes does not count as an attempt.
const PROGRESS: u64 = 1024 * 1024;

/// Reads a blob piece by piece.
///
/// The piece that completes the blob is returned only after size and digest were verified, so a caller that forwards the
/// pieces never forwards a whole wrong blob. A broken connection is resumed with a range request, and hashing continues.
pub struct BlobReader {
    repository: Repository,
    subject: Subject,
    digest: Digest,
    size: u64,
    origin: Origin,
    /// Bytes that were hashed and returned.
    done: u64,
    /// `None` once the digest was verified.
    hasher: Option<Hasher>,
    /// `None` for an empty blob.
    open: Option<OpenBlob>,
    /// The first piece, which was received when the blob was opened.
    first: Option<Bytes>,
    resumes_left: usize,
    /// `done` when `resumes_left` was last reset.
    mark: u64,
}

enum Origin {
    Registry,
    Inline(Bytes),
    /// The address of a foreign layer.
    Url(Url),
}

impl BlobReader {
    /// Opens a blob, and waits for its first byte.
    pub(crate) async fn open(
        repository: Repository,
        digest: Digest,
        size: u64,
    ) -> Result<Self, RegistryError> {
        // An empty blob needs no request.
        let open = match size {
            0 => None,
            _ => Some(repository.open_blob(&digest, size, 0).await?),
        };
        let mut reader = Self::new(repository, digest, size, Origin::Registry, open)?;
        reader.wait_for_first().await?;
        Ok(reader)
    }

    /// Waits for the first byte of the body. A timeout is not retried.
    async fn wait_for_first(&mut self) -> Result<(), RegistryError> {
        let limit = self.repository.registry().timeouts().first_byte;
        if let Some(open) = &mut self.open {
            match next_chunk(&mut open.response, &self.subject, limit).await {
                Ok(first) => self.first = first,
                Err(error @ RegistryError::Timeout { .. }) => return Err(error),
                // A connection that breaks here is resumed by `next`.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Reads content that the caller already has. It is verified as well.
    pub(crate) fn inline(
        repository: Repository,
        digest: Digest,
        content: Bytes,
    ) -> Result<Self, RegistryError> {
        let size = content.len() as u64;
        Self::new(repository, digest, size, Origin::Inline(content), None)
    }

    /// Opens a foreign layer at the first of these addresses that has it, without credentials.
    pub(crate) async fn open_foreign(
        repository: Repository,
        digest: Digest,
        size: u64,
        urls: &[String],
    ) -> Result<Self, RegistryError> {
        let (url, open) = repository.open_foreign(&digest, size, urls).await?;
        let mut reader = Self::new(repository, digest, size, Origin::Url(url), Some(open))?;
        reader.wait_for_first().await?;
        Ok(reader)
    }

    fn new(
        repository: Repository,
        digest: Digest,
        size: u64,
        origin: Origin,
        open: Option<OpenBlob>,
    ) -> Result<Self, RegistryError> {
        let subject = repository.subject(Operation::ReadBlob, &format!("@{digest}"));
        let hasher = Hasher::for_digest(&digest).ok_or_else(|| RegistryError::Algorithm {
            subject: subject.clone(),
        })?;
        let resumes_left = repository.registry().retry_policy().attempts;
        let mut reader = Self {
            repository,
            subject,
            digest,
            size,
            origin,
            done: 0,
            hasher: Some(hasher),
            open,
            first: None,
            resumes_left,
            mark: 0,
        };
        if size == 0 {
            // There is no last piece to hold back.
            reader.verify()?;
        }
        Ok(reader)
    }

    /// Returns the size of the blob in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the next piece; `None` after the last one.
    ///
    /// # Errors
    /// [`RegistryError`] if the connection breaks and cannot be resumed, or size or digest are wrong. The blob is then not
    /// usable.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.done == self.size {
                self.verify()?;
                return Ok(None);
            }
            let idle = self.repository.registry().timeouts().idle;
            let piece = match (&mut self.open, &self.origin) {
                (Some(_), _) if self.first.is_some() => Ok(self.first.take()),
                (Some(open), _) => next_chunk(&mut open.response, &self.subject, idle).await,
                (None, Origin::Inline(content)) => Ok(Some(content.clone())),
                (None, _) => Ok(None),
            };
            match piece {
                Ok(Some(piece)) => {
                    let piece = self.unskipped(piece);
                    if !piece.is_empty() {
                        return self.accept(piece).await.map(Some);
                    }
                }
                Ok(None) => self.resume(None).await?,
                Err(error) => self.resume(Some(error)).await?,
            }
        }
    }

    /// Drops the bytes that a registry without support for ranges sends again.
    fn unskipped(&mut self, mut piece: Bytes) -> Bytes {
        if let Some(open) = &mut self.open
            && open.skip > 0
        {
            let cut = piece
                .len()
                .min(usize::try_from(open.skip).unwrap_or(usize::MAX));
            piece.advance(cut);
            open.skip -= cut as u64;
        }
        piece
    }

    async fn accept(&mut self, piece: Bytes) -> Result<Bytes, RegistryError> {
        let done = self.done + piece.len() as u64;
        if done > self.size {
            return Err(self.decoded(wrong_size(&self.subject, self.size, done)));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        self.done = done;
        if done == self.size {
            self.expect_end().await?;
            self.verify()?;
            self.open = None;
        }
        Ok(piece)
    }

    /// Checks that a body without a length ends after the last byte.
    async fn expect_end(&mut self) -> Result<(), RegistryError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let idle = self.repository.registry().timeouts().idle;
        match next_chunk(&mut open.response, &self.subject, idle).await {
            Ok(Some(more)) if !more.is_empty() => {
                let actual = self.size + more.len() as u64;
                Err(self.decoded(wrong_size(&self.subject, self.size, actual)))
            }
            // The content is complete; how the connection ended does not matter.
            _ => Ok(()),
        }
    }

    /// Replaces an error about wrong content if the body was compressed.
    fn decoded(&self, error: RegistryError) -> RegistryError {
        let compression = self
            .open
            .as_ref()
            .and_then(|open| open.compression.as_ref());
        compression.map_or(error, |compression| compressed(&self.subject, compression))
    }

    /// Verifies the digest, once.
    fn verify(&mut self) -> Result<(), RegistryError> {
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        let actual = hasher.finish();
        if actual == self.digest.as_ref() {
            return Ok(());
        }
        let (subject, expected) = (self.subject.clone(), self.digest.to_string());
        Err(self.decoded(RegistryError::Digest {
            subject,
            expected,
            actual,
        }))
    }

    /// Reopens the body at the current offset, if there are attempts left.
    async fn resume(&mut self, broken: Option<RegistryError>) -> Result<(), RegistryError> {
        let broken = broken.unwrap_or_else(|| RegistryError::Cut {
            subject: self.subject.clone(),
            got: self.done,
            expected: self.size,
        });
        if self.done >= self.mark + PROGRESS {
            self.mark = self.done;
            self.resumes_left = self.repository.registry().retry_policy().attempts;
        }
        if self.resumes_left == 0 || !broken.retry().is_transient() {
            return Err(broken);
        }
        self.resumes_left -= 1;
        tracing::debug!(subject = %self.subject, done = self.done, %broken, "resuming the blob");
        self.open = None;
        let (digest, size, done) = (&self.digest, self.size, self.done);
        let open = match &self.origin {
            Origin::Url(url) => self.repository.open_url(url, digest, size, done).await?,
            _ => self.repository.open_blob(digest, size, done).await?,
        };
        self.open = Some(open);
        Ok(())
    }
}

impl std::fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobReader")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// The body of an upload: exactly the bytes of the blob, the last piece only if the digest is right. If reading fails, it
/// ends with an error, never just early: the HTTP client then aborts the connection, so that the registry cannot accept the
/// blob.
pub(crate) type Content = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Progress of a content, shared by the connection that pulls it and the task that watches it.
#[derive(Default)]
pub(crate) struct Flow {
    bytes: AtomicU64,
    waits_for_source: AtomicBool,
    failure: Mutex<Option<RegistryError>>,
}

impl Flow {
    /// Returns the bytes that were passed to the connection.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns whether the connection waits for the source.
    pub(crate) fn waits_for_source(&self) -> bool {
        self.waits_for_source.load(Ordering::Relaxed)
    }

    /// Removes and returns the error that ended the content.
    pub(crate) fn failure(&self) -> Option<RegistryError> {
        lock(&self.failure).take()
    }

    fn fail(&self, error: RegistryError) {
        let mut failure = lock(&self.failure);
        *failure = Some(error);
    }
}

/// Converts a reader into the body of a request.
pub(crate) fn content(reader: BlobReader, flow: Arc<Flow>) -> Content {
    let pieces = stream::unfold(Some((reader, flow)), async |state| {
        let (mut reader, flow) = state?;
        flow.waits_for_source.store(true, Ordering::Relaxed);
        let piece = reader.next().await;
        flow.waits_for_source.store(false, Ordering::Relaxed);
        match piece {
            Ok(Some(piece)) => {
                flow.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Some((Ok(piece), Some((reader, flow))))
            }
            Ok(None) => None,
            Err(error) => {
                flow.fail(error);
                Some((Err(io::Error::other("the source failed")), None))
            }
        }
    });
    Box::pin(pieces)
}
