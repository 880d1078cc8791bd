//! Decides which workload is sent through admission next.
//!
//! Each workload is tried first by a dry run that changes nothing: only the policy knows whether it would rewrite it,
//! since the policy may not be installed, or its settings may exclude the workload. Then the workload is patched. The
//! API server's response contains the effect of the patch or the dry run.
//!
//! Each patch starts a rollout, so patches are rate-limited. After each attempt, a workload with the same images backs
//! off, longer each time: somebody who reverts each rewrite must not cause an endless loop. Nothing is stored; after a
//! restart, workloads that nothing rewrites are tried once more, which changes nothing.
//!
//! This module does no I/O and reads no clock.

mod attempt;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use k8s_openapi::jiff::Timestamp;

use crate::cluster::index::{Candidate, Index, NamespaceState};
use crate::token_bucket::TokenBucket;
use attempt::Attempt;
pub use attempt::Outcome;

const MINUTE: Duration = Duration::from_mins(1);

/// Bursts that make up one minute's rate. A burst after an idle time stays small, and a steady pace gets the full rate.
const BURSTS_PER_MINUTE: u32 = 4;

/// Interval between dry runs. One costs the API server and the policy some milliseconds.
const TRY_INTERVAL: Duration = Duration::from_millis(500);

/// Workloads in a row whose dry runs changed nothing, and none ever had an effect, after which the policy seems not to
/// be installed.
const UNCHANGED_IN_A_ROW: u32 = 10;

/// Interval between dry runs while the policy seems not to be installed.
const UNCHANGED_TRY_INTERVAL: Duration = Duration::from_secs(30);

/// Maximum number of replicas among which the rate is shared.
const MAX_REPLICAS: usize = 100;

/// Which workloads are sent through admission again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Readmit {
    /// All that use an image with a copy. Workloads that are older than the installation are restarted over time
    #[default]
    On,
    /// Only those that were created after the policy became active. Older ones keep their images until they are changed
    New,
    /// None
    Off,
}

/// The readmissions of workloads that still exist.
#[derive(Debug)]
pub struct Readmissions {
    mode: Readmit,
    pace: TokenBucket,
    /// By uid.
    attempts: HashMap<Box<str>, Attempt>,
    /// The turn in which each namespace was last served; the lowest is next, so that none with much work delays others.
    turns: HashMap<Arc<str>, u64>,
    turn: u64,
    next_try: Option<Instant>,
    unchanged_in_a_row: u32,
    has_effect: bool,
    /// The number of rewrites in the index.
    rewrites: u64,
}

/// A result that operators should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// This workload is not rewritten although its copies exist.
    NotRewritten,
    /// No workload is rewritten: the policy seems not to be installed, or to be broken.
    NothingIsRewritten,
}

/// Returns the time since which the policy is known to work: the creation of the oldest Pod that runs a copy, or the
/// start of this process if there is none; but not before the creation of `own_namespace`, since anyone can make a Pod
/// look like one that the policy rewrote.
///
/// The time only gets later when such Pods are deleted, so [`Readmit::New`] errs on the side of skipping.
///
/// `indexes` are those of all backups.
#[must_use]
pub fn works_since(
    indexes: &[&Index],
    started: Timestamp,
    own_namespace: Option<&str>,
) -> Timestamp {
    let seen = indexes.iter().filter_map(|index| index.policy_seen()).min();
    let seen = seen.unwrap_or(started).min(started);
    let installed = own_namespace.and_then(|name| indexes.first()?.namespace_created(name));
    installed.map_or(seen, |installed| seen.max(installed))
}

impl Readmissions {
    /// No readmissions so far; at most `rate` patches a minute.
    #[must_use]
    pub fn new(mode: Readmit, rate: NonZeroU32) -> Self {
        Self {
            mode,
            pace: TokenBucket::new(MINUTE / rate.get(), rate.get() / BURSTS_PER_MINUTE),
            attempts: HashMap::new(),
            turns: HashMap::new(),
            turn: 0,
            next_try: None,
            unchanged_in_a_row: 0,
            has_effect: false,
            rewrites: 0,
        }
    }

