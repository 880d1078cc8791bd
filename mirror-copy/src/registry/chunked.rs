//! Uploads in chunks, for registries that refuse a blob in one request (distribution-spec, "Pushing a blob
//! in chunks"). Chunks are cut out of the running content: none of them is ever in memory as a whole.

use super::chunker::Chunker;
use super::content::Content;
use super::pool::Pool;
use super::repository::Repository;
use super::request::RegistryRequest;
use super::streaming_upload::Streamed;
use super::uploads::{Session, closing_url, is_about_wholeness};
use crate::error::{Operation, RegistryError, Subject};
use oci_spec::image::Digest;
use reqwest::header::{HeaderMap, RANGE};
use reqwest::{Body, Method, Response, StatusCode};

/// Largest chunk that a registry may insist on, in bytes. Far above what any is known to ask for.
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
                    chunker.give_up();
                    return Err(self.smaller_next(error, &subject, length, session.min_chunk));
                }
            }
            sent += length;
        }
        let url = closing_url(&session.url(), digest);
        let call = RegistryRequest::new(&subject, Method::PUT, url, &self.scopes, Pool::Bulk);
        let response = self.registry.attempt(&call).await?;
        self.committed(&subject, digest, &response, certain).await
    }

    /// A chunk that is too large makes the next attempt use smaller ones, down to what the registry wants at least.
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
            "sending smaller chunks from now on"
        );
        RegistryError::Whole {
            subject: subject.clone(),
            status,
        }
    }

    /// Sends one chunk; answers with the registry's status, which is 201 where it should be 202 on
    /// registries that take only the first chunk to heart.
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
            // Out of order, it says. Perhaps only its answer to an earlier copy of this chunk was lost.
            Err(error) if error.status() == Some(416) => {
                // A session that cannot be asked for is given up; the blob starts again in another one.
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
                "it took a chunk before it was complete",
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

    /// Asks a session how far it is (distribution-spec, "Getting the Status of an upload").
    async fn upload_status(
        &self,
        session: &Session,
        subject: &Subject,
    ) -> Result<Response, RegistryError> {
        let call = RegistryRequest::new(
            subject,
            Method::GET,
            session.url(),
            &self.scopes,
            Pool::Small,
        );
        let response = self.registry.attempt(&call).await?;
        self.follow(session, subject, &response)?;
        Ok(response)
    }
}

/// Size of the chunks for a registry that wants them to have at least `wanted` bytes, and was not seen to accept more than
/// `usual`.
pub(super) fn chunk_size(subject: &Subject, wanted: u64, usual: u64) -> Result<u64, RegistryError> {
    if wanted > MAX_CHUNK {
        let reason =
            format!("it wants chunks of at least {wanted} bytes, and at most {MAX_CHUNK} are sent");
        return Err(RegistryError::protocol(subject, reason));
    }
    Ok(wanted.max(usual))
}

/// How many bytes a session has: `Range: 0-<last>`, by some with the unit `bytes=`.
pub(super) fn kept(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?.trim();
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap_or(range)
        .split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    (first.trim() == "0").then(|| last.saturating_add(1))
}

#[cfg(test)]
mod tests;
