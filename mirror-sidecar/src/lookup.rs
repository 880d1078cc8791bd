//! What is mirrored.
//!
//! The backup registry is the truth: an image counts as mirrored only when this process has seen its copy there, and for
//! a short time only. The parts below the tag are checked once a day, and after the backup was away. A request for a missing
//! image adds it to the queue. Every request gets its response within [`ANSWER_WITHIN`], whatever the backup registry does.

mod in_use;
mod losses;
mod parts;
mod referrers;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mirror_contract::naming::anchor_tag;
use mirror_contract::{Backup, Digest, ImageRef, ImageStatus, Mode, Refusal, RefusalKind};
use mirror_copy::{
    Completeness, CopyError, CopyOptions, CopyReport, Operation, Progress, Registry, RegistryError,
    Resolved, Retry, Source, TagOrDigest, Target, copy,
};
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::backup_health::BackupHealth;
use crate::cluster::NamespaceBudgets;
use crate::copy_queue::{
    Copier, CopyQueue, CrashRecord, Failure, JobProgress, Requester, SourceState, Status, Task,
};
use crate::former_backups::FormerBackups;
use crate::locations::{Locations, anchor, contract_digest, engine_digest};
use crate::logging::Throttle;
use crate::metrics::{Jobs, Metrics};
use crate::reason::Reason;
pub use in_use::{CheckError, Presence, Upstream};
use losses::Losses;
use parts::{Pacing, Parts};
pub use parts::{PartsPlan, Turn};
pub use referrers::{ByKind, ReferrerKind, ReferrersPlan, UpstreamReferrers};

/// Longest time for an answer. The policy's whole budget is 800 ms by default, and the host adds its own share.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(400);

/// How long a look at the backup registry may go on after its question was answered with "unavailable".
const LOOKUP_WITHIN: Duration = Duration::from_secs(10);

/// Looks at the backup registry that may be under way. The host asks one question at a time, so more means that
/// something is wrong, and then waiting for yet another look helps nobody.
const MAX_LOOKUPS: usize = 64;

/// How long a copy that was seen counts as being there. The host keeps the answer for a minute more.
const SEEN_FOR: Duration = Duration::from_secs(30);

/// How long a copy that was not found counts as missing while it is to be made here.
const MISSED_FOR: Duration = Duration::from_secs(10);

/// How long a lookup waits for the check of configs and layers, which then continues by itself: of a copy that this process
/// has not checked yet, and of one that was whole when it was checked last.
const FIRST_CHECK_WITHIN: Duration = Duration::from_secs(2);
const RECHECK_WITHIN: Duration = Duration::from_millis(250);

/// How long a copy may be compared with an original that lacks parts. It has a slot for copies meanwhile; what is known by
/// then is remembered.
const ACCEPT_WITHIN: Duration = Duration::from_mins(1);

/// How long a former backup may take to say whether it has a copy, how long one that does not is left alone, and how many
/// of those are remembered.
const ASK_FORMER_WITHIN: Duration = Duration::from_secs(10);
const SILENT_FOR: Duration = Duration::from_mins(5);
const MAX_FORMER_HOSTS: u64 = 100;

/// How long one check of the backup's login counts.
const LOGIN_CHECKED_FOR: Duration = Duration::from_secs(10);

/// How long it is remembered that the backup refused a copy: as long as such a copy is not tried again.
const DENIED_FOR: Duration = Duration::from_mins(5);

/// Copies remembered as seen: more than the images of a large cluster, at about 200 bytes each.
const MAX_SEEN: u64 = 10_000;

/// Shortest time between two log lines about the backup registry: every request of the policy may find the same outage.
const OUTAGE_LOG_EVERY: Duration = Duration::from_secs(30);

/// How long after a failed lookup it is known whether the backup registry can be used at all.
const PROBED_WITHIN: Duration = Duration::from_secs(8);

const NO_BUDGET: &str = "the daily budget of new images is used up";

type Seen = Cache<ImageRef<'static>, Digest<'static>>;

