//! Checks of the parts of a copy: the manifests of an index, configs and layers.

use std::time::Duration;

use mirror_copy::Completeness;
use tokio::time::Instant;

use super::{Clock, ImageState, JobStage, LONGEST_WAIT, Owner};
use crate::backoff::doubling;
use crate::cluster::reconciler::probe::ProbeError;
use crate::copy_queue::Task;
use crate::lookup::{PartsPlan, Turn};

/// The time in which each config and layer is checked once.
const ALL_WITHIN: Duration = Duration::from_hours(7 * 24);

/// First backoff before the parts of a restored copy are checked again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// What is known about the parts of a copy.
#[derive(Debug)]
pub(super) struct PartChecks {
    blobs: Blobs,
    /// The number of the last completed turn of the re-check schedule.
    done: Option<u128>,
    /// `None` until the copy itself was seen.
    at: Option<Instant>,
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

impl ImageState {
    pub(super) fn parts_check_at(&self) -> Option<Instant> {
        let is_kept =
            self.owner == Owner::Ours && self.is_mirrored() && self.job.stage == JobStage::None;
        self.part_checks.at.filter(|_| is_kept)
    }

    /// The parts that the next check covers.
    pub(in crate::cluster::reconciler) fn parts_plan(&self, clock: Clock<'_>) -> PartsPlan {
        let of = turns(clock);
        let number = u64::try_from(self.due_turn(clock) % u128::from(of)).unwrap_or_default();
        match self.part_checks.blobs {
            Blobs::All(skip) => PartsPlan {
                turn: Turn::Everything,
                skip,
            },
            Blobs::OfTurn => PartsPlan {
                turn: Turn::Part { number, of },
                skip: 0,
            },
            Blobs::RestOf { number, skip } => PartsPlan {
                turn: Turn::Part { number, of },
                skip,
            },
        }
    }

    /// The turn after the last completed one, so that none is skipped; at most one round is made up for.
    fn due_turn(&self, clock: Clock<'_>) -> u128 {
        let current = clock.recheck_schedule.turn(self.phase, clock.now);
        let oldest = (current + 1).saturating_sub(turns(clock).into());
        let due = self.part_checks.done.map_or(current, |done| done + 1);
        due.clamp(oldest, current.max(oldest))
    }

    /// Records a completed turn. Missed turns follow immediately.
    fn turn_was_done(&mut self, turn: Turn, clock: Clock<'_>) {
        let current = clock.recheck_schedule.turn(self.phase, clock.now);
        let done = match turn {
            Turn::Nothing => return,
            Turn::Everything => current,
            Turn::Part { number, of } => {
                // The check may have started in an earlier turn.
                let (number, of) = (u128::from(number), u128::from(of.max(1)));
                let first = self
                    .part_checks
                    .done
                    .unwrap_or((current + 1).saturating_sub(of));
                first + (number + of - first % of) % of
            }
        };
        self.part_checks.done = Some(done);
        if done < current {
            self.part_checks.at = Some(clock.now);
        }
    }

    /// The copy itself was seen; its parts are checked next.
    pub(super) fn schedule_parts_check(&mut self, now: Instant) {
        let pause = match self.part_checks.losses {
            0 => Duration::ZERO,
            losses => doubling(FIRST_PAUSE, LONGEST_WAIT, losses),
        };
        self.part_checks.at = Some(now + pause);
    }

    /// Checks everything again: the backup was down, or another replica maintained the copy.
    pub(in crate::cluster::reconciler) fn recheck_parts(&mut self, now: Instant) {
        self.part_checks.blobs = Blobs::All(0);
        if self.owner == Owner::Ours && self.is_mirrored() && self.backup.check_at.is_some() {
            self.backup.check_at = Some(now);
        }
    }

    /// Applies the result of a parts check; returns the task that follows.
    pub(in crate::cluster::reconciler) fn parts_checked(
        &mut self,
        plan: PartsPlan,
        seen: Result<Completeness, ProbeError>,
        clock: Clock<'_>,
    ) -> Option<Task> {
        // Set again when the copy itself is seen.
        self.part_checks.at = None;
        match seen {
            Err(error) => {
                if error.is_outage {
                    self.part_checks.at = Some(clock.now + clock.at_most(LONGEST_WAIT));
                }
                None
            }
            Ok(Completeness::Complete { next }) => {
                self.part_checks.losses = 0;
                if next.is_none() {
                    self.turn_was_done(plan.turn, clock);
                }
                self.part_checks.blobs = match (plan.turn, next) {
                    (_, None) => Blobs::OfTurn,
                    (Turn::Part { number, .. }, Some(skip)) => Blobs::RestOf { number, skip },
                    (Turn::Nothing | Turn::Everything, Some(skip)) => {
                        self.part_checks.at = Some(clock.now);
                        Blobs::All(skip)
                    }
                };
                None
            }
            Ok(Completeness::Unfinished { next: skip }) => {
                self.part_checks.losses = 0;
                self.part_checks.blobs = match plan.turn {
                    Turn::Part { number, .. } => Blobs::RestOf { number, skip },
                    Turn::Nothing | Turn::Everything => Blobs::All(skip),
                };
                self.part_checks.at = Some(clock.now + clock.at_most(LONGEST_WAIT));
                None
            }
            Ok(Completeness::Missing(_)) => {
                self.part_checks.losses = self.part_checks.losses.saturating_add(1);
                self.part_checks.blobs = Blobs::All(0);
                if self.owner == Owner::Ours && self.is_mirrored() {
                    self.copy_missing(clock)
                } else {
                    None
                }
            }
        }
    }
}

/// How many turns there are.
fn turns(clock: Clock<'_>) -> u64 {
    let interval = clock.recheck_schedule.interval().as_nanos().max(1);
    let turns = u64::try_from(ALL_WITHIN.as_nanos() / interval).unwrap_or(u64::MAX);
    turns.max(1)
}
