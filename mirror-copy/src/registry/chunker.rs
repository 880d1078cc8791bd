//! Cuts a blob's content into bodies of exact lengths, without holding more than one piece of it.

use super::content::Content;
use bytes::Bytes;
use futures_util::{Stream, stream};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// A content that several requests take their bodies from, one after the other.
#[derive(Clone)]
pub(super) struct Chunker(Arc<Mutex<Inner>>);

struct Inner {
    /// `None` once given up.
    content: Option<Content>,
    /// What of the last piece belongs to the next body.
    rest: Bytes,
    /// Bytes handed out so far.
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

    /// The next `length` bytes as a body. A content that ends before is an error within it.
    pub(super) fn body(&self, length: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let chunker = self.clone();
        let mut left = length;
        stream::poll_fn(move |context| {
            if left == 0 {
                return Poll::Ready(None);
            }
            let next = chunker.inner().poll_next(context, left);
            if let Poll::Ready(Ok(piece)) = &next {
                left -= piece.len() as u64;
            }
            next.map(Some)
        })
    }

    /// Bytes handed out so far.
    pub(super) fn taken(&self) -> u64 {
        self.inner().taken
    }

    /// Lets go of the content; a body that is still being sent breaks.
    pub(super) fn give_up(&self) {
        self.inner().content = None;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The next piece of at most `limit` bytes; never an empty one.
    fn poll_next(&mut self, waker: &mut Context<'_>, limit: u64) -> Poll<io::Result<Bytes>> {
        let Some(content) = &mut self.content else {
            return Poll::Ready(Err(io::Error::other("the upload was given up")));
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
mod tests {
    use super::*;
    use futures_util::StreamExt as _;

    fn content(pieces: &'static [&'static str]) -> Content {
        let pieces = pieces
            .iter()
            .map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
        Box::pin(stream::iter(pieces))
    }

    async fn text(chunker: &Chunker, length: u64) -> Result<String, io::Error> {
        let mut body = Box::pin(chunker.body(length));
        let mut text = String::new();
        while let Some(piece) = body.next().await {
            text.push_str(std::str::from_utf8(&piece?).unwrap());
        }
        Ok(text)
    }

    #[tokio::test]
    async fn bodies_are_cut_at_their_borders() {
        let chunker = Chunker::new(content(&["ab", "", "cdefg", "h"]));
        assert_eq!(text(&chunker, 3).await.unwrap(), "abc");
        assert_eq!(text(&chunker, 3).await.unwrap(), "def");
        assert_eq!(chunker.taken(), 6);
        assert_eq!(text(&chunker, 2).await.unwrap(), "gh");
        assert_eq!(text(&chunker, 0).await.unwrap(), "");
    }

    #[tokio::test]
    async fn an_early_end_breaks_the_body() {
        let chunker = Chunker::new(content(&["ab"]));
        assert!(text(&chunker, 3).await.is_err());
        let chunker = Chunker::new(content(&["ab"]));
        chunker.give_up();
        assert!(text(&chunker, 1).await.is_err());
    }
}
