//! Looks at all Secrets again and again, and has done what is to be done.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mirror_contract::Mode;
use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

use super::conflict_backoff::login_in;
use super::error::PullSecretError;
use super::login::DesiredLogin;
use super::plan::{Duty, Step, duty, renewal};
use super::{Inner, State};
use crate::backoff::{doubling, jittered};
use crate::cluster::index::{NamespaceState, PRESENT_NAME};

/// Rest between two rounds: a first list of the cluster is thousands of changes.
const REST: Duration = Duration::from_millis(250);
/// A round without a reason, should one have been missed. It costs no request.
const AT_LATEST: Duration = Duration::from_hours(1);
/// When to tell again of what is in the way; it is told until it is heard.
const TELL_AGAIN: Duration = Duration::from_mins(2);
/// Namespaces that are worked on at a time: with 10 ms for a write a thousand take two seconds, and an API server has
/// others to serve.
const PARALLEL: usize = 8;
/// Namespaces of one round. What a round found out grows old while it waits for its turn.
const BATCH: usize = 256;
/// Pause after the first failure in a namespace, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// Namespaces in which something failed, and those that are worked on.
#[derive(Debug, Default)]
pub(super) struct Rests {
    failed: BTreeMap<Arc<str>, Rest>,
    busy: HashSet<Arc<str>>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    failures: u32,
    until: Instant,
}

/// What a round found.
struct Controller {
    jobs: Vec<(Arc<str>, Job)>,
    in_the_way: Vec<Arc<str>>,
    /// When the next round is due without a change.
    next: Instant,
}

/// What is the same for all namespaces of a round.
struct Look<'a> {
    content: Option<&'a DesiredLogin>,
    knows_all: bool,
    now: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Bring,
    Remove,
}

impl Rests {
    /// In how many namespaces something failed.
    #[cfg(test)]
    pub(super) fn failed(&self) -> usize {
        self.failed.len()
    }

    /// The end of the pause in a namespace; `None` if there is none.
    fn until(&self, namespace: &str, now: Instant) -> Option<Instant> {
        let rest = self.failed.get(namespace)?;
        (rest.until > now).then_some(rest.until)
    }

    /// Records that a job ended; returns how many failed in a row.
    fn end(&mut self, namespace: &Arc<str>, is_failure: bool, now: Instant) -> u32 {
        self.busy.remove(namespace);
        if !is_failure {
            self.failed.remove(namespace);
            return 0;
        }
        let rest = self.failed.entry(Arc::clone(namespace)).or_insert(Rest {
            failures: 0,
            until: now,
        });
        rest.failures = rest.failures.saturating_add(1);
        let pause = doubling(FIRST_PAUSE, LONGEST_PAUSE, rest.failures);
        rest.until = now + jittered(pause);
        rest.failures
    }
}

/// The pause after so many failures.
pub(super) fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1_u32 << failures.saturating_sub(1).min(16));
    // Replicas and namespaces that failed together must not come back together.
    let jitter = 0.75 + fastrand::f64() / 2.0;
    doubled.min(LONGEST_PAUSE).mul_f64(jitter)
}

