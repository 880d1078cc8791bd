//! Which share of the work is this replica's.
//!
//! Each replica keeps a Lease of its own and watches those of the others ([`lease`], [`watch`]); who does what follows
//! from the names of those that live ([`members`]), so that nobody has to tell anybody. Work that nobody asked for is
//! shared this way; what the policy asks for is done by the replica that was asked.

mod group;
mod join;
mod lease;
mod membership;
mod metrics;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use crate::copy_queue::CrashRecord;
pub use group::Group;
use membership::Membership;
pub use metrics::ReplicaMetrics;

/// How long the hand-over may take at the end: the copies must still be stopped within the grace period.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// The live replicas, and what each of them does. Clones see the same.
///
/// Nothing may depend on a piece of work having one owner only: for some seconds it may have two, or none. A replica that
/// cannot reach the API server soon sees nobody else and does everything. So does the rest for it, and the images are
/// copied twice: that is harmless, and an image that nobody copies is not.
#[derive(Clone, Debug)]
pub struct Replicas {
    team: Option<Arc<Team>>,
    changed: channel::Sender<()>,
}

/// This replica among the others.
#[derive(Debug)]
struct Team {
    members: Mutex<Membership>,
    leave: CancellationToken,
    left: CancellationToken,
}

/// What the tasks share.
#[derive(Clone)]
struct Context {
    server: ApiServer,
    replicas: Replicas,
    team: Arc<Team>,
    metrics: ReplicaMetrics,
    /// Which copies run; the Leases carry it.
    crash_record: CrashRecord,
}

impl Replicas {
    /// One replica, which does everything.
    #[must_use]
    pub fn alone() -> Self {
        Self {
            team: None,
            changed: channel::Sender::new(()),
        }
    }

    /// Whether the work that `key` names is this replica's now. Everybody uses the same keys: `image/<reference>`,
    /// `secret/<namespace>`, `workload/<uid>`.
    #[must_use]
    pub fn owns(&self, key: &str) -> bool {
        match &self.team {
            None => true,
            Some(team) => team.members().owns(key, now()),
        }
    }

    /// How many replicas share the work, this one included.
    #[must_use]
    pub fn live(&self) -> usize {
        let team = self.team.as_ref();
        team.map_or(1, |team| team.members().count(now()))
    }

    /// Tells when the shares changed.
    #[must_use]
    pub fn subscribe(&self) -> channel::Receiver<()> {
        self.changed.subscribe()
    }

    /// Owns nothing from now on, and tells the others so by deleting the own Lease: they take over at once. Ends when
    /// that is done, or after two seconds; then the others notice by themselves.
    pub async fn leave(&self) {
        let Some(team) = &self.team else {
            return;
        };
        team.members().leave();
        self.notify();
        team.leave.cancel();
        if timeout(LEAVE_WITHIN, team.left.cancelled()).await.is_err() {
            tracing::warn!(
                "cannot delete the Lease of this replica in time; the other replicas take over when it expires. Check the API server"
            );
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

/// The local clock, the only one that counts here; tests may pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Context {
    /// Tells those who want to know whether the shares changed.
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