/// What is mirrored. Clones share what they know.
#[derive(Clone)]
pub struct Lookup {
    images: Arc<Locations>,
    registry: Registry,
    seen: Seen,
    /// Images of which no copy was found a moment ago.
    missed: Cache<ImageRef<'static>, ()>,
    losses: Losses,
    lookups: Arc<Semaphore>,
    parts: Parts,
    /// Images whose copies the backup refused to accept.
    denied: Cache<ImageRef<'static>, ()>,
    /// Whether the backup accepts the login, or works without one.
    login: Cache<(), bool>,
    budgets: NamespaceBudgets,
    queue: CopyQueue<Recorder>,
    health: BackupHealth,
    /// Whoever asks for images does not read why the backup registry gives no response.
    outage: Arc<Throttle>,
}

/// Copies images and remembers that their copies are there.
struct Recorder {
    images: Arc<Locations>,
    seen: Seen,
    parts: Parts,
    denied: Cache<ImageRef<'static>, ()>,
    health: BackupHealth,
    /// Hosts of former backups that did not respond.
    silent_former: Cache<String, ()>,
    losses: Losses,
    budgets: NamespaceBudgets,
    metrics: Metrics,
}

/// Why a copy was not seen.
#[derive(Debug)]
enum Unseen {
    Missing,
    /// Its tag is there, and something below it is not.
    Incomplete,
    Broken(RegistryError),
    TooSlow,
}

impl Lookup {
    /// A lookup of the backup that `images` names, which makes `parallel` copies at a time and counts what it does.
    #[must_use]
    pub fn new(images: Arc<Locations>, parallel: NonZeroUsize, metrics: Metrics) -> Self {
        let seen = Cache::builder()
            .max_capacity(MAX_SEEN)
            .time_to_live(SEEN_FOR)
            .build();
        let budgets = NamespaceBudgets::new(metrics.clone());
        let losses = Losses::new();
        let parts = Parts::new(images.backup_registry().clone());
        let denied = Cache::builder()
            .max_capacity(MAX_SEEN)
            .time_to_live(DENIED_FOR)
            .build();
        let health = BackupHealth::new(images.backup_registry().clone());
        let recorder = Recorder {
            losses: losses.clone(),
            parts: parts.clone(),
            denied: denied.clone(),
            health: health.clone(),
            silent_former: Cache::builder()
                .max_capacity(MAX_FORMER_HOSTS)
                .time_to_live(SILENT_FOR)
                .build(),
            budgets: budgets.clone(),
            images: Arc::clone(&images),
            seen: seen.clone(),
            metrics: metrics.clone(),
        };
        Self {
            registry: images.backup_registry().clone(),
            seen,
            missed: Cache::builder()
                .max_capacity(MAX_SEEN)
                .time_to_live(MISSED_FOR)
                .build(),
            losses,
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            parts,
            denied,
            login: Cache::builder()
                .max_capacity(1)
                .time_to_live(LOGIN_CHECKED_FOR)
                .build(),
            budgets,
            queue: CopyQueue::new(recorder, parallel, metrics),
            health,
            outage: Arc::new(Throttle::new(OUTAGE_LOG_EVERY)),
            images,
        }
    }

    /// The registry that holds the copies.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether the backup registry can be used.
    #[must_use]
    pub fn health(&self) -> &BackupHealth {
        &self.health
    }

    /// Where copies go and what they are called.
    #[must_use]
    pub fn backup(&self) -> &Backup {
        self.images.backup()
    }

    /// Where copies were before.
    #[must_use]
    pub fn former_backups(&self) -> &FormerBackups {
        self.images.former_backups()
    }

    /// How many new images namespaces may have copied, and what the policy asks for.
    #[must_use]
    pub fn budgets(&self) -> &NamespaceBudgets {
        &self.budgets
    }

    /// How many images wait to be copied, are being copied, and rest after a failure.
    #[must_use]
    pub fn jobs(&self) -> Jobs {
        self.queue.counts()
    }

