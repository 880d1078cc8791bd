//! Joins the other replicas: holds the own Lease until this replica leaves, watches those of the others, and deletes those
//! of replicas that are gone for good.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, PartialObjectMeta, Preconditions};
use kube::runtime::watcher::{self, Config, Event, watcher};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::lease::{Group, LeaseError, OwnLease, PREFIX, RENEW_INTERVAL, admin_address, record};
use super::membership::{DURATION, Dead, Membership};
use super::metrics::ReplicaMetrics;
use super::{Context, Replicas, Team, now};
use crate::backoff::Backoff;
use crate::cluster::api_server::{ApiServer, is_unreachable};
use crate::copy_queue::CrashRecord;

/// Shortest time between two writes of the Lease because a copy starts.
const RECORD_INTERVAL: Duration = Duration::from_millis(250);

/// A stream that is silent for this long is dead: it delivers the own renewals.
const SILENCE: Duration = RENEW_INTERVAL.saturating_mul(4);

/// Backoff before a broken stream is opened again, with a list. There are only a few Leases.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// Other replicas may be noticed this much later.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

const DELETE_TIMEOUT: Duration = Duration::from_secs(2);

/// For this type the client requests names and resource versions only.
type Metadata = PartialObjectMeta<Lease>;

impl Replicas {
    /// Shares the work with the other replicas of `group` in `namespace`, under a name that no other replica has, until
    /// [`Self::leave`] or [`Self::retire`]. The Lease carries `crash_record`. Does not wait for the API server; until the others
    /// are known, but for a few seconds at most, this replica owns nothing.
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
            address: watch::Sender::new(None),
            keeps_lease: AtomicBool::new(false),
            leave: CancellationToken::new(),
            left: CancellationToken::new(),
        });
        let replicas = Self {
            team: Some(Arc::clone(&team)),
            changed: watch::Sender::new(()),
        };
        let server = server.into();
        let context = Context {
            server: server.clone(),
            replicas: replicas.clone(),
            team,
            metrics,
            crash_record: crash_record.clone(),
        };
        let api = Api::<Lease>::namespaced(server.client().clone(), namespace);
        let lease = OwnLease::new(api, name, group, crash_record);
        let others = Api::namespaced(server.client().clone(), namespace);
        let selector = group.selector();
        tokio::spawn(async move {
            // Also when a task panics: nobody waits for one that is gone.
            let _left = context.team.left.clone().drop_guard();
            let watching = context
                .team
                .leave
                .run_until_cancelled(watch_others(&context, others, &selector));
            tokio::join!(hold(&context, lease), watching);
        });
        replicas
    }
}

/// Renews the own Lease until this replica leaves, then deletes it.
async fn hold(context: &Context, mut lease: OwnLease) {
    let leaving = &context.team.leave;
    let mut address = context.team.address.subscribe();
    let mut held_until: Option<Instant> = None;
    let mut is_failing = false;
    // Failures that an outage explains are no reason to warn.
    let mut is_in_outage = false;
    let mut ticks = interval(RENEW_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = async {
            let early = async {
                // Copies that start meanwhile are stored with it.
                sleep(RECORD_INTERVAL).await;
                context.crash_record.waits_to_be_stored().await;
            };
            tokio::select! {
                _ = ticks.tick() => {}
                // Its sender lives as long as the team.
                _ = address.changed(), if !is_failing => {}
                () = early, if !is_failing => {}
            }
        };
        if leaving.run_until_cancelled(next).await.is_none() {
            break;
        }
        // Other replicas count from when they see the renewal, which is later.
        let requested_at = now();
        // Never cancelled: a renewal that arrives after the deletion would create the Lease again.
        let advertised = *address.borrow_and_update();
        match lease.renew(advertised).await {
            Ok(()) => {
                context.server.responded();
                is_in_outage = false;
                held_until = Some(requested_at + DURATION);
                if std::mem::take(&mut is_failing) {
                    tracing::info!("renewed Lease of this replica again");
                }
            }
            Err(error) if context.explains(&error, !is_in_outage) => {
                is_in_outage = true;
                tracing::debug!(%error, "cannot renew Lease of this replica");
            }
            Err(error) if !std::mem::replace(&mut is_failing, true) => {
                tracing::warn!(%error, "cannot renew Lease of this replica; check the API server and the permissions of mirror-sidecar. After 15 s the other replicas take over its work as well");
            }
            Err(error) => tracing::debug!(%error, "cannot renew Lease of this replica"),
        }
        let is_held = held_until.is_some_and(|until| now() < until);
        context.metrics.lease_held(is_held);
    }
    if context.team.keeps_lease.load(Ordering::Relaxed) {
        return;
    }
    match lease.remove().await {
        Ok(()) => tracing::info!("handed work over to the other replicas"),
        Err(error) => {
            tracing::warn!(%error, "cannot delete Lease of this replica; the other replicas take over when it expires. Check the API server and the permissions of mirror-sidecar");
        }
    }
    context.metrics.lease_held(false);
}

