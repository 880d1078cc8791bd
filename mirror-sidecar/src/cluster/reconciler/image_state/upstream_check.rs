//! What follows from what the registry of the original said.

use std::time::Duration;

use tokio::time::Instant;

use super::{ABSENCES, Clock, Doubt, ImageState, Job, LONGEST_WAIT, Original, Owner, never};
use crate::args::OnMovedTag;
use crate::cluster::copy_status::State;
use crate::copy_queue::Task;
use crate::lookup::Upstream;
use crate::metrics::UpstreamCheck;

/// Pause before a second look at an original that is gone. A registry may have a bad moment.
const ABSENCE_PAUSE: Duration = Duration::from_mins(1);

impl ImageState {
    /// What the original's registry said; gives what must be done.
    pub(in crate::cluster::reconciler) fn asked(
        &mut self,
        upstream: Upstream,
        on_moved: OnMovedTag,
        clock: Clock<'_>,
    ) -> (UpstreamCheck, Option<Task>) {
        self.upstream_at = clock.recheck_schedule.next(self.phase, clock.now);
        let result = match &upstream {
            Upstream::Is(_) => UpstreamCheck::Current,
            Upstream::Absent => UpstreamCheck::Gone,
            Upstream::Unknown { .. } => UpstreamCheck::Unknown,
        };
        match (&self.state, upstream) {
            (State::Mirrored { digest }, Upstream::Is(original)) if *digest == original => {
                self.original = Original::Fine;
                // That explains it: the copy is what the original is.
                self.doubt = Doubt::None;
                self.known = Some(original);
                (result, None)
            }
            (State::Mirrored { .. }, Upstream::Is(original)) => {
                if on_moved == OnMovedTag::Keep && self.put_back(clock.now) {
                    let is_old = self.known.as_ref() == Some(&original);
                    self.original = if is_old {
                        Original::Fine
                    } else {
                        Original::Moved
                    };
                    return (UpstreamCheck::Kept, None);
                }
                self.moved(on_moved, clock)
            }
            (State::Mirrored { .. }, Upstream::Absent) => {
                self.absent(clock);
                self.put_back(clock.now);
                (result, None)
            }
            (State::Mirrored { .. }, Upstream::Unknown { lasting, .. }) => {
                if self.doubt == Doubt::Changed && !lasting && on_moved == OnMovedTag::Update {
                    self.upstream_at = clock.now + clock.at_most(LONGEST_WAIT);
                } else {
                    // Many registries refuse to say that an image is gone.
                    self.put_back(clock.now);
                }
                (result, None)
            }
            (_, upstream) => {
                self.explain(upstream, clock);
                (result, None)
            }
        }
    }

    /// Has the copy put back that was known, if it was changed; says whether it was.
    fn put_back(&mut self, now: Instant) -> bool {
        let was_changed = self.doubt == Doubt::Changed;
        if was_changed {
            self.doubt = Doubt::PutBack;
            self.look_at = Some(now);
        }
        was_changed
    }

    fn moved(&mut self, on_moved: OnMovedTag, clock: Clock<'_>) -> (UpstreamCheck, Option<Task>) {
        let turn = clock.recheck_schedule.turn(self.phase, clock.now);
        match on_moved {
            OnMovedTag::Keep => {
                self.original = Original::Moved;
                (UpstreamCheck::Kept, None)
            }
            // Two servers of one registry may disagree; the copy must not go to and fro with them.
            OnMovedTag::Update if self.updated_in == Some(turn) => {
                self.original = Original::Fine;
                (UpstreamCheck::Kept, None)
            }
            OnMovedTag::Update => {
                self.original = Original::Fine;
                self.updated_in = Some(turn);
                self.job = Job::Updating;
                (UpstreamCheck::Updated, Some(Task::Update))
            }
        }
    }

    fn absent(&mut self, clock: Clock<'_>) {
        let before = match self.original {
            Original::Absent(times) => times,
            Original::Fine | Original::Moved => 0,
        };
        let times = before.saturating_add(1);
        self.original = Original::Absent(times);
        if times < ABSENCES {
            self.upstream_at = clock.now + clock.at_most(ABSENCE_PAUSE);
        }
    }

    /// Finds out why another replica has made no copy.
    fn explain(&mut self, upstream: Upstream, clock: Clock<'_>) {
        if self.owner != Owner::Others {
            return;
        }
        self.upstream_at = clock.now + clock.at_most(LONGEST_WAIT);
        if matches!(
            upstream,
            Upstream::Absent | Upstream::Unknown { lasting: true, .. }
        ) {
            self.record_absence();
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
