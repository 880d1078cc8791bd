//! The last readmission attempt of a workload.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::doubling;
use crate::cluster::index::{Candidate, Image};
use crate::cluster::workload::Key;

/// Backoff after the first failed attempt; doubled with each further one.
const FAILURE_BACKOFF: Duration = Duration::from_mins(1);

/// Backoff after the first attempt with an effect; doubled with each further one. Longer than a controller needs to
/// revert it.
const REWRITTEN_BACKOFF: Duration = Duration::from_mins(10);

/// Backoff after the first attempt without effect; doubled with each further one. Such an attempt may have met an outage
/// of the policy server or of the backup, in which images are left unchanged.
const UNCHANGED_BACKOFF: Duration = Duration::from_secs(30);

/// Longest backoff: beyond it, an image that stays upstream is a risk again.
const LONGEST_BACKOFF: Duration = Duration::from_hours(6);

/// The outcome of a readmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Copies replaced images.
    Rewritten,
    /// Nothing was, or would have been, replaced.
    Unchanged,
    /// The workload is gone or has changed.
    Outdated,
    /// The API server or another webhook refused, or there was no response.
    Failed,
}

impl Outcome {
    /// Returns whether the policy was reached.
    const fn reached_policy(self) -> bool {
        matches!(self, Self::Rewritten | Self::Unchanged)
    }
}

/// The last attempts of one workload with the same images.
#[derive(Debug)]
pub(super) struct Attempt {
    key: Arc<Key>,
    images: Box<[Image]>,
    outcome: Outcome,
    /// Attempts in a row, failed or not, without unconfirmed ones.
    tries: u32,
    /// The first attempt without effect.
    is_unconfirmed: bool,
    /// Reported as not rewritten by the policy.
    is_reported: bool,
    backoff_until: Instant,
}

impl Attempt {
    /// The state after an attempt with `candidate` that follows `before`.
    pub(super) fn after(
        before: Option<Self>,
        candidate: &Candidate,
        outcome: Outcome,
        now: Instant,
    ) -> Self {
        let before = before.filter(|attempt| attempt.images == candidate.images);
        let is_reported = before.as_ref().is_some_and(|attempt| attempt.is_reported);
        // Outages must not lengthen the backoff of attempts that reached the policy, nor the other way round.
        let before =
            before.filter(|attempt| attempt.outcome.reached_policy() == outcome.reached_policy());
        let was_unchanged = before.as_ref().is_some_and(Self::was_unchanged);
        let is_unconfirmed = outcome == Outcome::Unchanged && !was_unchanged;
        let tries = before.map_or(0, |attempt| attempt.tries);
        let tries = tries.saturating_add(u32::from(!is_unconfirmed));
        let backoff = match outcome {
            Outcome::Rewritten => doubling(REWRITTEN_BACKOFF, LONGEST_BACKOFF, tries),
            // The unconfirmed one counts as well.
            Outcome::Unchanged => doubling(UNCHANGED_BACKOFF, LONGEST_BACKOFF, tries + 1),
            Outcome::Outdated | Outcome::Failed => {
                doubling(FAILURE_BACKOFF, LONGEST_BACKOFF, tries)
            }
        };
        Self {
            key: Arc::clone(&candidate.key),
            images: candidate.images.clone(),
            outcome,
            tries,
            is_unconfirmed,
            is_reported,
            backoff_until: now + backoff,
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Marks the workload as reported; `false` if it was already, or is unconfirmed.
    pub(super) fn report(&mut self) -> bool {
        !self.is_unconfirmed && !std::mem::replace(&mut self.is_reported, true)
    }

    pub(super) fn was_unchanged(&self) -> bool {
        self.outcome == Outcome::Unchanged
    }

    /// Returns whether this was the first attempt without effect.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.is_unconfirmed
    }

    pub(super) fn backoff_until(&self) -> Instant {
        self.backoff_until
    }

    /// The number of attempts with the images of `candidate`.
    pub(super) fn tries(&self, candidate: &Candidate) -> u32 {
        if self.images == candidate.images {
            self.tries
        } else {
            0
        }
    }

    /// Returns whether `candidate`, of the same workload, backs off.
    pub(super) fn backs_off(&self, candidate: &Candidate, now: Instant) -> bool {
        self.images == candidate.images && now < self.backoff_until
    }
}