/// Watches the Leases of the group. Never returns.
async fn watch_others(context: &Context, api: Api<Metadata>, selector: &str) {
    let mut backoff = Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF);
    loop {
        if let Err(error) = follow(context, &api, selector, &mut backoff).await {
            if backoff.failures() == 0 && !is_outage(&error) {
                tracing::warn!(%error, "cannot watch Leases of the other replicas; check the API server and the permissions of mirror-sidecar. Meanwhile this replica does all work");
            } else {
                tracing::debug!(%error, "cannot watch Leases of the other replicas");
            }
        }
        backoff.fail(now().into());
        while let Some(end) = backoff.until(now().into()) {
            context.refresh();
            let next_change = context.team.members().next_change(now());
            sleep_until(next_change.map_or(end, |next| end.min(next.into()))).await;
        }
        context.refresh();
    }
}

/// Follows one stream to its end. Each event ends the backoff.
async fn follow(
    context: &Context,
    api: &Api<Metadata>,
    selector: &str,
    backoff: &mut Backoff,
) -> Result<(), Box<watcher::Error>> {
    let mut stream = pin!(watcher(api.clone(), Config::default().labels(selector)));
    let mut listed = BTreeSet::new();
    let mut silent_at = now() + SILENCE;
    loop {
        let next_change = context.team.members().next_change(now());
        let wake = next_change.map_or(silent_at, |next| next.min(silent_at));
        match timeout_at(wake.into(), stream.next()).await {
            Ok(Some(Ok(event))) => {
                // The beginning of a list is announced before any request.
                if !matches!(event, Event::Init) {
                    silent_at = now() + SILENCE;
                    backoff.succeed();
                }
                context.apply(event, &mut listed);
            }
            Ok(Some(Err(error))) => return Err(Box::new(error)),
            Ok(None) => return Ok(()),
            Err(_) if silent_at <= now() => {
                tracing::debug!("watch of Leases is silent, even about the own one; restarting it");
                return Ok(());
            }
            Err(_) => {}
        }
        context.refresh();
        let dead = context.team.members().take_dead(now());
        for lease in dead {
            delete(api, &lease).await;
        }
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

    fn apply(&self, event: Event<Metadata>, listed: &mut BTreeSet<String>) {
        let mut members = self.team.members();
        match event {
            Event::Init => listed.clear(),
            Event::InitDone => {
                let listed = std::mem::take(listed);
                members.listed(&listed);
                self.crash_record.keep(|name| listed.contains(name));
            }
            Event::Delete(lease) => {
                if let Some((name, _)) = replica(&lease) {
                    members.deleted(name);
                    self.crash_record.forget(name);
                }
            }
            Event::InitApply(ref lease) | Event::Apply(ref lease) => {
                let Some((name, version)) = replica(lease) else {
                    return;
                };
                if let Event::InitApply(_) = event {
                    listed.insert(name.to_owned());
                }
                // The Lease of a replica that crashed does not change until it is deleted, and its record is known then.
                let is_news = members.seen(name, version, now());
                members.set_address(name, admin_address(&lease.metadata));
                if is_news {
                    self.crash_record.observe(name, record(&lease.metadata));
                }
            }
        }
    }
}

/// Returns whether an outage of the API server explains the error.
fn is_outage(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(source)
        | watcher::Error::WatchStartFailed(source)
        | watcher::Error::WatchFailed(source) => is_unreachable(source),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => false,
    }
}

/// The name of the replica whose Lease this is, and the Lease's resource version.
fn replica(lease: &Metadata) -> Option<(&str, &str)> {
    let name = lease.metadata.name.as_deref()?.strip_prefix(PREFIX)?;
    Some((name, lease.metadata.resource_version.as_deref()?))
}

/// Deletes a Lease unless it changed meanwhile. Another replica may do the same.
async fn delete(api: &Api<Metadata>, dead: &Dead) {
    let params = DeleteParams::default().preconditions(Preconditions {
        resource_version: Some(dead.version.clone()),
        uid: None,
    });
    let name = format!("{PREFIX}{}", dead.name);
    match timeout(DELETE_TIMEOUT, api.delete(&name, &params)).await {
        Ok(Ok(_)) => {
            tracing::info!(lease = name, "deleted Lease of a replica that is gone");
        }
        Ok(Err(error)) => tracing::debug!(lease = name, %error, "cannot delete Lease; retrying"),
        Err(_) => tracing::debug!(lease = name, "cannot delete Lease in time; retrying"),
    }
}
