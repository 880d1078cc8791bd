//! Which share of the work is this replica's.
//!
//! Each replica keeps a Lease of its own and watches those of the others ([`lease`], [`watch`]); who does what follows
//! from the names of those that live ([`members`]), so that nobody has to tell anybody. Work that nobody asked for is
//! shared this way; what the policy asks for is done by the replica that was asked.

mod lease;
mod membership;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use mirror_contract::ImageRef;
use mirror_contract::workload::GROUP;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch as channel;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use super::index::Rules;
use crate::copy_queue::CrashRecord;
use crate::metrics::Metrics;
use lease::{LeaseError, OwnLease};
use membership::Membership;

/// How long a replica counts as alive after its last sign of life: a crash costs no more than this. Three renewals may
/// be lost.
const DURATION: Duration = Duration::from_secs(15);

/// Between two signs of life.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// Shortest time between two writes of the Lease because a copy starts.
const RECORD_EVERY: Duration = Duration::from_millis(250);

/// How long the hand-over may take at the end: the copies must still be stopped within the grace period.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// What the names of all Leases of replicas begin with.
const PREFIX: &str = "mirror-sidecar-";

/// The annotation of a Lease that says which images its replica is copying, and which it copies alone.
const RECORD_ANNOTATION: &str = "image-mirror.dev/copies";

/// Where one image goes, to tell backups from each other. Any image would do.
const SAMPLE: &str = "docker.io/library/sample:1";

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

/// Which replicas share work: those that have the same to do. Two installations in one namespace may have different
/// backups, or leave different namespaces alone; neither does the other's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(String);

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
    metrics: Metrics,
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

    /// Shares the work with the other replicas of `group` in `namespace`, under a name that no other replica has, until
    /// [`Self::leave`]. An API server that does not answer is waited for in the background; until the others are known,
    /// but for a few seconds at most, this replica owns nothing.
    #[must_use]
    pub fn join(
        server: impl Into<ApiServer>,
        namespace: &str,
        name: &str,
        group: &Group,
        metrics: Metrics,
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
                .run_until_cancelled(watch::watch(&context, others, &selector));
            tokio::join!(hold(&context, lease), watch);
        });
        replicas
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
        self.tell();
        team.leave.cancel();
        if timeout(LEAVE_WITHIN, team.left.cancelled()).await.is_err() {
            tracing::warn!(
                "the API server is slow, so the other replicas take over a little later"
            );
        }
    }

    fn tell(&self) {
        self.changed.send_replace(());
    }
}

impl Team {
    fn members(&self) -> MutexGuard<'_, Membership> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// The group of all replicas that follow the same rules.
    #[must_use]
    pub fn of(rules: &Rules) -> Self {
        let sample = ImageRef::parse(SAMPLE)
            .ok()
            .and_then(|image| rules.backup.target(&image).ok());
        let mut excluded: Vec<String> = rules
            .excluded_namespaces
            .patterns()
            // Should its form ever change, old and new replicas do not share during that one update.
            .map(|pattern| format!("{pattern:?}"))
            .collect();
        excluded.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(sample.map(|copy| copy.to_string()).unwrap_or_default());
        for pattern in excluded {
            hash.update(" ");
            hash.update(pattern);
        }
        hash.update("\n");
        hash.update(rules.pull_secret.as_deref().unwrap_or_default());
        // 64 bits are plenty to tell the few installations of a namespace from each other.
        let hash = hash.finalize();
        let first = hash.iter().take(8);
        let number = first.fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Self(format!("{number:016x}"))
    }

    /// What the label says.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn selector(&self) -> String {
        format!("{GROUP}={}", self.0)
    }
}

/// The local clock, the only one that counts here; tests may pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
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
                    tracing::info!("the Lease of this replica is renewed again");
                }
            }
            Err(error) if context.explains(&error, failures == 0) => {
                failures = failures.saturating_add(1);
                tracing::debug!(%error, "the Lease of this replica is not renewed");
            }
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(%error, "the Lease of this replica is not renewed; the other replicas do its share too if this goes on");
            }
            Err(error) => tracing::debug!(%error, "the Lease of this replica is not renewed"),
        }
        let is_held = held_until.is_some_and(|until| now() < until);
        context.metrics.lease_held(is_held);
    }
    match lease.remove().await {
        Ok(()) => tracing::info!("handed the work over to the other replicas"),
        Err(error) => {
            tracing::warn!(%error, "the other replicas take over when the Lease has expired");
        }
    }
    context.metrics.lease_held(false);
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

    /// Tells those who want to know whether the shares changed.
    fn refresh(&self) {
        let changed = self.team.members().refresh(now());
        for name in self.team.members().take_lost(now()) {
            self.crash_record.adopt(&name);
        }
        if let Some(live) = changed {
            tracing::info!(members = live.join(","), "the work is shared anew");
            self.metrics.replicas(live.len());
            self.replicas.tell();
        }
    }
}
