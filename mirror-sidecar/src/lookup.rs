//! Looks up whether an image is mirrored.
//!
//! The backup registry is the source of truth: an image counts as mirrored only for a short time after this process has
//! seen its copy there. The parts of a copy are checked once a day, and after an outage of the backup. A request for a
//! missing image adds it to the copy queue. Every request gets a response within [`ANSWER_WITHIN`], whatever the backup
//! registry does.

mod completeness;
mod copier;
mod losses;
mod parts;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mirror_contract::naming::anchor_tag;
use mirror_contract::{Backup, BackupName, Digest, ImageRef, ImageStatus, Mode, Refusal};
use mirror_copy::{Operation, Registry, RegistryError, Resolved, TagOrDigest};
use moka::future::Cache;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{Instant, timeout};

use crate::backup_health::BackupHealth;
use crate::copy_queue::{
    CopyMetrics, CopyProgress, CopyQueue, Counts, Requester, SharedQueue, Status, Task,
};
use crate::locations::{Locations, contract_digest, engine_digest};
use crate::logging::Throttle;
use crate::namespace_budget::NamespaceBudgets;
use crate::origin::BackupOrigin;
pub use copier::BackupCopier;
pub(crate) use copier::is_unseen;
use copier::{NO_BUDGET, Seen};
use losses::Losses;
use parts::Parts;
pub use parts::{PartsPlan, Turn};

/// Longest time until the response. The policy's whole budget is 800 ms by default, and the host needs a part of it.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(400);

/// Longest time for a request to the backup registry, which continues after the response `unavailable`.
const LOOKUP_WITHIN: Duration = Duration::from_secs(10);

/// Concurrent lookups in the backup registry. The host sends one request at a time, so more mean that the registry is
/// stuck, and one more would only wait as well.
const MAX_LOOKUPS: usize = 64;

/// How long a copy counts as present after it was seen. The host caches the response for another minute.
const SEEN_FOR: Duration = Duration::from_secs(30);

/// How long a copy counts as missing after a lookup, while its job is in the queue.
const MISSED_FOR: Duration = Duration::from_secs(10);

/// How long the result of a check of the backup's login is cached.
const LOGIN_CHECKED_FOR: Duration = Duration::from_secs(10);

/// How long a refused upload is remembered: as long as the backoff of such a copy.
const DENIED_FOR: Duration = Duration::from_mins(5);

/// Size of the caches: more than the images of a large cluster, at about 200 bytes each.
const MAX_SEEN: u64 = 10_000;

/// Shortest time between two log lines about failed lookups: every request of the policy may meet the same outage.
const OUTAGE_LOG_EVERY: Duration = Duration::from_secs(30);

/// Time after a failed lookup in which a health probe ends.
const PROBED_WITHIN: Duration = Duration::from_secs(8);

/// Looks up copies in the backup and requests missing ones. Clones share their caches.
#[derive(Clone)]
pub struct Lookup {
    name: BackupName<'static>,
    images: Arc<Locations>,
    registry: Registry,
    seen: Seen,
    /// Images whose copy was not found in the last [`MISSED_FOR`].
    missed: Cache<ImageRef<'static>, ()>,
    losses: Losses,
    lookups: Arc<Semaphore>,
    parts: Parts,
    /// Images whose uploads the backup refused.
    denied: Cache<ImageRef<'static>, ()>,
    /// The backup accepts the login, or works without one.
    login: Cache<(), bool>,
    budgets: NamespaceBudgets,
    queue: CopyQueue<BackupCopier>,
    health: BackupHealth,
    /// Limits log lines, since clients do not see the reason of a failed lookup.
    outage: Arc<Throttle>,
}

/// The copy queue that the lookups in all backups share.
pub type SharedCopyQueue = SharedQueue<BackupCopier>;

/// The reason why no complete copy was found.
#[derive(Debug)]
enum Unseen {
    Missing,
    /// The tag exists, but parts of the copy do not.
    Incomplete,
    Broken(RegistryError),
    TooSlow,
}

