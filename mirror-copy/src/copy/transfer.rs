//! Sends one blob: a verified stream from the source into an upload session of the target.

use super::error::CopyError;
use super::job::{Job, REPORT_EVERY};
use super::node::{Blob, Origin};
use super::progress::Event;
use super::slow_source::SlowSource;
use crate::error::{Operation, RegistryError, Retry};
use crate::registries::Timeouts;
use crate::registry::{BlobReader, Content, Flow, Registry, Session, content};
use backon::BackoffBuilder as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// How long a source may be silent before that is reported.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// How long an upload session is held open while the source is silent: registries and proxies close idle ones.
const SESSION_IDLE: Duration = Duration::from_secs(5);

/// What must move within the idle timeout, in bytes: about one KiB a second.
const LEAST: u64 = 64 * 1024;

impl Job<'_> {
    /// Opens a blob's content and waits for its first byte, which a proxy that scans it may hold back for minutes. It
    /// makes room for blobs of others that wait.
    pub(super) async fn open(&self, blob: &Blob) -> Result<BlobReader, CopyError> {
        let (source, digest) = (self.source.clone(), blob.digest.clone());
        let opening = async {
            let reader = match &blob.origin {
                Origin::Registry => BlobReader::open(source, digest, blob.size).await,
                Origin::Inline(bytes) => BlobReader::inline(source, digest, bytes.clone()),
                Origin::Urls(urls) => {
                    BlobReader::open_foreign(source, digest, blob.size, urls).await
                }
            };
            reader.map_err(CopyError::Source)
        };
        let mut opening = pin!(opening);
        let mut pace = SlowSource::new(Instant::now());
        let mut silence = Some(Instant::now() + SILENT_AFTER);
        let mut look = interval(REPORT_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                reader = &mut opening => return reader,
                now = look.tick() => {
                    let digest = &blob.digest;
                    if silence.is_some_and(|silence| silence <= now) {
                        silence = None;
                        tracing::info!(blob = %digest, "waiting for the source");
                    }
                    if silence.is_none() {
                        self.progress.event(Event::WaitingForSource { digest });
                    }
                    if let Some(error) = self.too_slow(blob, &mut pace, 0, true) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Sends a blob, from its beginning again if sending fails. The first session and the first reader may be given.
    /// Opening and reading are tried again by themselves, so their failures are final here.
    pub(super) async fn transfer(
        &self,
        blob: &Blob,
        mut session: Option<Session>,
        mut reader: Option<BlobReader>,
    ) -> Result<(), CopyError> {
        let Blob { digest, size, .. } = blob;
        let mut waits = self.target.registry().retry_policy().backoff().build();
        let mut was_corrupt = false;
        loop {
            let (reader, session) = self.both_ends(blob, session.take(), reader.take()).await?;
            let size = *size;
            self.progress.event(Event::BlobStarted { digest, size });
            let session = self.abandoned.unless_done(session);
            let mut told = 0;
            let sent = self
                .stream(blob, session.session(), reader, &mut told)
                .await;
            if sent.is_err() {
                self.target.cancel(session.session()).await;
            }
            session.done();
            let Err(error) = sent else { return Ok(()) };
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
                // Chunks get smaller a bounded number of times.
                CopyError::Target(RegistryError::Whole { .. }) => Some(Duration::ZERO),
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
                bytes: told,
                error: &error,
            });
            sleep(wait).await;
        }
    }

    /// Opens what is not open yet, both ends at the same time. No session stays idle while the source is silent.
    async fn both_ends(
        &self,
        blob: &Blob,
        session: Option<Session>,
        reader: Option<BlobReader>,
    ) -> Result<(BlobReader, Session), CopyError> {
        let open_target = async {
            match session {
                Some(session) => Ok(session),
                None => self.target.start_upload(&blob.digest).await,
            }
        };
        if let Some(reader) = reader {
            let session = open_target.await.map_err(CopyError::Target)?;
            return Ok((reader, session));
        }
        let (mut open_target, mut opening) = (pin!(open_target), pin!(self.open(blob)));
        let (session, reader) = tokio::select! {
            session = &mut open_target => (session, None),
            reader = &mut opening => (open_target.await, Some(reader)),
        };
        let session = session.map_err(CopyError::Target)?;
        let (session, reader) = self.opened(session, reader, opening).await?;
        let session = if let Some(session) = session {
            session
        } else {
            let session = self.target.start_upload(&blob.digest).await;
            session.map_err(CopyError::Target)?
        };
        Ok((reader, session))
    }

    /// Waits for the source beside an open session. The session is closed if the source cannot be opened, or if it would
    /// stay idle: there is none then. `reader` is what `opening` resulted in, if it has.
    pub(super) async fn opened(
        &self,
        session: Session,
        reader: Option<Result<BlobReader, CopyError>>,
        mut opening: Pin<&mut impl Future<Output = Result<BlobReader, CopyError>>>,
    ) -> Result<(Option<Session>, BlobReader), CopyError> {
        let reader = match reader {
            Some(reader) => Some(reader),
            None => timeout(SESSION_IDLE, &mut opening).await.ok(),
        };
        if let Some(Ok(reader)) = reader {
            return Ok((Some(session), reader));
        }
        self.target.cancel(&session).await;
        let reader = match reader {
            Some(reader) => reader,
            None => opening.await,
        };
        Ok((None, reader?))
    }

    /// One attempt. The target's connection pulls the content by itself; this only watches it, and counts in `told` how
    /// many bytes were reported as [`Event::Bytes`].
    async fn stream(
        &self,
        blob: &Blob,
        session: &Session,
        reader: BlobReader,
        told: &mut u64,
    ) -> Result<(), CopyError> {
        let Blob { digest, size, .. } = blob;
        let flow = Arc::new(Flow::default());
        let content: Content = content(reader, Arc::clone(&flow));
        let mut put = pin!(self.target.put_blob(session, digest, *size, content));
        let mut watch = Watch::new(&flow, *size, *self.target.registry().timeouts());
        let mut pace = SlowSource::new(Instant::now());
        let mut look = interval(REPORT_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let answer = loop {
            tokio::select! {
                answer = &mut put => break answer,
                _ = look.tick() => {
                    *told += self.tell(blob, &mut watch);
                    let on_source = flow.waits_for_source();
                    self.progress.event(Event::Waiting { on_source });
                    if self.source.registry().is_paused()
                        || self.target.registry().are_writes_paused()
                    {
                        watch.begin_again();
                    }
                    if let Some(after) = watch.stalled() {
                        let subject = self.target.subject(Operation::WriteBlob, &format!("@{digest}"));
                        break Err(RegistryError::Timeout { subject, after });
                    }
                    if let Some(error) = self.too_slow(blob, &mut pace, flow.bytes(), on_source) {
                        return Err(error);
                    }
                }
            }
        };
        *told += self.tell(blob, &mut watch);
        match (answer, flow.failure()) {
            // The end of the source is the better explanation of the end of the upload.
            (_, Some(error)) => Err(CopyError::Source(error)),
            (Err(error), None) => Err(CopyError::Target(error)),
            (Ok(()), None) if flow.bytes() == *size => Ok(()),
            // The registry cannot have a blob that it has not been given.
            (Ok(()), None) => {
                let subject = self
                    .target
                    .subject(Operation::WriteBlob, &format!("@{digest}"));
                let reason = "it was accepted before it was complete";
                Err(CopyError::Target(RegistryError::protocol(&subject, reason)))
            }
        }
    }

    /// Why this transfer has to make room for others, if it does: its source is slow, and images of others wait.
    fn too_slow(
        &self,
        blob: &Blob,
        pace: &mut SlowSource,
        bytes: u64,
        waits_for_source: bool,
    ) -> Option<CopyError> {
        pace.look(Instant::now(), bytes, waits_for_source);
        let (moved, within) = pace.slow(Instant::now())?;
        let (source, target) = (self.source.registry(), self.target.registry());
        Registry::must_yield(source, target).then(|| {
            let object = format!("@{}", blob.digest);
            let subject = self.source.subject(Operation::ReadBlob, &object);
            CopyError::Source(RegistryError::Slow {
                subject,
                moved,
                within,
            })
        })
    }

    /// Reports how many bytes moved since the last time.
    fn tell(&self, blob: &Blob, watch: &mut Watch<'_>) -> u64 {
        let bytes = watch.news();
        if bytes > 0 {
            let digest = &blob.digest;
            self.progress.event(Event::Bytes { digest, bytes });
        }
        bytes
    }
}

/// Sees whether a transfer stands still, or moves so little that it only keeps others from theirs: a
/// source that sends a byte now and then satisfies the timeouts of any connection.
struct Watch<'a> {
    flow: &'a Flow,
    size: u64,
    timeouts: Timeouts,
    told: u64,
    /// When the present period began, and what had moved by then.
    since: Instant,
    before: u64,
}

impl<'a> Watch<'a> {
    fn new(flow: &'a Flow, size: u64, timeouts: Timeouts) -> Self {
        Self {
            flow,
            size,
            timeouts,
            told: 0,
            since: Instant::now(),
            before: 0,
        }
    }

    /// Bytes handed over since the last call.
    fn news(&mut self) -> u64 {
        let bytes = self.flow.bytes() - self.told;
        self.told += bytes;
        if self.told - self.before >= LEAST || (bytes > 0 && self.told == self.size) {
            self.begin_again();
        }
        bytes
    }

    /// Begins a new period.
    fn begin_again(&mut self) {
        self.since = Instant::now();
        self.before = self.told;
    }

    /// How long too little has moved, if that is too long. After the last byte the target may take its
    /// time: some storage backends copy the whole blob before they answer. While the source is waited for,
    /// its own timeouts come first.
    fn stalled(&self) -> Option<Duration> {
        let Timeouts { idle, commit, .. } = self.timeouts;
        let patience = if self.told == self.size {
            commit.max(idle)
        } else if self.flow.waits_for_source() {
            idle * 2
        } else {
            idle
        };
        (self.since.elapsed() > patience).then_some(patience)
    }
}
