//! Uploads in chunks, for registries that refuse a blob in one request (distribution-spec, "Pushing a blob in chunks").
//! Chunks are cut from the stream: none of them is ever in memory as a whole.

use super::blob_reader::Content;
use super::repository::Repository;
use super::request::RegistryRequest;
use super::streaming_upload::Streamed;
use super::uploads::{Session, closing_url, is_about_wholeness};
use crate::error::{Operation, RegistryError, Subject};
use crate::lock::lock;
use crate::registries::clients::Pool;
use bytes::Bytes;
use futures_util::{Stream, stream};
use oci_spec::image::Digest;
use reqwest::header::{HeaderMap, RANGE};
use reqwest::{Body, Method, Response, StatusCode};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// Maximum for the minimum size of a chunk that a registry requires, in bytes. No registry is known to require nearly as
/// much.
pub(super) const MAX_CHUNK: u64 = 64 * 1024 * 1024;

impl Repository {
    /// Fills a session chunk by chunk and closes it.
    pub(super) async fn put_in_chunks(
        &self,
        session: &Session,
        digest: &Digest,
        size: u64,
        content: Content,
    ) -> Result<(), RegistryError> {
        let subject = self.subject(Operation::WriteBlob, &format!("@{digest}"));
        let capabilities = &self.registry.shared.capabilities;
        let chunk = chunk_size(&subject, session.min_chunk, capabilities.chunk())?;
        let chunker = Chunker::new(content);
        let mut sent = 0;
        let mut certain = true;
        while sent < size {
            let length = chunk.min(size - sent);
            match self
                .put_chunk(session, &subject, &chunker, sent, length)
                .await
            {
                Ok(status) => certain &= status != StatusCode::CREATED,
                Err(error) => {
                    chunker.cancel();
                    return Err(self.smaller_next(error, &subject, length, session.min_chunk));
                }
            }
            sent += length;
        }
        let url = closing_url(&session.url(), digest);
        let request = RegistryRequest::new(&subject, Method::PUT, url, &self.scopes, Pool::Bulk);
        let response = self.registry.attempt(&request).await?;
        self.committed(&subject, digest, &response, certain).await
    }

    /// Makes the next attempt use smaller chunks if one was too large, down to the minimum of the registry.
    fn smaller_next(
        &self,
        error: RegistryError,
        subject: &Subject,
        length: u64,
        least: u64,
    ) -> RegistryError {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        let is_for_size = matches!(
            &error,
            RegistryError::Status { status: refused, code, message, .. }
                if *refused == status && is_about_wholeness(status, code, message)
        );
        let capabilities = &self.registry.shared.capabilities;
        if !is_for_size || !capabilities.refused_chunk(length, least) {
            return error;
        }
        tracing::info!(
            host = self.registry.host(),
            refused = length,
            chunk = capabilities.chunk(),
            "the registry refuses chunks of this size; sending smaller ones from now on"
        );
        RegistryError::Whole {
            subject: subject.clone(),
            status,
        }
    }

