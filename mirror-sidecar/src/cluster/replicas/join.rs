//! Joining the other replicas, and keeping the own Lease until this one leaves.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::sync::watch as channel;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::group::{DURATION, Group, RENEW_EVERY};
use super::lease::{LeaseError, OwnLease};
use super::membership::Membership;
use super::metrics::ReplicaMetrics;
use super::watch::watch;
use super::{Context, Replicas, Team, now};
use crate::cluster::api_server::ApiServer;
use crate::copy_queue::CrashRecord;

/// Shortest time between two writes of the Lease because a copy starts.
const RECORD_EVERY: Duration = Duration::from_millis(250);

impl Replicas {
    /// Shares the work with the other replicas of `group` in `namespace`, under a name that no other replica has, until
    /// [`Self::leave`]. An API server that does not answer is waited for in the background; until the others are known,
    /// but for a few seconds at most, this replica owns nothing.
    #[must_use]
    pub fn join(
        server: impl Into<ApiServer>,
        namespace: &str,
        name: &str,
        group: &Group,
        metrics: ReplicaMetrics,
        crash_record: CrashRecord,
    ) -> Self {
        let team = Arc::new(Team {
            members: Mutex::new(Membership::new(name, now())),
            leave: CancellationToken::new(),
            left: CancellationToken::new(),
        });
        let replicas = Self {
            team: Some(Arc::clone(&team)),
            changed: channel::Sender::new(()),
        };
        let server = server.into();
        let context = Context {
            server: server.clone(),
            replicas: replicas.clone(),
            team,
            metrics,
            crash_record: crash_record.clone(),
        };
        crash_record.persist();
        let api = Api::<Lease>::namespaced(server.client().clone(), namespace);
        let lease = OwnLease::new(api, name, group, crash_record);
        let others = Api::namespaced(server.client().clone(), namespace);
        let selector = group.selector();
        tokio::spawn(async move {
            // Also when a task panics: nobody waits for one that is gone.
            let _left = context.team.left.clone().drop_guard();
            let team = Arc::clone(&context.team);
            let watch = team
                .leave
                .run_until_cancelled(watch(&context, others, &selector));
            tokio::join!(hold(&context, lease), watch);
        });
        replicas
    }
}

impl Context {
    /// Records that a renewal failed; returns whether an outage of the API server explains it.
    fn explains(&self, error: &LeaseError, is_first: bool) -> bool {
        if error.is_unreachable() {
            self.server.failed(error);
            return is_first || self.server.is_away();
        }
        matches!(error, LeaseError::Refused { source, .. } if self.server.explains(source, false))
    }
}

/// Keeps the own Lease alive until this replica leaves, and deletes it then.
async fn hold(context: &Context, mut lease: OwnLease) {
    let leaving = &context.team.leave;
    let mut held_until: Option<Instant> = None;
    let mut failing = false;
    let mut failures = 0_u32;
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_failing = failing;
        let next = async {
            let early = async {
                // What starts meanwhile is stored with it.
                sleep(RECORD_EVERY).await;
                context.crash_record.waits_to_be_stored().await;
            };
            tokio::select! {
                _ = ticks.tick() => {}
                () = early, if !is_failing => {}
            }
        };
        if leaving.run_until_cancelled(next).await.is_none() {
            break;
        }
        // Others count from when they see the renewal, which is later.
        let asked_at = now();
        // Never broken off: a renewal that arrives after the deletion would make the Lease again.
        match lease.renew().await {
            Ok(()) => {
                context.server.responded();
                failures = 0;
                held_until = Some(asked_at + DURATION);
                if std::mem::take(&mut failing) {
                    tracing::info!("renewed Lease of this replica again");
                }
            }
            Err(error) if context.explains(&error, failures == 0) => {
                failures = failures.saturating_add(1);
                tracing::debug!(%error, "cannot renew Lease of this replica");
            }
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(%error, "cannot renew Lease of this replica; check the API server and the permissions of mirror-sidecar. After 15 s the other replicas take over its work as well");
            }
            Err(error) => tracing::debug!(%error, "cannot renew Lease of this replica"),
        }
        let is_held = held_until.is_some_and(|until| now() < until);
        context.metrics.lease_held(is_held);
    }
    match lease.remove().await {
        Ok(()) => tracing::info!("handed work over to the other replicas"),
        Err(error) => {
            tracing::warn!(%error, "cannot delete Lease of this replica; the other replicas take over when it expires. Check the API server and the permissions of mirror-sidecar");
        }
    }
    context.metrics.lease_held(false);
}
