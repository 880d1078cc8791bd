//! The loop of readmissions: patches one annotation of a workload.
//!
//! [`Index::candidates`](super::super::Index::candidates) and [`Readmissions`] decide which workload and when. This
//! module does the dry run, patches the workload if the dry run has an effect, and reports the result.

#[cfg(test)]
mod tests;

use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::jiff::Timestamp;
use mirror_contract::{ImageRef, Mode, RefusalKind};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::metrics::ReadmissionMetrics;
use super::patch::{Effect, Patch, ReadmitError};
use crate::backups::ByBackup;
use crate::cluster::api_server::ApiServer;
use crate::cluster::copy_status::CopyStatuses;
use crate::cluster::events::{About, Events, Notice};
use crate::cluster::index::{Candidate, Index, SyncState, candidates_in};
use crate::cluster::loop_guard::Loop;
use crate::cluster::pull_secrets::Provision;
use crate::cluster::readmission::policy::{News, Outcome, Readmissions, works_since};
use crate::cluster::replicas::Replicas;
use crate::cluster::shared_index::Indexes;
use crate::cluster::workload::Key;
use crate::cluster::workload_kind::Kind;
use crate::target_lookup::TargetLookup;

/// Shortest time between two passes over the index: the first list of a cluster is thousands of changes.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);

/// Timeout for a pull Secret. It usually takes some milliseconds.
const SECRET_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for the targets of rewrites. They have the image already.
const TARGETS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the pull Secret is polled.
const SECRET_POLL: Duration = Duration::from_millis(200);

/// How long the policy server may use cached responses of the previous process, in which copies and the pull Secret can
/// have other names (Kubewarden caches them for a minute).
const FORMER_RESPONSES_LAST: Duration = Duration::from_secs(62);

/// Interval between reports of skipped workloads. The Event is written once an hour.
const REPORT_INTERVAL: Duration = Duration::from_mins(2);

#[derive(Clone)]
pub struct ReadmissionController {
    /// The API server, with the permission to patch workloads.
    pub server: ApiServer,
    pub indexes: Indexes,
    pub copy_status: ByBackup<CopyStatuses>,
    pub targets: TargetLookup,
    pub replicas: Replicas,
    pub events: Events,
    pub metrics: ReadmissionMetrics,
    pub secrets: Provision,
    /// The namespace of this process, if known.
    pub own_namespace: Option<String>,
}

impl ReadmissionController {
    /// Patches candidates as `readmissions` allows. Sleeps while nothing changes. Never returns.
    pub async fn run(self, mut readmissions: Readmissions) {
        let started = Timestamp::now();
        let renames_from = Instant::now() + FORMER_RESPONSES_LAST;
        let mut index = self.indexes.of_default().subscribe_any();
        let mut copies = self.copy_status.of_default().subscribe();
        let mut shares = self.replicas.subscribe();
        let mut report_at = Instant::now();
        loop {
            let report_again = self.report(&mut report_at);
            while let Some(candidate) = self.next(&mut readmissions, started, renames_from) {
                self.send(&mut readmissions, &candidate).await;
            }
            let now = Instant::now();
            let again = readmissions.recheck_at(now.into_std());
            let renames_from = Some(renames_from.into_std()).filter(|from| *from > now.into_std());
            let again = again.into_iter().chain(renames_from).min();
            // The senders live as long as `self`, so no wait ends in an error.
            let change = async {
                tokio::select! {
                    _ = index.changed() => {}
                    _ = copies.changed() => {}
                    _ = shares.changed() => {}
                }
                sleep(SYNC_INTERVAL).await;
            };
            // Timed work need not wait for the sync interval: each patch changes the index itself.
            tokio::select! {
                () = change => {}
                () = until(again) => {}
                () = until(report_again) => {}
            }
        }
    }

    /// Reports workloads that are skipped for a reason that operators should know; returns when to do so next.
    fn report(&self, report_at: &mut Instant) -> Option<std::time::Instant> {
        let now = Instant::now();
        if *report_at <= now {
            let cluster = self.indexes.of_default();
            let found = cluster.read(Index::of_other_installations);
            let loops = cluster.all_loops();
            if found.is_empty() && loops.is_empty() {
                return None;
            }
            for found in loops {
                if self.replicas.owns(&format!("workload/{}", found.owner.uid)) {
                    self.report_loop(&found);
                }
            }
            for (key, uid, copy) in found {
                if self.replicas.owns(&format!("namespace/{}", key.namespace)) {
                    self.report_other_installation(&key, &uid, &copy);
                }
            }
            *report_at = now + REPORT_INTERVAL;
        }
        Some(report_at.into_std())
    }

    fn report_loop(&self, found: &Loop) {
        let (namespace, owner) = (&*found.namespace, &found.owner);
        if self
            .events
            .report(owner.about(namespace), Notice::RewriteLoop)
        {
            tracing::warn!(
                namespace,
                kind = &*owner.kind,
                name = &*owner.name,
                "skipped readmission for a day: the Pods of this workload are deleted and re-created after each rewrite; add \
                 image-mirror.dev/skip: \"true\" to its Pod template, or its owner to policy.settings.skipOwners"
            );
        }
    }