    /// Whether `image` is mirrored; with [`Mode::Ensure`] it is copied if not.
    ///
    /// # Errors
    /// [`Refusal`] is the answer for now.
    pub async fn image(
        &self,
        image: &ImageRef<'static>,
        mode: Mode,
    ) -> Result<ImageStatus<'static>, Refusal<'static>> {
        if self.images.contains(image) {
            return Ok(ImageStatus::InBackup {
                secret: None,
                is_former: self.backup().original(image).is_none(),
            });
        }
        let failed = |reason: &dyn ToString| Refusal::new(RefusalKind::Failed, &reason.to_string());
        let copy = self
            .images
            .backup()
            .target(image)
            .map_err(|error| failed(&error))?;
        // While its first copy is being made, the backup registry need not be asked each time. But another replica may be
        // faster than a long queue here.
        if self.queue.is_awaited(image) && self.missed.contains_key(image) {
            let status = self.ask(image, Task::Copy);
            return Err(self.refusal(image, status));
        }
        let digest = self.find(image, &copy, mode).await?;
        Ok(ImageStatus::Mirrored {
            image: copy,
            digest,
            secret: None,
        })
    }

    /// From now on so many images in use are remembered as copies to make: of one namespace, and of all.
    pub fn limit_in_use(&self, of_namespace: usize, of_all: usize) {
        self.queue.limit_in_use(of_namespace, of_all);
    }

    /// The record of running copies, which somebody else stores.
    #[must_use]
    pub fn crash_record(&self) -> &CrashRecord {
        self.queue.crash_record()
    }

    /// Stops all copies.
    pub async fn shutdown(&self) {
        self.queue.shutdown().await;
    }

