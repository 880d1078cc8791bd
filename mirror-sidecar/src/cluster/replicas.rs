//! Shares the work among replicas.
//!
//! Each replica holds a Lease and watches those of the others ([`join`], [`lease`]). The owner of each piece of work follows
//! from the names of the live replicas ([`membership`]), so replicas need not talk to each other. Periodic work is shared
//! this way; a request of the policy is handled by the replica that gets it.

mod join;
mod lease;
mod membership;
mod metrics;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use crate::copy_queue::CrashRecord;
pub use lease::Group;
use membership::Membership;
pub use metrics::ReplicaMetrics;

/// Timeout for the hand-over at the end: the copies must still be stopped within the grace period.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The live replicas, and the work that each of them owns. Clones share the state.
///
/// No caller may depend on exactly one owner: for some seconds a piece of work may have two, or none. A replica that cannot
/// reach the API server soon sees no other replica and does all of the work, while the others do its share, too. Copying an
/// image twice is harmless; not copying it is not.
#[derive(Clone, Debug)]
pub struct Replicas {
    team: Option<Arc<Team>>,
    changed: watch::Sender<()>,
}

/// This replica among the others.
#[derive(Debug)]
struct Team {
    members: Mutex<Membership>,
    /// Where the others reach the admin port of this replica; stored in its Lease.
    address: watch::Sender<Option<SocketAddr>>,
    /// The Lease stays when this replica leaves, for its successor in this process.
    keeps_lease: AtomicBool,
    leave: CancellationToken,
    left: CancellationToken,
}

/// The state that the tasks share.
#[derive(Clone)]
struct Context {
    server: ApiServer,
    replicas: Replicas,
    team: Arc<Team>,
    metrics: ReplicaMetrics,
    /// The running copies; stored in the Leases.
    crash_record: CrashRecord,
}

impl Replicas {
    /// A single replica, which owns all work.
    #[must_use]
    pub fn alone() -> Self {
        Self {
            team: None,
            changed: watch::Sender::new(()),
        }
    }

    /// Returns whether this replica owns the work that `key` names: `image/<reference>`, `namespace/<name>`,
    /// `secret/<namespace>`, `workload/<uid>`, `webhook/<name>`.
    #[must_use]
    pub fn owns(&self, key: &str) -> bool {
        match &self.team {
            None => true,
            Some(team) => team.members().owns(key, now()),
        }
    }

    /// Returns the name of the replica that owns the work that `key` names; `None` if it is not known, or this is the only one.
    #[must_use]
    pub fn owner(&self, key: &str) -> Option<String> {
        self.team.as_ref()?.members().owner(key, now())
    }

    /// Publishes the address of the admin port of this replica in its Lease.
    pub fn advertise(&self, address: SocketAddr) {
        if let Some(team) = &self.team {
            team.address.send_replace(Some(address));
        }
    }

    /// The name of this replica; `None` if it is the only one.
    #[must_use]
    pub fn own_name(&self) -> Option<String> {
        Some(self.team.as_ref()?.members().own_name().to_owned())
    }

    /// The other live replicas with the addresses of their admin ports, as far as their Leases have these.
    #[must_use]
    pub fn others(&self) -> Vec<(String, Option<SocketAddr>)> {
        let team = self.team.as_ref();
        team.map_or_else(Vec::new, |team| team.members().live_others(now()))
    }

    /// The number of replicas that share the work, this one included.
    #[must_use]
    pub fn live(&self) -> usize {
        let team = self.team.as_ref();
        team.map_or(1, |team| team.members().count(now()))
    }

    /// Notifies of changes of the shares.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Gives up all work, and deletes the own Lease so that the others take over immediately. Returns when that is done, or
    /// after [`LEAVE_TIMEOUT`]; then the others take over when the Lease expires.
    pub async fn leave(&self) {
        let Some(team) = &self.team else {
            return;
        };
        team.members().leave();
        self.notify();
        team.leave.cancel();
        if timeout(LEAVE_TIMEOUT, team.left.cancelled()).await.is_err() {
            tracing::warn!(
                "cannot delete the Lease of this replica in time; the other replicas take over when it expires. Check the API server"
            );
        }
    }

    /// Gives up all work without a pause for the others: another one in this process renews the same Lease.
    pub fn retire(&self) {
        if let Some(team) = &self.team {
            team.keeps_lease.store(true, Ordering::Relaxed);
            team.members().leave();
            self.notify();
            team.leave.cancel();
        }
    }

    fn notify(&self) {
        self.changed.send_replace(());
    }
}

impl Team {
    fn members(&self) -> MutexGuard<'_, Membership> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The local clock, which tests may pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Context {
    /// Notifies subscribers if the shares changed.
    fn refresh(&self) {
        let changed = self.team.members().refresh(now());
        for name in self.team.members().take_lost(now()) {
            self.crash_record.adopt(&name);
        }
        if let Some(live) = changed {
            tracing::info!(
                members = live.join(","),
                "replicas changed, work redistributed"
            );
            self.metrics.replicas(live.len());
            self.replicas.notify();
        }
    }
}
