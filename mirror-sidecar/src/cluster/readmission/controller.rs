//! Sends workloads through admission again, by patching one annotation of theirs.
//!
//! Which and when is decided elsewhere: [`Index::candidate`](super::super::Index::due) and [`Readmissions`]. This module tries by a dry
//! run, patches what that helps, and tells what came of it.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use mirror_contract::{Mode, RefusalKind};
use tokio::time::{Instant, sleep, sleep_until};

use super::patch::{Effect, Patch, ReadmitError};
use crate::cluster::api_server::ApiServer;
use crate::cluster::copy_status::CopyStatuses;
use crate::cluster::events::{About, Events, Notice};
use crate::cluster::index::{Candidate, Index, SyncState};
use crate::cluster::loop_guard::Loop;
use crate::cluster::pull_secrets::Provision;
use crate::cluster::readmission::policy::{News, Outcome, Readmissions, works_since};
use crate::cluster::replicas::Replicas;
use crate::cluster::shared_index::SharedIndex;
use crate::cluster::workload::Key;
use crate::cluster::workload_kind::Kind;
use crate::metrics::Metrics;

/// Rest between two looks at the whole index: a first list of the cluster is thousands of changes.
const REST: Duration = Duration::from_secs(2);

/// How long a pull Secret may take. Usually it is some milliseconds.
const SECRET_WITHIN: Duration = Duration::from_secs(10);

/// Between two looks at it.
const SECRET_POLL: Duration = Duration::from_millis(200);

/// How long the policy server may use responses of the process before this one, in which copies and the pull Secret can have
/// other names (Kubewarden caches them for a minute).
const FORMER_RESPONSES_LAST: Duration = Duration::from_secs(62);

/// Between two reports of workloads that are left alone. The Event is written once an hour.
const REPORT_EVERY: Duration = Duration::from_mins(2);

/// What is looked at, and who is told.
#[derive(Clone)]
pub struct ReadmissionController {
    /// The API server, with the right to patch workloads.
    pub server: ApiServer,
    /// Who uses which image.
    pub cluster: Arc<SharedIndex>,
    /// Which images have copies.
    pub copy_status: CopyStatuses,
    /// Whose work it is.
    pub replicas: Replicas,
    /// Tells of workloads that were not rewritten.
    pub events: Events,
    /// Counts.
    pub metrics: Metrics,
    /// What there is to say about pull Secrets.
    pub secrets: Provision,
    /// The namespace of this process, if it is known.
    pub home: Option<String>,
}

impl ReadmissionController {
    /// Patches what is due, as `readmissions` lets it, for ever. Sleeps while nothing changes and nothing is under way.
    pub async fn run(self, mut readmissions: Readmissions) {
        let started = Timestamp::now();
        let renames_from = Instant::now() + FORMER_RESPONSES_LAST;
        let mut index = self.cluster.subscribe();
        let mut copies = self.copy_status.subscribe();
        let mut shares = self.replicas.subscribe();
        let mut report_at = Instant::now();
        loop {
            let report_again = self.report(&mut report_at);
            while let Some(candidate) = self.next(&mut readmissions, started, renames_from) {
                self.send(&mut readmissions, &candidate).await;
            }
            let now = Instant::now();
            let again = readmissions.look_again(now.into_std());
            let renames_from = Some(renames_from.into_std()).filter(|from| *from > now.into_std());
            let again = again.into_iter().chain(renames_from).min();
            // The senders live as long as `self`, so that no wait ends in an error.
            let change = async {
                tokio::select! {
                    _ = index.changed() => {}
                    _ = copies.changed() => {}
                    _ = shares.changed() => {}
                }
                sleep(REST).await;
            };
            // What is due at a time need not wait for the rest: each patch is a change of the index itself.
            tokio::select! {
                () = change => {}
                () = until(again) => {}
                () = until(report_again) => {}
            }
        }
    }

    /// Reports workloads that are left alone for a reason that people should know, again and again; returns when to do so
    /// next.
    fn report(&self, report_at: &mut Instant) -> Option<std::time::Instant> {
        let now = Instant::now();
        if *report_at <= now {
            let found = self.cluster.read(Index::of_other_installations);
            let loops = self.cluster.all_loops();
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
            *report_at = now + REPORT_EVERY;
        }
        Some(report_at.into_std())
    }