impl Inner {
    /// For ever.
    pub(super) async fn rounds(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(PARALLEL));
        let mut index = self.cluster.subscribe();
        let mut there = self.changed.subscribe();
        let mut shares = self.replicas.subscribe();
        let mut content = self.content.clone();
        // Should this have broken off between finding a job and starting it.
        self.state().rests.busy.clear();
        loop {
            let round = self.round(Instant::now());
            for namespace in &round.in_the_way {
                self.report_foreign(namespace);
            }
            for (namespace, job) in round.jobs {
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                    return;
                };
                let inner = Arc::clone(&self);
                tokio::spawn(async move {
                    inner.carry_out(&namespace, job).await;
                    drop(permit);
                });
            }
            // All senders live at least as long as `self`, but for that of the content, whose part ends with this one.
            select! {
                _ = index.changed() => {}
                _ = there.changed() => {}
                _ = shares.changed() => {}
                Ok(()) = content.changed() => {}
                () = sleep_until(round.next) => {}
            }
            sleep(REST).await;
        }
    }

    fn round(&self, now: Instant) -> Controller {
        let mut round = Controller {
            jobs: Vec::new(),
            in_the_way: Vec::new(),
            next: now + AT_LATEST,
        };
        let known: Vec<_> = {
            let state = self.state();
            let written = state.conflicts.namespaces();
            state.there.namespaces().chain(written).cloned().collect()
        };
        let (needed, ending, knows_all) = self.cluster.read(|index| {
            let needed = index.namespaces_naming(self.place).map(Arc::from);
            let ending = known.iter().filter(|namespace| {
                index.namespace_state(namespace) == NamespaceState::Terminating
            });
            let ending = ending.cloned().collect::<HashSet<Arc<str>>>();
            (
                needed.collect::<BTreeSet<Arc<str>>>(),
                ending,
                index.is_complete(),
            )
        });
        let content = self.content();
        let mut guard = self.state();
        let state = &mut *guard;
        let ours = state.there.ours();
        let counted = std::mem::replace(&mut state.counted, ours);
        self.metrics.managed_secrets(counted, ours);
        // Before that, everything would be made that is there already.
        if !state.there.is_listed() {
            return round;
        }
        if knows_all {
            state.there.record_needs(&needed, now);
        } else {
            state.there.doubt_needs();
        }
        state
            .conflicts
            .forget(now, |namespace| ending.contains(namespace));
        let all: BTreeSet<_> = needed
            .iter()
            .chain(state.there.namespaces())
            .cloned()
            .collect();
        state
            .rests
            .failed
            .retain(|namespace, _| all.contains(namespace));
        let look = Look {
            content: content.as_deref(),
            knows_all,
            now,
        };
        for namespace in all {
            if !self.owns(&namespace)
                || ending.contains(&namespace)
                || state.rests.busy.contains(&namespace)
            {
                continue;
            }
            let duty = self.duty_in(state, &namespace, needed.contains(&namespace), &look);
            let job = match duty {
                Duty::Nothing => continue,
                // Somebody may have made the Secret of a former name before image-mirror made any.
                Duty::Tell if self.place != PRESENT_NAME => continue,
                Duty::Tell => {
                    round.in_the_way.push(namespace);
                    round.next = round.next.min(now + TELL_AGAIN);
                    continue;
                }
                Duty::Later(from) => {
                    round.next = round.next.min(from);
                    continue;
                }
                Duty::Bring => Job::Bring,
                Duty::Remove => Job::Remove,
            };
            if let Some(until) = state.rests.until(&namespace, now) {
                round.next = round.next.min(until);
            } else if round.jobs.len() < BATCH {
                state.rests.busy.insert(Arc::clone(&namespace));
                round.jobs.push((namespace, job));
            } else {
                round.next = now;
            }
        }
        round
    }

    fn duty_in(&self, state: &State, namespace: &str, is_needed: bool, look: &Look<'_>) -> Duty {
        let &Look {
            content,
            knows_all,
            now,
        } = look;
        let there = state.there.get(namespace);
        let seen = there.map(|record| &record.seen);
        let wanted = self.wanted(state, namespace, seen, content);
        let duty = if self.excluded.contains(namespace) {
            match renewal(seen, wanted) {
                Step::Write(_) => Duty::Bring,
                Step::Nothing | Step::Wait | Step::LeaveAlone => Duty::Nothing,
            }
        } else {
            duty(is_needed, there, wanted, knows_all, now)
        };
        let login = login_in(seen, &self.key);
        match (duty, state.conflicts.until(namespace, login, now)) {
            // New credentials are a reason for a round.
            (Duty::Bring, _) if content.is_none() => Duty::Nothing,
            (Duty::Bring | Duty::Nothing, Some(until)) => Duty::Later(until),
            (Duty::Later(from), Some(until)) => Duty::Later(from.min(until)),
            (duty, _) => duty,
        }
    }

    async fn carry_out(self: Arc<Self>, namespace: &Arc<str>, job: Job) {
        let done = Done {
            inner: &self,
            namespace,
        };
        let outcome = match job {
            Job::Bring => Arc::clone(&self).fly(namespace, Mode::Ensure).await,
            Job::Remove => Arc::clone(&self).fly_away(namespace).await,
        };
        done.tell(&outcome);
    }
}

/// A job that ends, also if it breaks off.
struct Done<'a> {
    inner: &'a Inner,
    namespace: &'a Arc<str>,
}

impl Done<'_> {
    fn tell(self, outcome: &Result<(), PullSecretError>) {
        let now = Instant::now();
        // One that is in the way is no reason to try again, and the next round tells of it.
        let failure = outcome
            .as_ref()
            .err()
            .filter(|trouble| !matches!(trouble, PullSecretError::Foreign { .. }));
        let mut state = self.inner.state();
        let failures = state.rests.end(self.namespace, failure.is_some(), now);
        drop(state);
        let Some(trouble) = failure else { return };
        self.inner.report_refusal(self.namespace, trouble);
        // The first failure may be the beginning of an outage of the API server, which is logged as such.
        let (reported_at, is_explained) = match trouble {
            PullSecretError::Away { .. } => (2, self.inner.api.server().is_away()),
            // It was reported as such.
            PullSecretError::Refused { .. } => (1, true),
            _ => (1, false),
        };
        if failures == reported_at && !is_explained {
            tracing::warn!(namespace = %self.namespace, reason = %trouble, "cannot keep the pull Secret; it is tried again");
        }
    }
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.inner.state().rests.busy.remove(self.namespace);
        self.inner.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_minutes_and_end_with_success() {
        let mut rests = Rests::default();
        let now = Instant::now();
        let shop: Arc<str> = "shop".into();
        let mut pauses = Vec::new();
        for round in 0..20 {
            assert_eq!(rests.end(&shop, true, now), round + 1);
            pauses.push(rests.until("shop", now).unwrap() - now);
        }
        assert!(pauses[0] <= Duration::from_millis(1250), "{pauses:?}");
        assert!(pauses[19] >= LONGEST_PAUSE, "{pauses:?}");
        assert!(
            pauses
                .iter()
                .all(|pause| *pause <= Duration::from_secs(375))
        );
        assert_eq!(rests.end(&shop, false, now), 0);
        assert_eq!(rests.until("shop", now), None);
    }
}