    /// The digest of the copy. The look goes on when the answer cannot wait for it, and what it finds is not lost: a copy
    /// is remembered, a missing one is asked for.
    async fn find(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        mode: Mode,
    ) -> Result<Digest<'static>, Refusal<'static>> {
        if let Some(digest) = self.seen.get(image).await {
            if !self.lacks_parts(copy, &digest) {
                return Ok(digest);
            }
            self.seen.invalidate(image).await;
        }
        let Ok(permit) = Arc::clone(&self.lookups).try_acquire_owned() else {
            return Err(unavailable(
                "many questions wait for the slow backup registry",
            ));
        };
        let (lookup, image, copy) = (self.clone(), image.clone(), copy.clone());
        let look = tokio::spawn(async move {
            let _permit = permit;
            let asked_at = Instant::now();
            let look = lookup.look(&image, &copy, mode);
            let found = match mode {
                Mode::Ensure => Box::pin(lookup.seen.try_get_with(image.clone(), look)).await,
                // The parts were not checked, so nobody else may rely on it.
                Mode::Peek => look.await.map_err(Arc::new),
            };
            let found = match found {
                // The check of its parts may have ended just before it was remembered.
                Ok(digest) if lookup.lacks_parts(&copy, &digest) => {
                    lookup.seen.invalidate(&image).await;
                    Err(Arc::new(Unseen::Incomplete))
                }
                found => found,
            };
            if matches!(
                found.as_ref().map_err(|unseen| &**unseen),
                Err(Unseen::Missing | Unseen::Incomplete)
            ) {
                lookup.missed.insert(image.clone(), ()).await;
                lookup.losses.missing(&image, asked_at);
            }
            found.map_err(|unseen| match &*unseen {
                Unseen::Missing => lookup.missing(&image, Task::Copy, mode),
                Unseen::Incomplete => lookup.missing(&image, Task::Restore, mode),
                Unseen::TooSlow => lookup.too_slow("the backup registry does not answer"),
                Unseen::Broken(error) => {
                    lookup.report_failed_lookup(error);
                    unavailable(&error.public_text("the backup registry"))
                }
            })
        });
        match timeout(ANSWER_WITHIN, look).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unavailable("the query to the backup registry was aborted")),
            Err(_) => Err(self.too_slow("the backup registry is slow to answer")),
        }
    }

    /// The registry may respond fast with errors, after which the request is sent again.
    fn too_slow(&self, otherwise: &str) -> Refusal<'static> {
        let failure = self
            .registry
            .last_failure(Operation::ReadManifest, LOOKUP_WITHIN);
        match failure {
            Some(failure) => unavailable(&failure.public),
            None => unavailable(otherwise),
        }
    }

    /// Logs why a copy cannot be looked up, unless the state of the backup registry explains it, which is logged by itself.
    fn report_failed_lookup(&self, error: &RegistryError) {
        self.health.suspect();
        let Some(times) = self.outage.count() else {
            return;
        };
        let (health, error) = (self.health.clone(), error.to_string());
        tokio::spawn(async move {
            tokio::time::sleep(PROBED_WITHIN).await;
            if health.is_in_trouble() {
                tracing::debug!(error, "cannot look up copies in the backup registry");
            } else {
                tracing::warn!(
                    error,
                    times,
                    "cannot look up copies in the backup registry; check the registry and its credentials"
                );
            }
        });
    }

    /// Whether parts of the copy that `copy` names, which is this digest, were missing a while ago.
    fn lacks_parts(&self, copy: &ImageRef<'static>, digest: &Digest<'static>) -> bool {
        engine_digest(digest).is_some_and(|digest| self.parts.is_incomplete(copy.path(), &digest))
    }

    /// Looks for the copy: by its tag, or for a pinned image by the anchor that keeps its digest from being collected.
    async fn look(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        mode: Mode,
    ) -> Result<Digest<'static>, Unseen> {
        let tag = match copy.digest() {
            Some(digest) => anchor_tag(digest),
            None => copy.tag().unwrap_or_default().to_owned(),
        };
        let reference = TagOrDigest::Tag(tag);
        let found = timeout(LOOKUP_WITHIN, self.resolve(copy.path(), &reference))
            .await
            .map_err(|_| Unseen::TooSlow)
            .and_then(|found| found.map_err(Unseen::Broken));
        let has_failed = match &found {
            Ok(_) => false,
            Err(Unseen::Broken(error)) => error.retry().is_transient(),
            Err(_) => true,
        };
        let is_limit = matches!(&found, Err(Unseen::Broken(error)) if is_rate_limit(error));
        if !is_limit {
            self.parts.record_lookup(has_failed);
        }
        let found = found?.ok_or(Unseen::Missing)?;
        let digest = contract_digest(&found.digest).ok_or(Unseen::Missing)?;
        if copy.digest().is_some_and(|wanted| *wanted != digest) {
            return Err(Unseen::Missing);
        }
        let has_parts = if self.parts.is_whole(copy.path(), &found.digest) {
            true
        } else {
            match mode {
                Mode::Ensure => self.has_parts(image, copy, found).await?,
                Mode::Peek => !self.parts.is_incomplete(copy.path(), &found.digest),
            }
        };
        has_parts.then_some(digest).ok_or(Unseen::Incomplete)
    }

    /// What the backup has under this reference. Many registries do not show what is missing, and respond with 401 or 403
    /// instead. If they accept the login otherwise, the image counts as missing, and the upload decides.
    async fn resolve(
        &self,
        repository: &str,
        reference: &TagOrDigest,
    ) -> Result<Option<Resolved>, RegistryError> {
        match self.registry.resolve_to_write(repository, reference).await {
            Err(error) if error.is_denied() && self.accepts_login().await => {
                tracing::debug!(repository, %error, "backup registry refused the request for a copy; it counts as missing");
                Ok(None)
            }
            result => result,
        }
    }

    /// Whether the backup registry accepts the login, or works without one.
    async fn accepts_login(&self) -> bool {
        let ping = async { self.registry.ping().await.is_ok() };
        self.login.get_with((), ping).await
    }

    /// Whether the parts of a copy are there, as far as can be known soon. What is unknown counts as there: configs and
    /// layers that take long to check, and what the backup does not respond to; unless the copy is known to lack
    /// something, such as its anchor, which is written before the tag.
    async fn has_parts(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        root: Resolved,
    ) -> Result<bool, Unseen> {
        let repository = copy.path().to_owned();
        let was_incomplete = self.parts.is_incomplete(&repository, &root.digest);
        let was_whole = self.parts.was_whole(&repository, &root.digest);
        let Some(permit) = self.parts.permit() else {
            return Ok(!was_incomplete);
        };
        let (lookup, image) = (self.clone(), image.clone());
        let anchor = copy.digest().is_none().then(|| anchor(&root.digest));
        let check = async move {
            let plan = |turn| PartsPlan { turn, skip: 0 };
            let nothing = plan(Turn::Nothing);
            let manifests = lookup
                .parts
                .check(&repository, &root, nothing, Pacing::Immediate);
            let anchor = lookup.lacks_anchor(&repository, anchor, &root.digest);
            let (manifests, lacks_anchor) = tokio::join!(manifests, anchor);
            let is_in_doubt = was_incomplete || lacks_anchor;
            match manifests {
                Ok(Completeness::Complete { .. } | Completeness::Unfinished { .. }) => {}
                found => {
                    let is_there = lookup
                        .concludes(&image, &repository, &root.digest, found, was_incomplete)
                        .await;
                    return Ok(is_there);
                }
            }
            let rest = tokio::spawn(async move {
                let _permit = permit;
                let everything = plan(Turn::Everything);
                let found = lookup
                    .parts
                    .check(&repository, &root, everything, Pacing::Lookup)
                    .await;
                let is_there = lookup
                    .concludes(&image, &repository, &root.digest, found, was_incomplete)
                    .await;
                if !is_there {
                    lookup.seen.invalidate(&image).await;
                }
                is_there
            });
            let patience = if is_in_doubt {
                LOOKUP_WITHIN
            } else if was_whole {
                RECHECK_WITHIN
            } else {
                FIRST_CHECK_WITHIN
            };
            match timeout(patience, rest).await {
                Ok(Ok(is_there)) => Ok(is_there),
                _ if is_in_doubt => Err(Unseen::TooSlow),
                _ => Ok(true),
            }
        };
        let result = timeout(LOOKUP_WITHIN, check).await;
        result.unwrap_or(Err(Unseen::TooSlow))
    }

    /// Whether a copy has no anchor, or one that stands for something else. An anchor that cannot be looked for counts as
    /// being there.
    async fn lacks_anchor(
        &self,
        repository: &str,
        anchor: Option<String>,
        digest: &mirror_copy::Digest,
    ) -> bool {
        let Some(anchor) = anchor else { return false };
        let reference = TagOrDigest::Tag(anchor);
        let found = self.registry.resolve_to_write(repository, &reference);
        found
            .await
            .is_ok_and(|found| found.is_none_or(|found| found.digest != *digest))
    }

    /// Returns whether the copy is whole as far as is known; has it restored if not.
    async fn concludes(
        &self,
        image: &ImageRef<'static>,
        repository: &str,
        digest: &mirror_copy::Digest,
        found: Result<Completeness, RegistryError>,
        was_incomplete: bool,
    ) -> bool {
        match found {
            Ok(Completeness::Complete { .. }) => true,
            Ok(Completeness::Unfinished { .. }) => !was_incomplete,
            Ok(Completeness::Missing(part)) => {
                self.parts
                    .report_missing(image, repository, digest, &part)
                    .await;
                self.ask(image, Task::Restore);
                false
            }
            Err(error) => {
                tracing::debug!(%image, %error, "cannot check the parts of a copy");
                !was_incomplete
            }
        }
    }

    fn ask(&self, image: &ImageRef<'static>, task: Task) -> Status {
        self.queue.request(image, task, &Requester::Admission)
    }

    fn missing(&self, image: &ImageRef<'static>, task: Task, mode: Mode) -> Refusal<'static> {
        let is_new = task == Task::Copy && self.queue.status(image).is_none();
        let status = match mode {
            Mode::Ensure if is_new && !self.budgets.allows_asked(Instant::now()) => {
                return no_budget();
            }
            Mode::Ensure => Some(self.ask(image, task)),
            Mode::Peek => self.queue.status(image),
        };
        match status {
            Some(status) => self.refusal(image, status),
            None => Refusal::new(RefusalKind::Pending, "not mirrored yet"),
        }
    }

    fn refusal(&self, image: &ImageRef<'static>, status: Status) -> Refusal<'static> {
        match status {
            // That is no property of the image.
            Status::Failed { .. } if self.denied.contains_key(image) => {
                unavailable("the backup registry denies uploads")
            }
            status => refusal(status),
        }
    }
}

/// Pending, like a full queue: the image is copied later.
fn no_budget() -> Refusal<'static> {
    Refusal::new(RefusalKind::Pending, NO_BUDGET)
}

