//! Checks of the original in its own registry.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    CONFIRMING_ABSENCES, Clock, ImageState, Integrity, JobStage, LONGEST_WAIT, Owner, never,
};
use crate::cluster::config::OnMovedTag;
use crate::cluster::copy_status::State;
use crate::cluster::reconciler::image_checks::Upstream;
use crate::cluster::reconciler::metrics::UpstreamCheck;
use crate::copy_queue::Task;

/// Pause before an absence is confirmed: a registry may have a bad moment.
const ABSENCE_PAUSE: Duration = Duration::from_mins(1);

/// What is known about the original.
#[derive(Debug)]
pub(super) struct UpstreamState {
    pub(super) original: Original,
    pub(super) check_at: Instant,
    /// Absences in a row while there was no copy.
    pub(super) absences: u8,
    /// The turn of the re-check schedule in which the copy last followed its tag.
    updated_in: Option<u128>,
}

/// The original while there is a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Original {
    /// It is what the copy is, or nothing else is known.
    Present,
    /// Its tag moved, and the copy stays.
    Moved,
    /// It was not found this many times in a row.
    Absent(u8),
}

impl UpstreamState {
    pub(super) fn new(check_at: Instant) -> Self {
        Self {
            original: Original::Present,
            check_at,
            absences: 0,
            updated_in: None,
        }
    }

    /// Forgets the results of earlier checks.
    pub(super) fn reset(&mut self, check_at: Instant) {
        *self = Self {
            updated_in: self.updated_in,
            ..Self::new(check_at)
        };
    }

    /// The original of a copy is confirmed to be gone.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.original, Original::Absent(times) if times >= CONFIRMING_ABSENCES)
    }
}

impl ImageState {
    /// Applies the response of the original's registry; returns the task that follows.
    pub(in crate::cluster::reconciler) fn upstream_checked(
        &mut self,
        upstream: Upstream,
        on_moved: OnMovedTag,
        clock: Clock<'_>,
    ) -> (UpstreamCheck, Option<Task>) {
        self.upstream.check_at = clock.recheck_schedule.next(self.phase, clock.now);
        let result = match &upstream {
            Upstream::Is(_) => UpstreamCheck::Current,
            Upstream::Absent => UpstreamCheck::Gone,
            Upstream::Unknown { .. } => UpstreamCheck::Unknown,
        };
        match (&self.state, upstream) {
            (State::Mirrored { digest }, Upstream::Is(original)) if *digest == original => {
                self.upstream.original = Original::Present;
                // The copy has the digest of the original, no matter who changed it.
                self.backup.integrity = Integrity::Intact;
                self.backup.known = Some(original);
                (result, None)
            }
            (State::Mirrored { .. }, Upstream::Is(original)) => {
                if on_moved == OnMovedTag::Keep && self.restore_known(clock.now) {
                    let is_old = self.backup.known.as_ref() == Some(&original);
                    self.upstream.original = if is_old {
                        Original::Present
                    } else {
                        Original::Moved
                    };
                    return (UpstreamCheck::Kept, None);
                }
                self.tag_moved(on_moved, clock)
            }
            (State::Mirrored { .. }, Upstream::Absent) => {
                self.original_absent(clock);
                self.restore_known(clock.now);
                (result, None)
            }
            (State::Mirrored { .. }, Upstream::Unknown { lasting, .. }) => {
                if self.backup.integrity == Integrity::Changed
                    && !lasting
                    && on_moved == OnMovedTag::Update
                {
                    self.upstream.check_at = clock.now + clock.at_most(LONGEST_WAIT);
                } else {
                    // Many registries do not disclose that an image is gone.
                    self.restore_known(clock.now);
                }
                (result, None)
            }
            (_, upstream) => {
                self.explain_missing(upstream, clock);
                (result, None)
            }
        }
    }

    /// Schedules a restore of the known digest if the copy was changed; returns whether it was.
    fn restore_known(&mut self, now: Instant) -> bool {
        let was_changed = self.backup.integrity == Integrity::Changed;
        if was_changed {
            self.backup.integrity = Integrity::Restoring;
            self.backup.check_at = Some(now);
        }
        was_changed
    }

    fn tag_moved(
        &mut self,
        on_moved: OnMovedTag,
        clock: Clock<'_>,
    ) -> (UpstreamCheck, Option<Task>) {
        let turn = clock.recheck_schedule.turn(self.phase, clock.now);
        match on_moved {
            OnMovedTag::Keep => {
                self.upstream.original = Original::Moved;
                (UpstreamCheck::Kept, None)
            }
            // Two servers of one registry may disagree; the copy must not flap between them.
            OnMovedTag::Update if self.upstream.updated_in == Some(turn) => {
                self.upstream.original = Original::Present;
                (UpstreamCheck::Kept, None)
            }
            OnMovedTag::Update => {
                self.upstream.original = Original::Present;
                self.upstream.updated_in = Some(turn);
                self.job.stage = JobStage::Updating;
                (UpstreamCheck::Updated, Some(Task::Update))
            }
        }
    }

    fn original_absent(&mut self, clock: Clock<'_>) {
        let before = match self.upstream.original {
            Original::Absent(times) => times,
            Original::Present | Original::Moved => 0,
        };
        let times = before.saturating_add(1);
        self.upstream.original = Original::Absent(times);
        if times < CONFIRMING_ABSENCES {
            self.upstream.check_at = clock.now + clock.at_most(ABSENCE_PAUSE);
        }
    }

    /// Records why another replica has made no copy.
    fn explain_missing(&mut self, upstream: Upstream, clock: Clock<'_>) {
        if self.owner != Owner::Others {
            return;
        }
        self.upstream.check_at = clock.now + clock.at_most(LONGEST_WAIT);
        if matches!(
            upstream,
            Upstream::Absent | Upstream::Unknown { lasting: true, .. }
        ) {
            self.mark_late_tag();
        }
        match upstream {
            Upstream::Absent => self.state = never("its registry has no such image"),
            Upstream::Unknown {
                reason,
                lasting: true,
            } => self.state = never(&reason),
            Upstream::Is(_) if matches!(self.state, State::Never { .. }) => {
                self.state = State::Missing;
            }
            Upstream::Is(_) | Upstream::Unknown { .. } => {}
        }
    }
}
