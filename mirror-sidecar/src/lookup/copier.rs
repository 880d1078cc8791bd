//! Makes the copies of the copy queue, from the original or a former backup, and records their results for lookups.

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::{Digest, ImageRef};
use mirror_copy::{
    Completeness, CopyError, CopyOptions, CopyReport, Progress, RegistryError, Retry, Source,
    TagOrDigest, Target, copy,
};
use moka::future::Cache;
use tokio::time::{Instant, timeout};

use super::losses::Losses;
use super::parts::{Pacing, Parts, PartsPlan, Turn};
use crate::backup_health::BackupHealth;
use crate::copy_queue::{Copier, CopyMetrics, Failure, JobProgress, SourceState, Task};
use crate::locations::{Locations, contract_digest};
use crate::namespace_budget::NamespaceBudgets;
use crate::reason::Reason;

/// Longest time for the comparison of a copy with an original that lacks parts. It occupies a copy slot; a partial result
/// is kept.
const ACCEPT_WITHIN: Duration = Duration::from_mins(1);

/// Timeout of a lookup in a former backup, backoff after it, and number of hosts in backoff.
const ASK_FORMER_WITHIN: Duration = Duration::from_secs(10);
const SILENT_FOR: Duration = Duration::from_mins(5);
const MAX_FORMER_HOSTS: u64 = 100;

pub(super) const NO_BUDGET: &str = "the daily budget of new images is used up";

/// Copies that were seen in the backup recently, with their digests.
pub(super) type Seen = Cache<ImageRef<'static>, Digest<'static>>;

/// Copies images to the backup.
pub struct BackupCopier {
    pub(super) images: Arc<Locations>,
    pub(super) seen: Seen,
    pub(super) parts: Parts,
    pub(super) denied: Cache<ImageRef<'static>, ()>,
    pub(super) health: BackupHealth,
    /// Hosts of former backups in backoff.
    pub(super) silent_former: Cache<String, ()>,
    pub(super) losses: Losses,
    pub(super) budgets: NamespaceBudgets,
    pub(super) metrics: CopyMetrics,
}

/// The cache of hosts of former backups that are in backoff.
pub(super) fn silent_hosts() -> Cache<String, ()> {
    Cache::builder()
        .max_capacity(MAX_FORMER_HOSTS)
        .time_to_live(SILENT_FOR)
        .build()
}

impl BackupCopier {
    /// Records whether the backup refused the upload.
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

    /// The health of the backup registry, which is logged elsewhere, explains the failure.
    fn is_reported(&self, error: &CopyError) -> bool {
        let CopyError::Target(error) = error else {
            return false;
        };
        self.health.suspect();
        error.is_denied() || self.health.is_in_trouble()
    }

    /// Accepts that a copy lacks the parts that its original lacks (`copy --allow-sparse`). Parts that the original has stay
    /// missing.
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

    /// Returns whether a former backup has this copy. A host that does not respond gets a backoff.
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

impl Copier for BackupCopier {
    async fn copy(
        &self,
        image: &ImageRef<'static>,
        task: Task,
        progress: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        // The reason is public: it is in the name itself.
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
        if let Some(after) = self.losses.backoff(image, Instant::now()) {
            return Err(Failure {
                reason: "the backup registry keeps losing the copy of this image; check its clean-up rules and storage"
                    .into(),
                retry: Retry::Transient { after: Some(after) },
                is_absent: false,
                is_reported: true,
            });
        }
        let progress = self.metrics.counted(progress);
        let charging = self.budgets.charging(image, &progress);
        // Restoring a lost copy costs no budget.
        let progress: &dyn Progress = match task {
            Task::Restore => &progress,
            Task::Copy | Task::Update => &charging,
        };
        let options = CopyOptions {
            // Whatever removed the copy may have removed parts of it as well.
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

/// The source has no such image, or shows none to this client: many registries do not disclose that a name is free.
pub(crate) fn is_unseen(error: &CopyError) -> bool {
    match error {
        CopyError::SourceMissing { .. } | CopyError::Source(RegistryError::LoginNeeded { .. }) => {
            true
        }
        CopyError::Source(error) => matches!(error.status(), Some(401 | 403 | 404)),
        _ => false,
    }
}

/// The original is gone as far as is known: its registry has no such image, shows none to this client, or does not accept
/// connections. A busy registry does not count: it has the image later, and its tag may have moved since the former copy.
fn is_gone(error: &CopyError) -> bool {
    match error {
        CopyError::Source(RegistryError::Transport { source, .. }) => source.is_connect(),
        error => is_unseen(error) && !error.retry().is_transient(),
    }
}
