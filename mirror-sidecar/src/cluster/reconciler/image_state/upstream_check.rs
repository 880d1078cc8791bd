//! Results of checks of the original in its own registry.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::config::OnMovedTag;
use crate::cluster::copy_status::Upstream;
use crate::cluster::reconciler::recheck_schedule::Clock;

/// Wait before an absence is confirmed: a registry may fail for a moment.
const CONFIRM_AFTER: Duration = Duration::from_mins(1);

/// Absences in a row that confirm that an original is gone.
pub(super) const CONFIRMING_ABSENCES: u8 = 2;

#[derive(Debug)]
pub(super) struct UpstreamState {
    pub original: Original,
    /// For the status. Nothing follows from it.
    pub last_seen: Upstream,
    pub check_at: Instant,
    /// Absences in a row while there was no copy.
    pub absences: u8,
    /// The turn of the re-check schedule in which the copy last followed its tag.
    updated_in: Option<u128>,
}

/// The original while there is a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Original {
    /// The original has the digest of the copy, or nothing else is known.
    Present,
    /// The tag of the original moved, and the copy stays.
    Moved,
    /// The original was not found this many times in a row.
    Absent(u8),
}

impl UpstreamState {
    pub(super) fn new(check_at: Instant) -> Self {
        Self {
            original: Original::Present,
            last_seen: Upstream::Unknown,
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

    /// Records that the tag moved; returns whether the copy follows in this `turn`.
    pub(super) fn moved(&mut self, on_moved: OnMovedTag, turn: u128) -> bool {
        match on_moved {
            OnMovedTag::Keep => {
                self.original = Original::Moved;
                false
            }
            OnMovedTag::Update => {
                self.original = Original::Present;
                // Two servers of one registry may disagree; the copy must not flap between them.
                self.updated_in.replace(turn) != Some(turn)
            }
        }
    }

    /// Records that the original was not found while there is a copy.
    pub(super) fn absent(&mut self, clock: Clock<'_>) {
        let before = match self.original {
            Original::Absent(times) => times,
            Original::Present | Original::Moved => 0,
        };
        let times = before.saturating_add(1);
        self.original = Original::Absent(times);
        if times < CONFIRMING_ABSENCES {
            self.check_at = clock.after(CONFIRM_AFTER);
        }
    }

    /// Records that there is no copy any more. Absences of the original still count.
    pub(super) fn copy_missing(&mut self) {
        if let Original::Absent(times) = self.original {
            self.absences = self.absences.max(times);
        }
        self.original = Original::Present;
    }
}
