//! What follows from what was seen of the backup, and from what became of copies.

use std::time::Duration;

use mirror_contract::Digest;
use tokio::time::Instant;

use super::{Clock, Doubt, ImageState, Job, LONGEST_WAIT, Original, Owner, PATIENCE, never};
use crate::backoff::doubling;
use crate::cluster::copy_status::State;
use crate::cluster::reconciler::probe::Blind;
use crate::copy_queue::{Outlook, Status, Task};
use crate::lookup::Presence;
use crate::metrics::BackupCheck;

/// Pause after the first look in vain.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Shortest pause of an image that waits for a budget: many may wait for the same.
const HELD_BACK_FOR: Duration = Duration::from_secs(30);

/// Longest time between two looks for a copy that another replica is to make: workloads wait for it.
const LONGEST_POLL: Duration = Duration::from_secs(30);

/// Pause before an image is requested again whose namespace has too many in the queue.
const FULL_PAUSE: Duration = Duration::from_mins(1);

/// What is wrong with an image of the backup that is not there.
const NO_ORIGINAL: &str =
    "it is not in the backup, and of what it was a copy cannot be told from its name";

impl ImageState {
    /// What was seen of the backup; gives what must be done.
    pub(in crate::cluster::reconciler) fn found(
        &mut self,
        seen: Result<Presence, Blind>,
        clock: Clock<'_>,
    ) -> (BackupCheck, Option<Task>) {
        if seen.is_ok() {
            self.blind = 0;
        }
        match seen {
            Err(blind) => {
                // Nothing is called missing because it cannot be seen.
                let wait = if blind.is_outage {
                    self.blind = self.blind.saturating_add(1);
                    doubling(FIRST_PAUSE, LONGEST_POLL, self.blind)
                } else {
                    LONGEST_WAIT
                };
                self.look_at = Some(clock.now + clock.at_most(wait));
                (BackupCheck::Unavailable, None)
            }
            Ok(Presence::Complete { digest, repaired }) => {
                if !matches!(self.state, State::Unknown | State::Mirrored { .. }) {
                    self.made_at = (self.owner == Owner::Ours).then_some(clock.now);
                }
                let is_changed = self.judge(&digest, clock.now);
                self.state = State::Mirrored { digest };
                self.vain = 0;
                self.absences = 0;
                self.failing_since = None;
                if matches!(self.job, Job::Made | Job::Updated) {
                    self.job = Job::None;
                }
                self.look_at = Some(clock.recheck_schedule.next(self.phase, clock.now));
                self.copy_was_seen(clock.now);
                let result = if is_changed {
                    BackupCheck::Changed
                } else if repaired {
                    BackupCheck::Repaired
                } else {
                    BackupCheck::Present
                };
                (result, None)
            }
            // The upload decides; until then a copy that was seen before counts as being there.
            Ok(Presence::Hidden) if self.is_mirrored() && self.owner == Owner::Ours => {
                self.job = Job::Updating;
                self.look_at = Some(clock.recheck_schedule.next(self.phase, clock.now));
                (BackupCheck::Unavailable, Some(Task::Restore))
            }
            Ok(Presence::Missing | Presence::Hidden) => (BackupCheck::Missing, self.lost(clock)),
        }
    }

    /// Takes over what the copy is, unless somebody else may have changed it; says whether that is new.
    ///
    /// The backup's tags can be changed by everybody who may write there, and by whoever restores it from somewhere. What
    /// the original says decides then; see [`Self::asked`]. What is seen first is believed, also after a restart.
    fn judge(&mut self, digest: &Digest<'static>, now: Instant) -> bool {
        let is_explained = match self.job {
            Job::None => false,
            Job::Made | Job::Updated => true,
            // What was wrong before is not explained by it.
            Job::Updating => self.doubt == Doubt::None,
        };
        let is_other = self.known.as_ref().is_some_and(|known| known != digest);
        let is_changed = is_other && self.is_witness && self.owner == Owner::Ours && !is_explained;
        self.is_witness = self.owner == Owner::Ours;
        match self.doubt {
            Doubt::None if is_changed => {
                self.doubt = Doubt::Changed;
                self.upstream_at = now;
                true
            }
            // That is known already.
            Doubt::Changed if is_changed => false,
            // Also if it could not be put back, because the backup does not have it any more.
            Doubt::None | Doubt::Changed | Doubt::PutBack => {
                self.doubt = Doubt::None;
                self.known = Some(digest.clone());
                is_changed
            }
        }
    }

