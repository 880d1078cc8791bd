//! A blob as a verified stream that survives broken connections.

use super::blobs::OpenBlob;
use super::repository::Repository;
use super::response::wrong_size;
use super::response::{compressed, next_chunk};
use crate::error::{Operation, RegistryError, Subject};
use crate::hash::Hasher;
use bytes::{Buf as _, Bytes};
use oci_spec::image::Digest;
use reqwest::Url;

/// After this many new bytes a broken connection costs none of the attempts: the blob does move.
const PROGRESS: u64 = 1024 * 1024;

/// Reads a blob piece by piece.
///
/// The piece that completes the blob is handed out only after size and digest were found right, so
/// whoever forwards the pieces never forwards a whole wrong blob. A broken connection is resumed
/// with a range request; the hash goes on.
pub struct BlobReader {
    repository: Repository,
    subject: Subject,
    digest: Digest,
    size: u64,
    origin: Origin,
    /// Bytes seen, hashed and handed out.
    done: u64,
    /// `None` once the digest was checked.
    hasher: Option<Hasher>,
    /// `None` for an empty blob.
    open: Option<OpenBlob>,
    /// The first piece, which was waited for when the blob was opened.
    first: Option<Bytes>,
    resumes_left: usize,
    /// `done` when `resumes_left` was last full.
    mark: u64,
}

/// Where the content comes from.
enum Origin {
    Registry,
    Inline(Bytes),
    /// A web server that a foreign layer names.
    Url(Url),
}

impl BlobReader {
    /// Opens a blob, and waits for its first byte.
    pub(crate) async fn open(
        repository: Repository,
        digest: Digest,
        size: u64,
    ) -> Result<Self, RegistryError> {
        // Nobody has to be asked for nothing.
        let open = match size {
            0 => None,
            _ => Some(repository.open_blob(&digest, size, 0).await?),
        };
        let mut reader = Self::new(repository, digest, size, Origin::Registry, open)?;
        reader.wait_for_first().await?;
        Ok(reader)
    }

    /// Waits for the first byte of the body. A source that was silent for so long is not asked again.
    async fn wait_for_first(&mut self) -> Result<(), RegistryError> {
        let patience = self.repository.registry().timeouts().first_byte;
        if let Some(open) = &mut self.open {
            match next_chunk(&mut open.response, &self.subject, patience).await {
                Ok(first) => self.first = first,
                Err(error @ RegistryError::Timeout { .. }) => return Err(error),
                // A body that breaks here is resumed by `next`.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Reads what the caller has already. It is verified all the same.
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
            // There is no last piece that could be held back.
            reader.verify()?;
        }
        Ok(reader)
    }

    /// The blob's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece; `None` after the last one, when everything was verified.
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

    /// Drops what a registry that ignores ranges sends again.
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

    /// A body without a length may go on after the last promised byte.
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
            // Everything is here; how the connection ended does not matter.
            _ => Ok(()),
        }
    }

    /// Names the compression of a body that is not the content, if it has one.
    fn decoded(&self, error: RegistryError) -> RegistryError {
        let compression = self
            .open
            .as_ref()
            .and_then(|open| open.compression.as_ref());
        compression.map_or(error, |compression| compressed(&self.subject, compression))
    }

    /// Checks the digest, once.
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

    /// Goes on where the body broke, if there are attempts left.
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
        tracing::debug!(subject = %self.subject, done = self.done, %broken, "resuming");
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
