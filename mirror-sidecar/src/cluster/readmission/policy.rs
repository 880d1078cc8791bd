//! Which workload to send through admission again now.
//!
//! A workload is tried first, by a dry run that changes nothing: only the policy knows whether it would rewrite it, since
//! it may not be installed, or leave the workload alone by its settings. Then it is patched. What a patch did, and what a
//! dry run would have done, is in the API server's answer.
//!
//! Each patch starts a rollout, so they are paced. Whatever became of a workload, it rests before it is tried with the same
//! images again, longer each time: somebody who undoes each rewrite must not keep this going. Nothing is written down;
//! after a restart, workloads that nothing rewrites are tried once more, which changes nothing.
//!
//! This module neither patches nor looks at a clock.

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

/// The burst after an idle time, as a part of a minute's rate: a caller that polls every few seconds gets the full rate,
/// and bursts stay small.
const BURSTS_A_MINUTE: u32 = 4;

/// Between two tries. A dry run costs the API server and the policy some milliseconds.
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Workloads in a row that stayed unchanged, with none ever rewritten, after which the policy counts as not installed.
const UNCHANGED_IN_A_ROW: u32 = 10;

/// Between two tries then.
const BETWEEN_HOPELESS_TRIES: Duration = Duration::from_secs(30);

/// Replicas among which the rate is shared; there are never more.
const MAX_REPLICAS: usize = 100;

/// Which workloads are sent through admission again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Readmit {
    /// All that it helps. Installing image-mirror restarts, over time, what ran before
    #[default]
    On,
    /// Those that were created since the policy works. What ran before stays as it is until somebody changes it
    New,
    /// None
    Off,
}

/// The re-admissions so far, of workloads that still exist.
#[derive(Debug)]
pub struct Readmissions {
    mode: Readmit,
    pace: TokenBucket,
    /// By uid.
    attempts: HashMap<Box<str>, Attempt>,
    /// In which order namespaces had their turn, the highest last: those with much to do must not keep others waiting.
    turns: HashMap<Arc<str>, u64>,
    turn: u64,
    next_try: Option<Instant>,
    unchanged_in_a_row: u32,
    has_helped: bool,
    /// How many rewrites the index told of.
    rewrites: u64,
}

/// What people should be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// This workload is not rewritten although its copies are there.
    NotRewritten,
    /// No workload is: the policy seems not to be installed, or to be out of order.
    NothingIsRewritten,
}

/// Since when the policy works, as far as can be told: since the oldest Pod that runs a copy was created, or since this
/// process started if there is none; but not before `home`, the namespace of this process, was created, since everybody
/// can make a Pod look like one that the policy rewrote.
///
/// That only gets later when such Pods go, so [`Readmit::New`] errs on the side of leaving alone.
#[must_use]
pub fn works_since(index: &Index, started: Timestamp, home: Option<&str>) -> Timestamp {
    let seen = index.policy_seen().unwrap_or(started).min(started);
    let installed = home.and_then(|home| index.namespace_created(home));
    installed.map_or(seen, |installed| seen.max(installed))
}

impl Readmissions {
    /// None so far; at most `rate` patches a minute to come.
    #[must_use]
    pub fn new(mode: Readmit, rate: NonZeroU32) -> Self {
        Self {
            mode,
            pace: TokenBucket::new(MINUTE / rate.get(), rate.get() / BURSTS_A_MINUTE),
            attempts: HashMap::new(),
            turns: HashMap::new(),
            turn: 0,
            next_try: None,
            unchanged_in_a_row: 0,
            has_helped: false,
            rewrites: 0,
        }
    }

    /// Whether anything may be tried now; if not, looking for what is due is of no use.
    #[must_use]
    pub fn is_open(&self, now: Instant) -> bool {
        self.mode != Readmit::Off
            && self.next_try.is_none_or(|next| next <= now)
            && self.pace.has_token(now)
    }

    /// When to look at what is due again although nothing changed; `None` if there is no need.
    #[must_use]
    pub fn look_again(&self, now: Instant) -> Option<Instant> {
        if self.mode == Readmit::Off {
            return None;
        }
        let opens = self.next_try.max(self.pace.next_token(now));
        let rests = self.attempts.values().map(Attempt::rests_until);
        match opens.filter(|opens| *opens > now) {
            Some(opens) => Some(opens),
            None => rests.filter(|end| *end > now).min(),
        }
    }

    /// The one of `candidate` to try now, and to patch if the try helps. Tell by [`Self::ended`] what became of it before
    /// asking for the next. `works_since` is for [`Readmit::New`].
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
            if before.is_some_and(|attempt| attempt.forbids(&candidate, now)) {
                continue;
            }
            // What was never tried comes before what is tried again, then the namespaces take turns.
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

    /// Takes the place of a patch that is to be sent now, on behalf of each of the live `replicas`: together they keep to
    /// the rate.
    pub fn patching(&mut self, replicas: usize, now: Instant) {
        for _ in 0..replicas.clamp(1, MAX_REPLICAS) {
            self.pace.take(now);
        }
    }

    /// What became of a workload that was given out.
    pub fn ended(&mut self, candidate: &Candidate, outcome: Outcome, now: Instant) -> Option<News> {
        self.turn += 1;
        self.turns
            .insert(Arc::clone(&candidate.key.namespace), self.turn);
        let before = self.attempts.remove(&candidate.uid);
        let mut attempt = Attempt::after(before, candidate, outcome, now);
        let news = match outcome {
            // A template that lists a former pull Secret by itself is its owner's.
            Outcome::Unchanged if candidate.images.is_empty() => None,
            Outcome::Unchanged => self.unchanged(&mut attempt),
            Outcome::Rewritten => {
                self.helped();
                None
            }
            Outcome::Outdated | Outcome::Failed => None,
        };
        self.attempts.insert(candidate.uid.clone(), attempt);
        self.next_try = match outcome {
            // The rate of patches is pause enough.
            Outcome::Rewritten => None,
            _ if self.is_hopeless() => Some(now + BETWEEN_HOPELESS_TRIES),
            _ => Some(now + BETWEEN_TRIES),
        };
        news
    }

    /// Forgets workloads that do not exist any more, and learns that the policy works from what others have rewritten.
    pub fn follow(&mut self, index: &Index) {
        if index.rewrites() > self.rewrites {
            self.rewrites = index.rewrites();
            self.helped();
        }
        self.attempts.retain(|uid, attempt| {
            let entry = index.workload(attempt.key());
            entry.is_some_and(|entry| entry.uid() == &**uid)
        });
        self.turns
            .retain(|namespace, _| index.namespace_state(namespace) != NamespaceState::Unknown);
    }

    fn is_hopeless(&self) -> bool {
        !self.has_helped && self.unchanged_in_a_row >= UNCHANGED_IN_A_ROW
    }

    fn unchanged(&mut self, attempt: &mut Attempt) -> Option<News> {
        let was_hopeless = self.is_hopeless();
        // Each of them counts once.
        let is_another = u32::from(attempt.is_in_doubt());
        self.unchanged_in_a_row = self.unchanged_in_a_row.saturating_add(is_another);
        match (was_hopeless, self.is_hopeless()) {
            // It is not about this workload.
            (true, _) => None,
            (false, true) => Some(News::NothingIsRewritten),
            (false, false) => attempt.tell().then_some(News::NotRewritten),
        }
    }

    /// The policy works. If that is new, what was tried before need not rest.
    fn helped(&mut self) {
        self.unchanged_in_a_row = 0;
        if !std::mem::replace(&mut self.has_helped, true) {
            self.attempts.retain(|_, attempt| !attempt.was_unchanged());
        }
    }
}
