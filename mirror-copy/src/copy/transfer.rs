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

/// Time without a byte from the source after which that is reported.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Time that an upload session is held open while the source is silent: registries and proxies close idle ones.
const SESSION_IDLE: Duration = Duration::from_secs(5);

/// Minimum of bytes that must move within the idle timeout: about 1 KiB a second.
const MIN_PROGRESS: u64 = 64 * 1024;

impl Job<'_> {
    /// Opens the content of a blob and waits for its first byte, which a scanning proxy may hold back for minutes. Yields to
    /// blobs of other images that wait.
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
        let mut speed = SlowSource::new(Instant::now());
        let mut silence = Some(Instant::now() + SILENT_AFTER);
        let mut ticks = interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                reader = &mut opening => return reader,
                now = ticks.tick() => {
                    let digest = &blob.digest;
                    if silence.is_some_and(|silence| silence <= now) {
                        silence = None;
                        tracing::info!(blob = %digest, "waiting for the source");
                    }
                    if silence.is_none() {
                        self.progress.event(Event::WaitingForSource { digest });
                    }
                    if let Some(error) = self.too_slow(blob, &mut speed, 0, true) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Sends a blob, from its beginning again if sending fails. `session` and `reader` are those of the first attempt, if
    /// they are open already. Opening and reading have retries of their own, so their failures are final here.
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
            let mut reported = 0;
            let sent = self
                .stream(blob, session.session(), reader, &mut reported)
                .await;
            if sent.is_err() {
                self.target.cancel(session.session()).await;
            }
            session.done();
            let Err(error) = sent else { return Ok(()) };
            let wait = match &error {
                // A cache in between may be corrupt, so the source gets one more attempt.
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
                bytes: reported,
                error: &error,
            });
            sleep(wait).await;
        }
    }

    /// Opens the session and the reader that are missing, concurrently. No session stays idle while the source is silent.
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

    /// Waits for the source while a session is open. Cancels the session, and returns none, if the source cannot be opened
    /// or the session would stay idle. `reader` is the result of `opening`, if there is one already.
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

    /// Makes one attempt. The connection to the target pulls the content; this only watches it, and counts in `reported` the
    /// bytes that were reported as [`Event::Bytes`].
    async fn stream(
        &self,
        blob: &Blob,
        session: &Session,
        reader: BlobReader,
        reported: &mut u64,
    ) -> Result<(), CopyError> {
        let Blob { digest, size, .. } = blob;
        let flow = Arc::new(Flow::default());
        let content: Content = content(reader, Arc::clone(&flow));
        let mut put = pin!(self.target.put_blob(session, digest, *size, content));
        let mut watch = Watch::new(&flow, *size, *self.target.registry().timeouts());
        let mut speed = SlowSource::new(Instant::now());
        let mut ticks = interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let response = loop {
            tokio::select! {
                response = &mut put => break response,
                _ = ticks.tick() => {
                    *reported += self.report_bytes(blob, &mut watch);
                    let on_source = flow.waits_for_source();
                    self.progress.event(Event::Waiting { on_source });
                    if self.source.registry().is_paused()
                        || self.target.registry().are_writes_paused()
                    {
                        watch.restart();
                    }
                    if let Some(after) = watch.stalled() {
                        let subject = self.target.subject(Operation::WriteBlob, &format!("@{digest}"));
                        break Err(RegistryError::Timeout { subject, after });
                    }
                    if let Some(error) = self.too_slow(blob, &mut speed, flow.bytes(), on_source) {
                        return Err(error);
                    }
                }
            }
        };
        *reported += self.report_bytes(blob, &mut watch);
        match (response, flow.failure()) {
            // A failure of the source explains the failure of the upload better.
            (_, Some(error)) => Err(CopyError::Source(error)),
            (Err(error), None) => Err(CopyError::Target(error)),
            (Ok(()), None) if flow.bytes() == *size => Ok(()),
            // The registry cannot have the complete blob.
            (Ok(()), None) => {
                let subject = self
                    .target
                    .subject(Operation::WriteBlob, &format!("@{digest}"));
                let reason = "the registry accepted it before it was complete; check any proxy before the registry";
                Err(CopyError::Target(RegistryError::protocol(&subject, reason)))
            }
        }
    }

    /// Returns the error for a transfer that must yield: its source is slow, and other images wait.
    fn too_slow(
        &self,
        blob: &Blob,
        speed: &mut SlowSource,
        bytes: u64,
        waits_for_source: bool,
    ) -> Option<CopyError> {
        speed.observe(Instant::now(), bytes, waits_for_source);
        let (moved, within) = speed.slow(Instant::now())?;
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

    /// Reports the bytes that moved since the last report, and returns them.
    fn report_bytes(&self, blob: &Blob, watch: &mut Watch<'_>) -> u64 {
        let bytes = watch.new_bytes();
        if bytes > 0 {
            let digest = &blob.digest;
            self.progress.event(Event::Bytes { digest, bytes });
        }
        bytes
    }
}

/// Detects a stalled transfer, and one that moves so little that it only occupies its permits: a source that sends a byte
/// now and then stays below the timeouts of any connection.
struct Watch<'a> {
    flow: &'a Flow,
    size: u64,
    timeouts: Timeouts,
    reported: u64,
    since: Instant,
    /// Bytes that had moved when the current period began.
    before: u64,
}

impl<'a> Watch<'a> {
    fn new(flow: &'a Flow, size: u64, timeouts: Timeouts) -> Self {
        Self {
            flow,
            size,
            timeouts,
            reported: 0,
            since: Instant::now(),
            before: 0,
        }
    }

    /// Returns the bytes since the last call.
    fn new_bytes(&mut self) -> u64 {
        let bytes = self.flow.bytes() - self.reported;
        self.reported += bytes;
        if self.reported - self.before >= MIN_PROGRESS || (bytes > 0 && self.reported == self.size)
        {
            self.restart();
        }
        bytes
    }

    fn restart(&mut self) {
        self.since = Instant::now();
        self.before = self.reported;
    }

    /// Returns the timeout that was exceeded. After the last byte the target has longer: some storage backends copy the
    /// whole blob before they respond. The timeouts of the source, while the transfer waits for it, end first.
    fn stalled(&self) -> Option<Duration> {
        let Timeouts { idle, commit, .. } = self.timeouts;
        let limit = if self.reported == self.size {
            commit.max(idle)
        } else if self.flow.waits_for_source() {
            idle * 2
        } else {
            idle
        };
        (self.since.elapsed() > limit).then_some(limit)
    }
}