    /// Returns whether any workload may be tried now; if not, candidates need not be computed.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        self.mode != Readmit::Off
            && self.next_try.is_none_or(|next| next <= now)
            && self.pace.has_token(now)
    }

    /// Returns when to compute candidates again although nothing changed; `None` if there is no need.
    #[must_use]
    pub fn recheck_at(&self, now: Instant) -> Option<Instant> {
        if self.mode == Readmit::Off {
            return None;
        }
        let opens = self.next_try.max(self.pace.next_token(now));
        let backoffs = self.attempts.values().map(Attempt::backoff_until);
        match opens.filter(|opens| *opens > now) {
            Some(opens) => Some(opens),
            None => backoffs.filter(|end| *end > now).min(),
        }
    }

    /// Returns the candidate to try now, and to patch if the dry run has an effect. The caller passes the result to
    /// [`Self::record`] before the next call. `works_since` is for [`Readmit::New`].
    pub fn next(
        &self,
        candidate: impl Iterator<Item = Candidate>,
        works_since: Timestamp,
        now: Instant,
    ) -> Option<Candidate> {
        if !self.is_open(now) {
            return None;
        }
        let is_wanted = |candidate: &Candidate| match self.mode {
            Readmit::On => true,
            Readmit::New => candidate
                .created
                .is_some_and(|created| created >= works_since),
            Readmit::Off => false,
        };
        let mut best: Option<((u32, u64), Candidate)> = None;
        for candidate in candidate.filter(is_wanted) {
            let before = self.attempts.get(&candidate.uid);
            if before.is_some_and(|attempt| attempt.backs_off(&candidate, now)) {
                continue;
            }
            // New candidates come before retries, then namespaces take turns.
            let turn = self.turns.get(&candidate.key.namespace).copied();
            let rank = (
                before.map_or(0, |attempt| attempt.tries(&candidate)),
                turn.unwrap_or_default(),
            );
            if best.as_ref().is_none_or(|(lowest, _)| rank < *lowest) {
                best = Some((rank, candidate));
            }
        }
        best.map(|(_, candidate)| candidate)
    }

    /// Takes one patch from the rate for each of the live `replicas`, so that all of them together keep to it.
    pub fn reserve_patch(&mut self, replicas: usize, now: Instant) {
        for _ in 0..replicas.clamp(1, MAX_REPLICAS) {
            self.pace.take(now);
        }
    }

    /// Records the outcome for a workload that [`Self::next`] returned.
    pub fn record(
        &mut self,
        candidate: &Candidate,
        outcome: Outcome,
        now: Instant,
    ) -> Option<News> {
        self.turn += 1;
        self.turns
            .insert(Arc::clone(&candidate.key.namespace), self.turn);
        let before = self.attempts.remove(&candidate.uid);
        let mut attempt = Attempt::after(before, candidate, outcome, now);
        let news = match outcome {
            // A template that lists a former pull Secret itself belongs to its owner.
            Outcome::Unchanged if candidate.images.is_empty() => None,
            Outcome::Unchanged => self.unchanged(&mut attempt),
            Outcome::Rewritten => {
                self.record_effect();
                None
            }
            Outcome::Outdated | Outcome::Failed => None,
        };
        self.attempts.insert(candidate.uid.clone(), attempt);
        self.next_try = match outcome {
            // The rate of patches limits these enough.
            Outcome::Rewritten => None,
            _ if self.is_hopeless() => Some(now + UNCHANGED_TRY_INTERVAL),
            _ => Some(now + TRY_INTERVAL),
        };
        news
    }

    /// Drops workloads that no longer exist, and learns from rewrites by others that the policy works.
    ///
    /// `indexes` are those of all backups.
    pub fn sync(&mut self, indexes: &[&Index]) {
        let rewrites = indexes.iter().map(|index| index.rewrites());
        let rewrites = rewrites.fold(0, u64::saturating_add);
        if rewrites > self.rewrites {
            self.rewrites = rewrites;
            self.record_effect();
        }
        self.attempts.retain(|uid, attempt| {
            let mut entries = indexes.iter();
            entries.any(|index| {
                let entry = index.workload(attempt.key());
                entry.is_some_and(|entry| entry.uid() == &**uid)
            })
        });
        let is_known = |namespace: &str| {
            let mut indexes = indexes.iter();
            indexes.any(|index| index.namespace_state(namespace) != NamespaceState::Unknown)
        };
        self.turns.retain(|namespace, _| is_known(namespace));
    }

    fn is_hopeless(&self) -> bool {
        !self.has_effect && self.unchanged_in_a_row >= UNCHANGED_IN_A_ROW
    }

    fn unchanged(&mut self, attempt: &mut Attempt) -> Option<News> {
        let was_hopeless = self.is_hopeless();
        // Each of them counts once.
        let is_another = u32::from(attempt.is_unconfirmed());
        self.unchanged_in_a_row = self.unchanged_in_a_row.saturating_add(is_another);
        match (was_hopeless, self.is_hopeless()) {
            // The cause is not this workload.
            (true, _) => None,
            (false, true) => Some(News::NothingIsRewritten),
            (false, false) => attempt.report().then_some(News::NotRewritten),
        }
    }

    /// Records that the policy works. If that is new, unchanged workloads need no backoff.
    fn record_effect(&mut self) {
        self.unchanged_in_a_row = 0;
        if !std::mem::replace(&mut self.has_effect, true) {
            self.attempts.retain(|_, attempt| !attempt.was_unchanged());
        }
    }
}
