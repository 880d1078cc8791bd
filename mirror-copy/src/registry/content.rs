//! A blob's content as the body of a request, pulled by the connection that sends it.

use super::blob_reader::BlobReader;
use crate::error::RegistryError;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The body of an upload: exactly the blob's bytes, the last piece only when the digest is right. It ends with an error, never just early, if the content cannot be had: the HTTP
/// client then breaks the connection, and the registry cannot take the blob for complete.
pub(crate) type Content = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// How far a content is. Shared between the connection that pulls it and whoever watches.
#[derive(Default)]
pub(crate) struct Flow {
    bytes: AtomicU64,
    waits_for_source: AtomicBool,
    failure: Mutex<Option<RegistryError>>,
}

impl Flow {
    /// Bytes handed over.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the connection wants more than the source has delivered.
    pub(crate) fn waits_for_source(&self) -> bool {
        self.waits_for_source.load(Ordering::Relaxed)
    }

    /// Why the content broke off, once.
    pub(crate) fn failure(&self) -> Option<RegistryError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn fail(&self, error: RegistryError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        *failure = Some(error);
    }
}

/// Turns a reader into a request body. What the reader hands out is verified, so what the body yields is.
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