    /// There is no copy; gives what must be done.
    pub(super) fn lost(&mut self, clock: Clock<'_>) -> Option<Task> {
        if let Original::Absent(times) = self.original {
            self.absences = self.absences.max(times);
        }
        self.original = Original::Fine;
        self.doubt = Doubt::None;
        match self.owner {
            Owner::Foreign => {
                self.state = never(NO_ORIGINAL);
                self.look_at = Some(clock.now + clock.at_most(LONGEST_WAIT));
                None
            }
            Owner::Others => {
                if !matches!(self.state, State::Never { .. }) {
                    self.state = State::Missing;
                }
                self.look_at = Some(clock.now + self.vain_pause(LONGEST_POLL, clock.now));
                None
            }
            // It would be made again and again, as fast as it can be.
            Owner::Ours if self.job == Job::Made => {
                self.job = Job::None;
                self.state = State::Missing;
                self.look_at = Some(clock.now + self.vain_pause(LONGEST_WAIT, clock.now));
                None
            }
            Owner::Ours => {
                self.job = Job::None;
                self.state = State::Copying;
                self.look_at = Some(clock.now + LONGEST_WAIT);
                Some(if self.known.is_some() {
                    Task::Restore
                } else {
                    Task::Copy
                })
            }
        }
    }

    /// How far the copy is that the queue makes; `None` when it makes none.
    pub(in crate::cluster::reconciler) fn follow(
        &mut self,
        status: Option<Status>,
        clock: Clock<'_>,
    ) {
        let look_now = Some(clock.now);
        match status {
            None if self.job == Job::Updating => {
                self.job = Job::Updated;
                self.look_at = look_now;
            }
            // It may have failed before, and have been tried again by itself.
            None if matches!(self.state, State::Copying | State::Failed { .. }) => {
                self.job = Job::Made;
                self.state = State::Missing;
                self.look_at = look_now;
            }
            Some(Status::Failed { reason, outlook }) => self.failed(&reason, outlook, clock),
            Some(Status::Pending(_)) if !self.is_mirrored() => self.state = State::Copying,
            Some(Status::Full) if !self.is_mirrored() => {
                self.state = State::Missing;
                self.look_at = Some(clock.now + clock.at_most(FULL_PAUSE));
            }
            // The older copy stays what it is; the tag is checked again in the next turn.
            Some(Status::Full) => self.job = Job::None,
            None | Some(Status::Pending(_)) => {}
        }
    }

    /// It may not be copied yet, but from then on.
    pub(in crate::cluster::reconciler) fn hold_back(&mut self, until: Instant, clock: Clock<'_>) {
        self.job = Job::None;
        self.referrers.were_not_copied();
        if !self.is_mirrored() {
            self.state = State::Missing;
            let longest = clock.now + clock.at_most(LONGEST_WAIT);
            self.look_at = Some(until.max(clock.now + HELD_BACK_FOR).min(longest));
        }
    }

    fn failed(&mut self, reason: &str, outlook: Outlook, clock: Clock<'_>) {
        if outlook == Outlook::Absent {
            self.record_absence();
            self.absences = self.absences.saturating_add(1);
        }
        if self.is_mirrored() {
            // The older copy stays what it is; the tag is looked at again in the next turn.
            self.job = Job::None;
            return;
        }
        self.failing_since.get_or_insert(clock.now);
        let state = match outlook {
            Outlook::Lasting | Outlook::Absent => never(reason),
            Outlook::Passing => State::Failed {
                reason: reason.into(),
            },
        };
        if self.state != state {
            self.state = state;
            self.look_at = Some(clock.now + clock.at_most(LONGEST_WAIT));
        }
    }

    /// The pause after one more look in vain.
    fn vain_pause(&mut self, longest: Duration, now: Instant) -> Duration {
        self.vain = self.vain.saturating_add(1);
        if self.vain == PATIENCE {
            self.upstream_at = now;
        }
        doubling(FIRST_PAUSE, longest, self.vain)
    }
}
