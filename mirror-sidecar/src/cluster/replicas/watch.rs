//! Watches the Leases of the group, and deletes those whose replicas are gone for good.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, PartialObjectMeta, Preconditions};
use kube::runtime::watcher;
use kube::runtime::watcher::{Config, Event};
use tokio::time::{sleep_until, timeout, timeout_at};

use super::group::{PREFIX, RENEW_EVERY};
use super::lease::record;
use super::membership::{Dead, Membership};
use super::{Context, now};
use crate::backoff::doubling;
use crate::cluster::api_server::is_unreachable;

/// A stream that is silent for so long is dead, whatever the network says: the own renewals come back through it.
const SILENCE: Duration = RENEW_EVERY.saturating_mul(4);

/// Pause before a stream that broke is opened again, with a list. There are only a few Leases. It is doubled as long as
/// that does not help.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest pause: so much later others may be seen again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Longest time to delete a Lease.
const DELETE_WITHIN: Duration = Duration::from_secs(2);

/// Names and resource versions are all that is asked for: for this type the client asks for nothing else.
type Metadata = PartialObjectMeta<Lease>;

/// Watches for ever.
pub(super) async fn watch(context: &Context, api: Api<Metadata>, selector: &str) {
    let mut vain = 0_u32;
    loop {
        if let Err(error) = follow(context, &api, selector, &mut vain).await {
            if vain == 0 && !is_outage(&error) {
                tracing::warn!(%error, "cannot watch Leases of the other replicas; check the API server and the permissions of mirror-sidecar. Meanwhile this replica does all work");
            } else {
                tracing::debug!(%error, "cannot watch Leases of the other replicas");
            }
        }
        vain = vain.saturating_add(1);
        rest(context, doubling(PAUSE, LONGEST_PAUSE, vain)).await;
    }
}

/// Returns whether an outage of the API server explains it.
fn is_outage(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(source)
        | watcher::Error::WatchStartFailed(source)
        | watcher::Error::WatchFailed(source) => is_unreachable(source),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => false,
    }
}

/// Waits, but not with telling that the shares changed.
async fn rest(context: &Context, pause: Duration) {
    let end = now() + pause;
    while now() < end {
        context.refresh();
        let next_change = context.team.members().next_change(now());
        sleep_until(next_change.map_or(end, |next| next.min(end)).into()).await;
    }
    context.refresh();
}

/// Follows one stream to its end. What comes through it ends the row of those in `vain`.
async fn follow(
    context: &Context,
    api: &Api<Metadata>,
    selector: &str,
    vain: &mut u32,
) -> Result<(), Box<watcher::Error>> {
    let mut stream = pin!(watcher(api.clone(), Config::default().labels(selector)));
    let mut listed = BTreeSet::new();
    let mut silent_at = now() + SILENCE;
    loop {
        let next_change = context.team.members().next_change(now());
        let wake = next_change.map_or(silent_at, |next| next.min(silent_at));
        match timeout_at(wake.into(), stream.next()).await {
            Ok(Some(Ok(event))) => {
                // The beginning of a list is announced before anything is asked.
                if !matches!(event, Event::Init) {
                    silent_at = now() + SILENCE;
                    *vain = 0;
                }
                take(context, event, &mut listed);
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

fn take(context: &Context, event: Event<Metadata>, listed: &mut BTreeSet<String>) {
    let mut members = context.team.members();
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(lease) => {
            if let Some((name, version)) = replica(&lease) {
                context.see(&mut members, name, version, &lease);
                listed.insert(name.to_owned());
            }
        }
        Event::InitDone => {
            let listed = std::mem::take(listed);
            members.listed(&listed);
            context.crash_record.keep(|name| listed.contains(name));
        }
        Event::Apply(lease) => {
            if let Some((name, version)) = replica(&lease) {
                context.see(&mut members, name, version, &lease);
            }
        }
        Event::Delete(lease) => {
            if let Some((name, _)) = replica(&lease) {
                members.gone(name);
                context.crash_record.forget(name);
            }
        }
    }
}

impl Context {
    fn see(&self, members: &mut Membership, name: &str, version: &str, lease: &Metadata) {
        // A Lease whose replica died stays as it is until it is deleted; what it says is known then.
        if members.seen(name, version, now()) {
            self.crash_record.observe(name, record(&lease.metadata));
        }
    }
}

/// The name of the replica whose Lease this is, and the Lease's resource version.
fn replica(lease: &Metadata) -> Option<(&str, &str)> {
    let name = lease.metadata.name.as_deref()?.strip_prefix(PREFIX)?;
    Some((name, lease.metadata.resource_version.as_deref()?))
}

/// Deletes a Lease unless it changed meanwhile. Several replicas do this; whoever is late finds nothing.
async fn delete(api: &Api<Metadata>, dead: &Dead) {
    let params = DeleteParams::default().preconditions(Preconditions {
        resource_version: Some(dead.version.clone()),
        uid: None,
    });
    let name = format!("{PREFIX}{}", dead.name);
    match timeout(DELETE_WITHIN, api.delete(&name, &params)).await {
        Ok(Ok(_)) => {
            tracing::info!(lease = name, "deleted Lease of a replica that is gone");
        }
        Ok(Err(error)) => tracing::debug!(lease = name, %error, "cannot delete Lease; retrying"),
        Err(_) => tracing::debug!(lease = name, "cannot delete Lease in time; retrying"),
    }
}