    /// Sends one chunk and returns the status, which is 201 instead of 202 for registries that only use the first chunk.
    async fn put_chunk(
        &self,
        session: &Session,
        subject: &Subject,
        chunker: &Chunker,
        first: u64,
        length: u64,
    ) -> Result<StatusCode, RegistryError> {
        let request = Streamed {
            subject,
            method: Method::PATCH,
            url: session.url(),
            scopes: &self.scopes,
            length,
            chunk_at: Some(first),
            body: Body::wrap_stream(chunker.body(length)),
        };
        let end = first + length;
        let (status, kept) = match self.registry.send_stream(request).await {
            Ok(response) => {
                self.follow(session, subject, &response)?;
                (response.status(), kept(response.headers()))
            }
            // Out of order. Perhaps only the response to an earlier attempt at this chunk was lost.
            Err(error) if error.status() == Some(416) => {
                // Without a status of the session the blob starts again in another one.
                let Ok(response) = self.upload_status(session, subject).await else {
                    return Err(error);
                };
                match kept(response.headers()) {
                    Some(kept) if kept == end => (response.status(), Some(kept)),
                    _ => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        if chunker.taken() < end {
            return Err(RegistryError::protocol(
                subject,
                "the registry accepted a chunk before it was complete; check any proxy before the registry",
            ));
        }
        match kept {
            Some(kept) if kept < end => Err(RegistryError::Lost {
                subject: subject.clone(),
                kept,
                sent: end,
            }),
            _ => Ok(status),
        }
    }

    /// Requests the progress of a session (distribution-spec, "Getting the Status of an upload").
    async fn upload_status(
        &self,
        session: &Session,
        subject: &Subject,
    ) -> Result<Response, RegistryError> {
        let request = RegistryRequest::new(
            subject,
            Method::GET,
            session.url(),
            &self.scopes,
            Pool::Small,
        );
        let response = self.registry.attempt(&request).await?;
        self.follow(session, subject, &response)?;
        Ok(response)
    }
}

/// Returns the size of chunks for a registry that requires at least `wanted` bytes; `usual` is the size without a
/// requirement.
pub(super) fn chunk_size(subject: &Subject, wanted: u64, usual: u64) -> Result<u64, RegistryError> {
    if wanted > MAX_CHUNK {
        let reason = format!(
            "the registry requires chunks of at least {wanted} bytes, and at most {MAX_CHUNK} are supported"
        );
        return Err(RegistryError::protocol(subject, reason));
    }
    Ok(wanted.max(usual))
}

/// Returns the number of bytes of a session: `Range: 0-<last>`, from some registries with the unit `bytes=`.
pub(super) fn kept(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?.trim();
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap_or(range)
        .split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    (first.trim() == "0").then(|| last.saturating_add(1))
}

/// Cuts a stream into bodies of exact lengths for consecutive requests, without buffering more than one piece of it.
#[derive(Clone)]
pub(super) struct Chunker(Arc<Mutex<Inner>>);

struct Inner {
    /// `None` once cancelled.
    content: Option<Content>,
    /// The part of the last piece that belongs to the next body.
    rest: Bytes,
    taken: u64,
}

impl Chunker {
    pub(super) fn new(content: Content) -> Self {
        let inner = Inner {
            content: Some(content),
            rest: Bytes::new(),
            taken: 0,
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Returns the next `length` bytes as a body. It fails if the content ends earlier.
    pub(super) fn body(&self, length: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let chunker = self.clone();
        let mut left = length;
        stream::poll_fn(move |context| {
            if left == 0 {
                return Poll::Ready(None);
            }
            let next = lock(&chunker.0).poll_next(context, left);
            if let Poll::Ready(Ok(piece)) = &next {
                left -= piece.len() as u64;
            }
            next.map(Some)
        })
    }

    /// Returns the number of bytes that were sent.
    pub(super) fn taken(&self) -> u64 {
        lock(&self.0).taken
    }

    /// Drops the content, so that a body that is still being sent fails.
    pub(super) fn cancel(&self) {
        lock(&self.0).content = None;
    }
}

impl Inner {
    /// Returns the next piece of at most `limit` bytes; never an empty one.
    fn poll_next(&mut self, waker: &mut Context<'_>, limit: u64) -> Poll<io::Result<Bytes>> {
        let Some(content) = &mut self.content else {
            return Poll::Ready(Err(io::Error::other("the upload was cancelled")));
        };
        while self.rest.is_empty() {
            match content.as_mut().poll_next(waker) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(piece))) => self.rest = piece,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        let length =
            usize::try_from(limit).map_or(self.rest.len(), |limit| limit.min(self.rest.len()));
        let piece = self.rest.split_to(length);
        self.taken += piece.len() as u64;
        Poll::Ready(Ok(piece))
    }
}

#[cfg(test)]
mod tests;