impl Lookup {
    /// Creates a lookup in the backup of `images` that makes `parallel` copies at a time.
    #[must_use]
    pub fn new(
        images: Arc<Locations>,
        parallel: NonZeroUsize,
        budgets: &NamespaceBudgets,
        metrics: &CopyMetrics,
    ) -> Self {
        let queue = SharedQueue::new(parallel);
        let origin = BackupOrigin::default();
        Self::of_backup(images, origin, None, &queue, budgets, metrics)
    }

    /// Creates a lookup in one of several backups, that of `images`. Missing copies are added to `queue`, which runs at most
    /// `max_parallel` copies to this backup at a time.
    #[must_use]
    pub fn of_backup(
        images: Arc<Locations>,
        origin: BackupOrigin,
        max_parallel: Option<NonZeroUsize>,
        queue: &SharedCopyQueue,
        budgets: &NamespaceBudgets,
        metrics: &CopyMetrics,
    ) -> Self {
        let name = origin.name();
        let budgets = budgets.of_backup(name.clone());
        let metrics = metrics.of_backup(&name);
        let seen = Cache::builder()
            .max_capacity(MAX_SEEN)
            .time_to_live(SEEN_FOR)
            .build();
        let losses = Losses::new();
        let parts = Parts::new(images.backup_registry().clone());
        let denied = Cache::builder()
            .max_capacity(MAX_SEEN)
            .time_to_live(DENIED_FOR)
            .build();
        let health = BackupHealth::new(images.backup_registry().clone(), origin);
        let recorder = BackupCopier {
            losses: losses.clone(),
            parts: parts.clone(),
            denied: denied.clone(),
            health: health.clone(),
            silent_former: copier::silent_hosts(),
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
            queue: queue.add(name.clone(), recorder, max_parallel, metrics),
            name,
            health,
            outage: Arc::new(Throttle::new(OUTAGE_LOG_EVERY)),
            images,
        }
    }

    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    #[must_use]
    pub fn health(&self) -> &BackupHealth {
        &self.health
    }

    /// Returns the health of the registry `host`, if the backup is there.
    #[must_use]
    pub fn health_at(&self, host: &str) -> Option<&BackupHealth> {
        self.backup().is_at(host).then_some(&self.health)
    }