    fn report_loop(&self, found: &Loop) {
        let (namespace, owner) = (&*found.namespace, &found.owner);
        if self
            .events
            .tell(owner.about(namespace), Notice::RewriteLoop)
        {
            tracing::warn!(
                namespace,
                kind = &*owner.kind,
                name = &*owner.name,
                "its Pods are deleted and re-created again and again after a rewrite, so it is left alone for a day; add \
                 image-mirror.dev/skip: \"true\" to its Pod template, or its owner to policy.settings.skipOwners"
            );
        }
    }

    fn report_other_installation(&self, key: &Key, uid: &str, copy: &str) {
        let notice = Notice::OtherInstallation {
            copy: copy.to_owned(),
        };
        if self.events.tell(About::workload(key, uid), notice) {
            tracing::warn!(
                namespace = &*key.namespace,
                copy,
                "another installation of image-mirror has rewritten workloads of this namespace, which are left alone; \
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
        self.cluster.read(|index| {
            readmissions.follow(index);
            // Each namespace may be one that is being deleted. No other kind holds anything up: what is told of the rest is
            // true all the same.
            if index.list_state(Kind::Namespace) != SyncState::Complete {
                return None;
            }
            let works_since = works_since(index, started, self.home.as_deref());
            readmissions.next(self.candidates(index, may_rename), works_since, now)
        })
    }

    /// What is due, and this replica's work.
    fn candidates(&self, index: &Index, may_rename: bool) -> impl Iterator<Item = Candidate> {
        let candidate = index.candidates(|image| self.copy_status.copy_state(image));
        candidate
            .filter(|candidate| self.replicas.owns(&format!("workload/{}", candidate.uid)))
            .filter(|candidate| !self.cluster.is_in_loop(&candidate.key))
            .filter(move |candidate| may_rename || !index.has_former_names(&candidate.key))
    }

    async fn send(&self, readmissions: &mut Readmissions, candidate: &Candidate) {
        let workload = &candidate.key;
        let result = self.try_and_patch(readmissions, candidate).await;
        if let Some(reason) = result.as_ref().err().and_then(ReadmitError::refusal) {
            let about = About::workload(workload, &candidate.uid);
            self.events
                .tell(about, Notice::ReadmissionRefused { reason });
        }
        let (outcome, remaining) = match result {
            Ok(effect) if effect.is_helped => (Outcome::Rewritten, effect.remaining),
            Ok(effect) => (Outcome::Unchanged, effect.remaining),
            Err(error) => (error.outcome(), Vec::new()),
        };
        if outcome == Outcome::Rewritten {
            tracing::info!(%workload, "sent through admission again");
        }
        self.metrics.readmission(outcome);
        match readmissions.ended(candidate, outcome, Instant::now().into_std()) {
            None => {}
            Some(News::NotRewritten) => {
                tracing::info!(%workload, "the policy leaves its images although there are copies");
                let images = remaining.iter().map(ToString::to_string).collect();
                let about = About::workload(workload, &candidate.uid);
                self.events.tell(about, Notice::NotRewritten { images });
            }
            Some(News::NothingIsRewritten) => tracing::warn!(
                "the policy rewrites no workload: is it installed, does it reach this sidecar, do its rules name UPDATE? \
                 Workloads are tried seldom until that helps"
            ),
        }
    }

    /// What another admission did, or would do if that is nothing.
    async fn try_and_patch(
        &self,
        readmissions: &mut Readmissions,
        candidate: &Candidate,
    ) -> Result<Effect, ReadmitError> {
        self.provide_secret(candidate).await?;
        let patch = Patch::new(&self.server, candidate);
        let effect = patch.try_out().await?;
        if !effect.is_helped {
            return Ok(effect);
        }
        readmissions.patching(self.replicas.live(), Instant::now().into_std());
        patch.send().await
    }

    /// Makes the pull Secret first. The policy waits for it only for a moment, and would leave the images then.
    async fn provide_secret(&self, candidate: &Candidate) -> Result<(), ReadmitError> {
        let Provision::Managed(secrets) = &self.secrets else {
            return Ok(());
        };
        let key = &candidate.key;
        let until = Instant::now() + SECRET_WITHIN;
        loop {
            match secrets.answer(&key.namespace, Mode::Ensure).await {
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

/// Never, without a time.
async fn until(time: Option<std::time::Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