fn unavailable(reason: &str) -> Refusal<'static> {
    Refusal::new(RefusalKind::Unavailable, reason)
}

fn refusal(status: Status) -> Refusal<'static> {
    match status {
        Status::Pending(progress) => Refusal::new(RefusalKind::Pending, &progress),
        Status::Failed { reason, .. } => Refusal::new(RefusalKind::Failed, &reason),
        // Not "unavailable": somebody who floods the queue must not choose which of the policy's rules applies.
        Status::Full => Refusal::new(RefusalKind::Pending, "too many images wait to be copied"),
    }
}

/// Whether the source has no such image, or shows none to us: many registries refuse to say that a name is not taken.
fn is_unseen(error: &CopyError) -> bool {
    match error {
        CopyError::SourceMissing { .. } | CopyError::Source(RegistryError::LoginNeeded { .. }) => {
            true
        }
        CopyError::Source(error) => matches!(error.status(), Some(401 | 403 | 404)),
        _ => false,
    }
}

/// Whether the registry is there and wants fewer requests.
fn is_rate_limit(error: &RegistryError) -> bool {
    error.status() == Some(429) || matches!(error, RegistryError::Quota { .. })
}

/// Whether the original is gone, as far as can be told: its registry has no such image, shows none to us, or does not
/// accept connections. A busy registry will have the image later, and its tag may have moved since the former copy was made.
fn is_gone(error: &CopyError) -> bool {
    match error {
        CopyError::Source(RegistryError::Transport { source, .. }) => source.is_connect(),
        error => is_unseen(error) && !error.retry().is_transient(),
    }
}

