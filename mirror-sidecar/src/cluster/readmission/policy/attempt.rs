//! What is remembered of a workload that was sent through admission again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::doubling;
use crate::cluster::index::{Candidate, Image};
use crate::cluster::workload::Key;

/// Rest after the first attempt that could not be made; it doubles with each further one.
const REST_AFTER_FAILURE: Duration = Duration::from_mins(1);

/// Rest after the first attempt that was made; it doubles with each further one. Longer than somebody takes who undoes it.
const REST: Duration = Duration::from_mins(10);

/// Rest after an attempt in vain that may have met an outage, of the policy server or of the backup: what cannot be asked
/// stays as it is. The next attempt tells.
const REST_IN_DOUBT: Duration = Duration::from_secs(30);

/// Rests do not get longer than six hours: then an image that stays upstream is a risk again.
const LONGEST_REST: Duration = Duration::from_hours(6);

/// What became of a workload that was to be sent through admission again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Copies are in the place of images.
    Rewritten,
    /// Nothing was replaced, or would have been.
    Unchanged,
    /// The workload is not there any more, or not the same.
    Outdated,
    /// The API server or another webhook refused, or nobody answered.
    Failed,
}

impl Outcome {
    /// Whether the policy was heard.
    const fn was_made(self) -> bool {
        matches!(self, Self::Rewritten | Self::Unchanged)
    }
}

/// The last attempts with one workload and the same images.
#[derive(Debug)]
pub(super) struct Attempt {
    key: Arc<Key>,
    images: Box<[Image]>,
    outcome: Outcome,
    /// In a row, made or not, without those in doubt.
    tries: u32,
    /// Whether it was in vain for the first time.
    is_in_doubt: bool,
    /// Whether it was told that the policy leaves them alone.
    is_told: bool,
    rests_until: Instant,
}

impl Attempt {
    /// After an attempt with `candidate`, if there was another one `before`.
    pub(super) fn after(
        before: Option<Self>,
        candidate: &Candidate,
        outcome: Outcome,
        now: Instant,
    ) -> Self {
        let before = before.filter(|attempt| attempt.images == candidate.images);
        let is_told = before.as_ref().is_some_and(|attempt| attempt.is_told);
        // Outages must not lengthen the rests of what was tried, and the other way round.
        let before = before.filter(|attempt| attempt.outcome.was_made() == outcome.was_made());
        let was_unchanged = before.as_ref().is_some_and(Self::was_unchanged);
        let is_in_doubt = outcome == Outcome::Unchanged && !was_unchanged;
        let tries = before.map_or(0, |attempt| attempt.tries);
        let tries = tries.saturating_add(u32::from(!is_in_doubt));
        let rest = if is_in_doubt {
            REST_IN_DOUBT
        } else if outcome.was_made() {
            doubling(REST, LONGEST_REST, tries)
        } else {
            doubling(REST_AFTER_FAILURE, LONGEST_REST, tries)
        };
        Self {
            key: Arc::clone(&candidate.key),
            images: candidate.images.clone(),
            outcome,
            tries,
            is_in_doubt,
            is_told,
            rests_until: now + rest,
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Notes that it is told; `false` if it was before, or must not be yet.
    pub(super) fn tell(&mut self) -> bool {
        !self.is_in_doubt && !std::mem::replace(&mut self.is_told, true)
    }

    pub(super) fn was_unchanged(&self) -> bool {
        self.outcome == Outcome::Unchanged
    }

    /// Whether it was in vain for the first time.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    pub(super) fn rests_until(&self) -> Instant {
        self.rests_until
    }

    /// How often this was tried with the images of `candidate`.
    pub(super) fn tries(&self, candidate: &Candidate) -> u32 {
        if self.images == candidate.images {
            self.tries
        } else {
            0
        }
    }

    /// Whether `candidate`, of the same workload, must rest.
    pub(super) fn forbids(&self, candidate: &Candidate, now: Instant) -> bool {
        self.images == candidate.images && now < self.rests_until
    }
}