    /// The name of the backup.
    #[must_use]
    pub fn name(&self) -> &BackupName<'static> {
        &self.name
    }

    #[must_use]
    pub fn backup(&self) -> &Backup {
        self.images.backup()
    }

    #[must_use]
    pub fn locations(&self) -> &Arc<Locations> {
        &self.images
    }

    /// The daily budgets of new images.
    #[must_use]
    pub fn budgets(&self) -> &NamespaceBudgets {
        &self.budgets
    }

    pub fn update_metrics(&self) {
        self.queue.update_metrics();
    }

    /// Returns the mirror status of `image`; with [`Mode::Ensure`], a missing copy is requested.
    ///
    /// # Errors
    /// [`Refusal`] if there is no copy yet, or it cannot be looked up.
    pub async fn image(
        &self,
        image: &ImageRef<'static>,
        mode: Mode,
    ) -> Result<ImageStatus<'static>, Refusal<'static>> {
        if self.images.contains(image) {
            return Ok(ImageStatus::InBackup {
                secret: None,
                is_former: self.backup().original(image).is_none(),
                is_unavailable: self
                    .health_at(image.host())
                    .is_some_and(BackupHealth::is_unavailable),
            });
        }
        let copy = self.backup().target(image);
        let copy = copy.map_err(|error| Refusal::failed(&error.to_string()))?;
        // While the first copy is being made, not every request checks the backup. Some do, since another replica may be
        // faster than a long queue here.
        if self.queue.is_awaited(image) && self.missed.contains_key(image) {
            let status = self.request(image, Task::Copy);
            return Err(self.refusal(image, status));
        }
        let digest = self.find(image, &copy, mode).await?;
        Ok(ImageStatus::Mirrored {
            image: copy,
            digest,
            secret: None,
        })
    }

    /// Returns whether the registry of the backup, which `image` is in, has not responded to several probes in a row.
    #[must_use]
    pub fn is_unavailable(&self, image: &ImageRef<'_>) -> bool {
        self.health.is_unavailable() && self.backup().is_at(image.host())
    }

    /// Sets how many images in use the queue holds, for one namespace and in total.
    pub fn limit_in_use(&self, of_namespace: usize, of_all: usize) {
        self.queue.limit_in_use(of_namespace, of_all);
    }

    /// Returns the status of the copy job of `image`; `None` if there is none.
    #[must_use]
    pub fn job(&self, image: &ImageRef<'static>) -> Option<Status> {
        self.queue.status(image)
    }

    /// Returns whether images from the registry of `image` were copied recently.
    pub(crate) fn has_proven_source(&self, image: &ImageRef<'_>) -> bool {
        self.queue.has_proven_source(image)
    }

    /// Returns the progress of the running copy of `image`; `None` if it does not run.
    #[must_use]
    pub fn progress(&self, image: &ImageRef<'static>) -> Option<CopyProgress> {
        self.queue.progress(image)
    }

    /// Returns the images whose copies run.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<ImageRef<'static>>> {
        self.queue.running()
    }

    /// Returns how many copies wait, run and back off.
    #[must_use]
    pub fn job_counts(&self) -> Counts {
        self.queue.counts()
    }

    /// Receives the image of each attempt to copy that ended. A receiver that lags behind must check the [`Self::job`] of
    /// all images.
    #[must_use]
    pub fn attempts(&self) -> broadcast::Receiver<ImageRef<'static>> {
        self.queue.ended()
    }

    /// Requests a copy of an image that these namespaces use. It gets its slot in their turns.
    #[must_use]
    pub fn copy_in_use(
        &self,
        image: &ImageRef<'static>,
        task: Task,
        namespaces: Vec<Arc<str>>,
    ) -> Status {
        let requester = Requester::Namespaces(namespaces);
        self.queue.request(image, task, &requester)
    }

    /// Adds namespaces to the copy job of `image`, if there is one.
    pub fn join_in_use(&self, image: &ImageRef<'static>, namespaces: Vec<Arc<str>>) {
        if self.queue.status(image).is_some() {
            let _ = self.copy_in_use(image, Task::Copy, namespaces);
        }
    }

    /// Stops all copies.
    pub async fn shutdown(&self) {
        self.queue.shutdown().await;
    }

    /// Returns the digest of the copy. A request that outlasts [`ANSWER_WITHIN`] continues in the background: a copy that
    /// it finds is cached, a missing one is requested.
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
            return Err(Refusal::unavailable(
                "too many requests wait for the backup registry",
            ));
        };
        let (lookup, image, copy) = (self.clone(), image.clone(), copy.clone());
        let lookup_task = tokio::spawn(async move {
            let _permit = permit;
            let asked_at = Instant::now();
            let found = lookup.resolve_copy(&image, &copy, mode);
            let found = match mode {
                Mode::Ensure => Box::pin(lookup.seen.try_get_with(image.clone(), found)).await,
                // The parts were not checked, so the result is not cached.
                Mode::Peek => found.await.map_err(Arc::new),
            };
            let found = match found {
                // The check of its parts may have ended just before it was cached.
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
                Unseen::TooSlow => lookup.too_slow("the backup registry does not respond"),
                Unseen::Broken(error) => {
                    lookup.report_failed_lookup(error);
                    Refusal::unavailable(&error.public_text("the backup registry"))
                }
            })
        });
        match timeout(ANSWER_WITHIN, lookup_task).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Refusal::unavailable(
                "the query to the backup registry was aborted",
            )),
            Err(_) => Err(self.too_slow("the backup registry responds too slowly")),
        }
    }

    /// Names the last error if the registry responded with errors and the request was retried.
    fn too_slow(&self, otherwise: &str) -> Refusal<'static> {
        let failure = self
            .registry
            .last_failure(Operation::ReadManifest, LOOKUP_WITHIN);
        match failure {
            Some(failure) => Refusal::unavailable(&failure.public),
            None => Refusal::unavailable(otherwise),
        }
    }

    /// Logs the failure of a lookup, unless the health of the backup registry explains it, which is logged elsewhere.
    fn report_failed_lookup(&self, error: &RegistryError) {
        self.health.suspect();
        let Some(times) = self.outage.count() else {
            return;
        };
        let (health, error) = (self.health.clone(), error.to_string());
        tokio::spawn(async move {
            tokio::time::sleep(PROBED_WITHIN).await;
            let backup = health.backup();
            if health.is_in_trouble() {
                tracing::debug!(
                    error,
                    backup,
                    "cannot look up copies in the backup registry"
                );
            } else {
                tracing::warn!(
                    error,
                    backup,
                    times,
                    "cannot look up copies in the backup registry; check the registry and its credentials"
                );
            }
        });
    }

    /// The last check found that parts of this digest are missing.
    fn lacks_parts(&self, copy: &ImageRef<'static>, digest: &Digest<'static>) -> bool {
        engine_digest(digest).is_some_and(|digest| self.parts.is_incomplete(copy.path(), &digest))
    }

    /// Resolves the tag of the copy, or for an image with a digest its anchor, and checks the parts.
    async fn resolve_copy(
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

    /// Resolves a reference in the backup. Many registries respond with 401 or 403 to a request for a missing repository. If
    /// they accept the login otherwise, the image counts as missing, and the upload decides.
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

    /// Returns whether the backup accepts the login, or works without one.
    pub(crate) async fn accepts_login(&self) -> bool {
        let ping = async { self.registry.ping().await.is_ok() };
        self.login.get_with((), ping).await
    }

    /// Records that the tag and the anchor of a copy have this digest. Lookups check its parts if they are not known to be
    /// complete.
    pub(crate) async fn record_found(
        &self,
        image: &ImageRef<'static>,
        copy: &ImageRef<'static>,
        digest: &Digest<'static>,
    ) {
        let found = engine_digest(digest);
        if found.is_some_and(|found| self.parts.is_whole(copy.path(), &found)) {
            self.seen.insert(image.clone(), digest.clone()).await;
        }
    }

    /// Records that the backup had no copy at this time.
    pub(crate) async fn record_missing(&self, image: &ImageRef<'static>, asked_at: Instant) {
        self.seen.invalidate(image).await;
        self.losses.missing(image, asked_at);
    }

    fn request(&self, image: &ImageRef<'static>, task: Task) -> Status {
        self.queue.request(image, task, &Requester::Admission)
    }

    fn missing(&self, image: &ImageRef<'static>, task: Task, mode: Mode) -> Refusal<'static> {
        let is_new = task == Task::Copy && self.queue.status(image).is_none();
        let status = match mode {
            Mode::Ensure if is_new && !self.budgets.allows_request(Instant::now()) => {
                return no_budget();
            }
            Mode::Ensure => Some(self.request(image, task)),
            Mode::Peek => self.queue.status(image),
        };
        match status {
            Some(status) => self.refusal(image, status),
            None => Refusal::pending("not mirrored yet"),
        }
    }

    fn refusal(&self, image: &ImageRef<'static>, status: Status) -> Refusal<'static> {
        match status {
            // The failure is not specific to the image.
            Status::Failed { .. } if self.denied.contains_key(image) => {
                Refusal::unavailable("the backup registry denies uploads")
            }
            status => refusal(status),
        }
    }
}

/// `pending`, like a full queue: the image is copied later.
fn no_budget() -> Refusal<'static> {
    Refusal::pending(NO_BUDGET)
}

fn refusal(status: Status) -> Refusal<'static> {
    match status {
        Status::Pending(progress) => Refusal::pending(&progress),
        Status::Failed { reason, .. } => Refusal::failed(&reason),
        // Not `unavailable`: a tenant who floods the queue must not choose which setting of the policy applies.
        Status::Full => Refusal::pending("too many images wait to be copied"),
    }
}

/// The registry works but wants fewer requests.
fn is_rate_limit(error: &RegistryError) -> bool {
    error.status() == Some(429) || matches!(error, RegistryError::Quota { .. })
}
