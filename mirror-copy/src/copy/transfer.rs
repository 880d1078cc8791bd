//! Sends one blob: a verified stream from the source into one PUT at the target.

use super::Job;
use super::error::CopyError;
use super::progress::Event;
use crate::error::{Operation, RegistryError, Retry};
use crate::registry::{BlobReader, Session};
use backon::BackoffBuilder as _;
use bytes::Bytes;
use oci_spec::image::Digest;
use std::io;
use std::pin::pin;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Pieces between the source's connection and the target's: one in the hand, one on the way. More
/// would only be memory; the sockets have buffers of their own.
const PIECES_IN_FLIGHT: usize = 2;

/// How the pieces came to an end.
enum Pumped {
    /// All of them were handed over, verified.
    All,
    /// The target takes no more; its answer says why.
    TargetClosed,
    /// The target takes nothing for too long.
    TargetStalled,
    Source(RegistryError),
}

impl Job<'_> {
    /// Sends a blob, from its beginning again if sending fails. A first `session` may be given.
    /// Opening and reading are tried again by themselves, so their failures are final here.
    pub(super) async fn transfer(
        &self,
        digest: &Digest,
        size: u64,
        mut session: Option<Session>,
    ) -> Result<(), CopyError> {
        let mut waits = self.target.registry().retry_policy().backoff().build();
        let mut was_corrupt = false;
        loop {
            let (reader, session) = self.open(digest, size, session.take()).await?;
            self.progress.event(Event::BlobStarted { digest, size });
            let Err(error) = self.stream(reader, &session, digest).await else {
                return Ok(());
            };
            self.target.cancel(&session).await;
            let wait = match &error {
                // A cache on the way may be what is corrupt, so the source gets one more chance.
                CopyError::Source(RegistryError::Digest { actual, .. }) => {
                    if std::mem::replace(&mut was_corrupt, true) {
                        let object = self.source.object(&format!("@{digest}"));
                        return Err(CopyError::BlobDigest {
                            object,
                            actual: actual.clone(),
                        });
                    }
                    waits.next()
                }
                CopyError::Target(cause) => match cause.retry() {
                    Retry::Transient { after } => {
                        waits.next().map(|wait| wait.max(after.unwrap_or_default()))
                    }
                    Retry::Permanent => None,
                },
                _ => None,
            };
            let Some(wait) = wait else { return Err(error) };
            tracing::debug!(%digest, %error, ?wait, "sending the blob again");
            self.progress.event(Event::BlobFailed {
                digest,
                error: &error,
            });
            sleep(wait).await;
        }
    }

    /// Opens both ends at the same time.
    async fn open(
        &self,
        digest: &Digest,
        size: u64,
        session: Option<Session>,
    ) -> Result<(BlobReader, Session), CopyError> {
        let open_source = BlobReader::open(self.source.clone(), digest.clone(), size);
        let open_target = async {
            match session {
                Some(session) => Ok(session),
                None => self.target.start_upload(digest).await,
            }
        };
        let (reader, session) = tokio::join!(open_source, open_target);
        let session = session.map_err(CopyError::Target)?;
        match reader {
            Ok(reader) => Ok((reader, session)),
            Err(error) => {
                self.target.cancel(&session).await;
                Err(CopyError::Source(error))
            }
        }
    }

    async fn stream(
        &self,
        reader: BlobReader,
        session: &Session,
        digest: &Digest,
    ) -> Result<(), CopyError> {
        let size = reader.size();
        let (pieces, taken) = mpsc::channel(PIECES_IN_FLIGHT);
        let mut taken = taken;
        let content = futures_util::stream::poll_fn(move |context| taken.poll_recv(context));
        let mut put = pin!(
            self.target
                .put_blob(session, digest, size, Box::pin(content))
        );
        let mut pump = pin!(self.pump(digest, reader, pieces));
        let pumped = tokio::select! {
            biased; // an end of the pieces is the better explanation of the end of the PUT
            pumped = &mut pump => pumped,
            answer = &mut put => return Err(CopyError::Target(self.too_early(digest, answer))),
        };
        let late = |operation, after| {
            let subject = self.target.subject(operation, &format!("@{digest}"));
            CopyError::Target(RegistryError::Timeout { subject, after })
        };
        let timeouts = self.target.registry().timeouts();
        match pumped {
            Pumped::Source(error) => Err(CopyError::Source(error)),
            Pumped::TargetStalled => Err(late(Operation::WriteBlob, timeouts.idle)),
            Pumped::All => match timeout(timeouts.commit, put).await {
                Ok(answer) => answer.map_err(CopyError::Target),
                Err(_) => Err(late(Operation::WriteBlob, timeouts.commit)),
            },
            Pumped::TargetClosed => match timeout(timeouts.idle, put).await {
                Ok(answer) => Err(CopyError::Target(self.too_early(digest, answer))),
                Err(_) => Err(late(Operation::WriteBlob, timeouts.idle)),
            },
        }
    }

    /// The error of an answer that came before all pieces were sent. Even a friendly one is wrong:
    /// the registry cannot have a blob that it has not been given.
    fn too_early(&self, digest: &Digest, answer: Result<(), RegistryError>) -> RegistryError {
        answer.err().unwrap_or_else(|| {
            let subject = self
                .target
                .subject(Operation::WriteBlob, &format!("@{digest}"));
            RegistryError::protocol(&subject, "it was accepted before it was complete")
        })
    }

    /// Hands over verified pieces. On failure the channel gets an error instead of an end, so that
    /// the HTTP client breaks the connection and the registry cannot take the blob for complete.
    async fn pump(
        &self,
        digest: &Digest,
        mut reader: BlobReader,
        pieces: mpsc::Sender<io::Result<Bytes>>,
    ) -> Pumped {
        let idle = self.target.registry().timeouts().idle;
        loop {
            let piece = match reader.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Pumped::All,
                Err(error) => {
                    let broken = io::Error::other("the source failed");
                    let _ = timeout(idle, pieces.send(Err(broken))).await;
                    return Pumped::Source(error);
                }
            };
            let length = piece.len() as u64;
            match timeout(idle, pieces.send(Ok(piece))).await {
                Ok(Ok(())) => self.progress.event(Event::Bytes {
                    digest,
                    bytes: length,
                }),
                Ok(Err(_)) => return Pumped::TargetClosed,
                Err(_) => return Pumped::TargetStalled,
            }
        }
    }
}