impl Recorder {
    /// Remembers whether the backup refused a copy.
    async fn record_denial(
        &self,
        image: &ImageRef<'static>,
        repository: &str,
        copied: &Result<CopyReport, CopyError>,
    ) {
        match copied {
            Err(CopyError::Target(error)) if error.is_denied() => {
                self.denied.insert(image.clone(), ()).await;
                self.health.upload_denied(repository, error);
            }
            Err(_) => self.denied.invalidate(image).await,
            Ok(report) => {
                self.denied.invalidate(image).await;
                if report.manifests > 0 {
                    self.health.uploaded(repository);
                }
            }
        }
    }

    /// Whether the state of the backup registry explains why an image was not copied; that is logged by itself.
    fn is_reported(&self, error: &CopyError) -> bool {
        let CopyError::Target(error) = error else {
            return false;
        };
        self.health.suspect();
        error.is_denied() || self.health.is_in_trouble()
    }

    /// A copy that was made although its original lacks parts (`copy --allow-sparse`) cannot become better. Whatever the
    /// copy lacks and the original has stays missing.
    async fn accept_incomplete(&self, source: &Source, target: &Target) {
        let Ok(Some(original)) = source
            .registry
            .resolve(&source.repository, &source.reference)
            .await
        else {
            return;
        };
        let (repository, reference) = (&target.repository, source.reference.clone());
        let reference = target.tag.clone().map_or(reference, TagOrDigest::Tag);
        let found = target.registry.resolve_to_write(repository, &reference);
        let Ok(Some(root)) = found.await else { return };
        if root.digest != original.digest {
            return;
        }
        let plan = PartsPlan {
            turn: Turn::Everything,
            skip: 0,
        };
        loop {
            let found = self
                .parts
                .check(repository, &root, plan, Pacing::Lookup)
                .await;
            let Ok(Completeness::Missing(part)) = found else {
                return;
            };
            let has_part = source.registry.has_part(&source.repository, &part).await;
            if !matches!(has_part, Ok(false)) {
                return;
            }
            tracing::debug!(repository, digest = %root.digest, %part, "the original lacks this part as well");
            if !self
                .parts
                .original_lacks(repository, &root.digest, part)
                .await
            {
                return;
            }
        }
    }

    /// Copies an image whose original is gone from its copy in a former backup. Returns `None` if there is none.
    async fn copy_from_former_backup(
        &self,
        image: &ImageRef<'static>,
        target: &Target,
        options: &CopyOptions,
        progress: &dyn Progress,
    ) -> Option<CopyReport> {
        for source in self.images.former_copies(image) {
            if !self.has_former_copy(&source).await {
                continue;
            }
            match copy(&source, target, options, progress).await {
                Ok(report) => {
                    tracing::info!(%image, from = source.repository, "copied image from a former backup");
                    return Some(report);
                }
                Err(error) => {
                    tracing::debug!(%image, %error, "cannot copy from a former backup");
                }
            }
        }
        None
    }

