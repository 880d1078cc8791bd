//! Results of checks of the parts of a copy: the manifests of an index, configs and layers.

use std::time::Duration;

use mirror_copy::Completeness;
use tokio::time::Instant;

use crate::backoff::doubling;
use crate::cluster::reconciler::probe::ProbeError;
use crate::cluster::reconciler::recheck_schedule::{Clock, LONGEST_WAIT};
use crate::lookup::{PartsPlan, Turn};

/// The time in which each config and layer is checked once.
const ALL_WITHIN: Duration = Duration::from_hours(7 * 24);

/// First backoff before the parts of a restored copy are checked again.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct PartChecks {
    blobs: Blobs,
    /// The number of the last completed turn of the re-check schedule.
    done: Option<u128>,
    /// `None` until the copy itself was seen.
    pub at: Option<Instant>,
    /// Checks in a row that found some missing.
    losses: u32,
}

/// The configs and layers to check next.
#[derive(Clone, Copy, Debug)]
enum Blobs {
    /// All; this many are checked already.
    All(usize),
    OfTurn,
    /// The rest of those of an earlier turn.
    RestOf {
        number: u64,
        skip: usize,
    },
}

impl Default for PartChecks {
    /// After a start, everything is checked: the backup may have lost anything before.
    fn default() -> Self {
        Self {
            blobs: Blobs::All(0),
            done: None,
            at: None,
            losses: 0,
        }
    }
}

impl PartChecks {
    /// The parts that the next check covers.
    pub(super) fn plan(&self, current_turn: u128, clock: Clock<'_>) -> PartsPlan {
        let of = turns(clock);
        let due = u64::try_from(self.due_turn(current_turn, of) % u128::from(of));
        let (turn, skip) = match self.blobs {
            Blobs::All(skip) => (Turn::Everything, skip),
            Blobs::OfTurn => {
                let number = due.unwrap_or_default();
                (Turn::Part { number, of }, 0)
            }
            Blobs::RestOf { number, skip } => (Turn::Part { number, of }, skip),
        };
        PartsPlan { turn, skip }
    }

    /// The turn after the last completed one, so that none is skipped; at most one round is made up for.
    fn due_turn(&self, current: u128, of: u64) -> u128 {
        let oldest = (current + 1).saturating_sub(of.into());
        let due = self.done.map_or(current, |done| done + 1);
        due.clamp(oldest, current.max(oldest))
    }

    /// Schedules the next check: the copy itself was seen.
    pub(super) fn schedule(&mut self, now: Instant) {
        let wait = match self.losses {
            0 => Duration::ZERO,
            losses => doubling(FIRST_BACKOFF, LONGEST_WAIT, losses),
        };
        self.at = Some(now + wait);
    }

    /// Makes the next check cover everything.
    pub(super) fn restart(&mut self) {
        self.blobs = Blobs::All(0);
    }

    /// Applies the result of a check; returns whether parts are missing.
    pub(super) fn checked(
        &mut self,
        plan: PartsPlan,
        result: Result<Completeness, ProbeError>,
        current_turn: u128,
        clock: Clock<'_>,
    ) -> bool {
        // Set again when the copy itself is seen.
        self.at = None;
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                self.at = error.is_outage.then(|| clock.after(LONGEST_WAIT));
                return false;
            }
        };
        self.losses = match found {
            Completeness::Missing(_) => self.losses.saturating_add(1),
            Completeness::Complete { .. } | Completeness::Unfinished { .. } => 0,
        };
        let rest = |skip| match plan.turn {
            Turn::Part { number, .. } => Blobs::RestOf { number, skip },
            Turn::Nothing | Turn::Everything => Blobs::All(skip),
        };
        self.blobs = match found {
            Completeness::Missing(_) => Blobs::All(0),
            Completeness::Complete { next: None } => {
                self.turn_completed(plan.turn, current_turn, clock.now);
                Blobs::OfTurn
            }
            Completeness::Complete { next: Some(skip) } => {
                let rest = rest(skip);
                if let Blobs::All(_) = rest {
                    self.at = Some(clock.now);
                }
                rest
            }
            Completeness::Unfinished { next: skip } => {
                self.at = Some(clock.after(LONGEST_WAIT));
                rest(skip)
            }
        };
        matches!(found, Completeness::Missing(_))
    }

    /// Records a completed turn. Missed turns follow immediately.
    fn turn_completed(&mut self, turn: Turn, current: u128, now: Instant) {
        let done = match turn {
            Turn::Nothing => return,
            Turn::Everything => current,
            Turn::Part { number, of } => {
                // The check may have started in an earlier turn.
                let (number, of) = (u128::from(number), u128::from(of.max(1)));
                let first = self.done.unwrap_or((current + 1).saturating_sub(of));
                first + (number + of - first % of) % of
            }
        };
        self.done = Some(done);
        if done < current {
            self.at = Some(now);
        }
    }
}

/// The number of turns in which all parts are checked.
fn turns(clock: Clock<'_>) -> u64 {
    let interval = clock.interval().as_nanos().max(1);
    let turns = u64::try_from(ALL_WITHIN.as_nanos() / interval).unwrap_or(u64::MAX);
    turns.max(1)
}