    fn report_other_installation(&self, key: &Key, uid: &str, copy: &str) {
        let notice = Notice::OtherInstallation {
            copy: copy.to_owned(),
        };
        if self.events.report(About::workload(key, uid), notice) {
            tracing::warn!(
                namespace = &*key.namespace,
                copy,
                "skipped readmission: another installation of image-mirror has rewritten workloads of this namespace; \
                 exclude the namespace from one of the two, or name the backup with --former-backup to take over from it"
            );
        }
    }

    fn next(
        &self,
        readmissions: &mut Readmissions,
        started: Timestamp,
        renames_from: Instant,
    ) -> Option<Candidate> {
        let may_rename = Instant::now() >= renames_from;
        let now = Instant::now().into_std();
        if !readmissions.is_open(now) {
            return None;
        }
        self.indexes.read(|indexes| {
            readmissions.sync(indexes);
            // Any namespace may be terminating until all are listed. Other kinds need not be complete.
            let has_namespaces =
                |index: &&Index| index.sync_state(Kind::Namespace) == SyncState::Complete;
            if !indexes.iter().all(has_namespaces) {
                return None;
            }
            let works_since = works_since(indexes, started, self.own_namespace.as_deref());
            readmissions.next(self.candidates(indexes, may_rename), works_since, now)
        })
    }

    /// The candidates that this replica owns.
    fn candidates(&self, indexes: &[&Index], may_rename: bool) -> impl Iterator<Item = Candidate> {
        let copies = self.copy_status.values();
        let copies = copies.map(|copies| |image: &ImageRef<'static>| copies.copy_state(image));
        candidates_in(indexes.iter().copied().zip(copies))
            .filter(|candidate| self.replicas.owns(&format!("workload/{}", candidate.uid)))
            .filter(|candidate| !self.indexes.of_default().is_in_loop(&candidate.key))
            .filter(move |candidate| {
                let mut indexes = indexes.iter();
                may_rename || !indexes.any(|index| index.has_former_names(&candidate.key))
            })
    }

    async fn send(&self, readmissions: &mut Readmissions, candidate: &Candidate) {
        let workload = &candidate.key;
        let result = self.patch_if_effective(readmissions, candidate).await;
        if let Some(reason) = result.as_ref().err().and_then(ReadmitError::refusal) {
            let about = About::workload(workload, &candidate.uid);
            self.events
                .report(about, Notice::ReadmissionRefused { reason });
        }
        let (outcome, remaining) = match result {
            Ok(effect) if effect.is_effective => (Outcome::Rewritten, effect.remaining),
            Ok(effect) => (Outcome::Unchanged, effect.remaining),
            Err(error) => (error.outcome(), Vec::new()),
        };
        if outcome == Outcome::Rewritten {
            tracing::info!(%workload, "re-admitted workload");
        }
        self.metrics.readmission(outcome);
        match readmissions.record(candidate, outcome, Instant::now().into_std()) {
            None => {}
            Some(News::NotRewritten) => {
                tracing::info!(%workload, "policy does not rewrite the workload although copies of its images exist");
                let images = remaining.iter().map(ToString::to_string).collect();
                let about = About::workload(workload, &candidate.uid);
                self.events.report(about, Notice::NotRewritten { images });
            }
            Some(News::NothingIsRewritten) => tracing::warn!(
                "policy rewrites no workload; check that it is installed, that it reaches mirror-sidecar, and that its rules \
                 include UPDATE. Readmissions are slowed down until one has an effect"
            ),
        }
    }

    /// Patches the workload if the dry run has an effect; returns the effect of the last request.
    async fn patch_if_effective(
        &self,
        readmissions: &mut Readmissions,
        candidate: &Candidate,
    ) -> Result<Effect, ReadmitError> {
        self.provide_secret(candidate).await?;
        self.look_up_targets(candidate).await;
        let patch = Patch::new(&self.server, candidate);
        let effect = patch.dry_run().await?;
        if !effect.is_effective {
            return Ok(effect);
        }
        readmissions.reserve_patch(self.replicas.live(), Instant::now().into_std());
        patch.send().await
    }

    /// Looks up the images in the targets of rewrites first. The policy waits for a pull-through cache only briefly.
    async fn look_up_targets(&self, candidate: &Candidate) {
        let lookups = candidate
            .targets
            .iter()
            .map(|target| self.targets.check(target));
        let _ = timeout(TARGETS_TIMEOUT, join_all(lookups)).await;
    }

    /// Creates the pull Secret first. The policy waits for it only briefly, and would leave the images then.
    async fn provide_secret(&self, candidate: &Candidate) -> Result<(), ReadmitError> {
        let Provision::Managed(secrets) = &self.secrets else {
            return Ok(());
        };
        let key = &candidate.key;
        let until = Instant::now() + SECRET_TIMEOUT;
        loop {
            match secrets.request(&key.namespace, Mode::Ensure).await {
                Ok(()) => return Ok(()),
                Err(refusal) if refusal.kind == RefusalKind::Pending && Instant::now() < until => {
                    sleep(SECRET_POLL).await;
                }
                Err(refusal) => {
                    let key = Key::clone(key);
                    return Err(ReadmitError::Secret { key, refusal });
                }
            }
        }
    }
}

/// Never returns without a time.
async fn until(time: Option<std::time::Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