    /// Whether a former backup has this copy. One that does not respond is not asked again for a while.
    async fn has_former_copy(&self, source: &Source) -> bool {
        let host = source.registry.host();
        if self.silent_former.contains_key(host) {
            return false;
        }
        let found = source
            .registry
            .resolve(&source.repository, &source.reference);
        let is_silent = match timeout(ASK_FORMER_WITHIN, found).await {
            Ok(Ok(found)) => return found.is_some(),
            Ok(Err(error)) => {
                tracing::debug!(host, %error, "cannot look up copy in a former backup");
                error.retry().is_transient()
            }
            Err(_) => {
                tracing::debug!(host, within = ?ASK_FORMER_WITHIN, "former backup does not respond");
                true
            }
        };
        if is_silent {
            self.silent_former.insert(host.to_owned(), ()).await;
        }
        false
    }
}

impl Copier for Recorder {
    async fn copy(
        &self,
        image: &ImageRef<'static>,
        task: Task,
        progress: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        // What is wrong with a name is there to be read in it.
        let permanent = |reason: String| Failure {
            reason: reason.into(),
            retry: Retry::Permanent,
            is_absent: false,
            is_reported: false,
        };
        if task == Task::Copy
            && let Err(after) = self.budgets.allows(image, Instant::now())
        {
            return Err(Failure {
                reason: NO_BUDGET.to_owned().into(),
                retry: Retry::Transient { after: Some(after) },
                is_absent: false,
                is_reported: true,
            });
        }
        let source = self
            .images
            .source(image)
            .map_err(|error| permanent(error.to_string()))?;
        let target = self
            .images
            .target(image)
            .map_err(|error| permanent(error.to_string()))?;
        if let Some(after) = self.losses.pause(image, Instant::now()) {
            return Err(Failure {
                reason: "the backup registry keeps losing the copy of this image; check its clean-up rules and storage"
                    .into(),
                retry: Retry::Transient { after: Some(after) },
                is_absent: false,
                is_reported: true,
            });
        }
        let progress = self.metrics.counting(progress);
        let charging = self.budgets.charging(image, &progress);
        // What was lost is put back whatever it costs.
        let progress: &dyn Progress = match task {
            Task::Restore => &progress,
            Task::Copy | Task::Update => &charging,
        };
        let options = CopyOptions {
            // Whoever removed the copy may have removed parts of it, too.
            trust_present: task != Task::Restore,
            ..self.images.options()
        };
        let copied = match copy(&source, &target, &options, progress).await {
            Err(error) if is_gone(&error) && task != Task::Update => self
                .copy_from_former_backup(image, &target, &options, progress)
                .await
                .ok_or(error),
            copied => copied,
        };
        self.record_denial(image, &target.repository, &copied).await;
        if let (Task::Restore, Err(CopyError::SourceIncomplete { .. })) = (task, &copied) {
            let accepting = self.accept_incomplete(&source, &target);
            let _ = timeout(ACCEPT_WITHIN, accepting).await;
        }
        let report = copied.map_err(|error| Failure {
            reason: Reason {
                public: error.public_text(&source.registry),
                detail: error.to_string(),
            },
            retry: error.retry(),
            is_absent: is_unseen(&error),
            is_reported: self.is_reported(&error),
        })?;
        if report.is_verified() {
            self.parts.copied(&target.repository, &report.digest).await;
        }
        if report.manifests > 0 {
            self.losses.copied(image, Instant::now());
            if task == Task::Copy {
                self.budgets.copied(image, Instant::now());
            }
        }
        if report.is_verified()
            && let Some(digest) = contract_digest(&report.digest)
        {
            self.seen.insert(image.clone(), digest).await;
        }
        Ok(report)
    }

    fn source_state(&self, image: &ImageRef<'static>) -> SourceState {
        let Ok(source) = self.images.source(image) else {
            return SourceState::default();
        };
        SourceState {
            address: source.registry.address_group(),
            is_paused: source.registry.is_paused(),
        }
    }
}
