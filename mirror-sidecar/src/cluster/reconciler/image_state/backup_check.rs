//! Results of checks of the copy in the backup.

use std::time::Duration;

use mirror_contract::Digest;
use tokio::time::Instant;

use crate::backoff::doubling;
use crate::cluster::reconciler::recheck_schedule::{Clock, LONGEST_WAIT};

/// Backoff after the first check without a result.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// Longest backoff for a copy that another replica makes: workloads wait for it.
pub(super) const LONGEST_POLL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct BackupState {
    /// The digest of the copy when it was last seen.
    pub known: Option<Digest<'static>>,
    pub integrity: Integrity,
    /// This replica has seen `known` since it became the owner.
    is_witness: bool,
    /// `None` if there is nothing to check.
    pub check_at: Option<Instant>,
    /// Checks in a row that did not find the copy.
    pub misses: u32,
    /// Checks in a row without a response from the registry.
    outages: u32,
    /// When the registry last responded.
    pub checked_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integrity {
    /// The copy is as it should be, as far as is known.
    Intact,
    /// The digest of the copy is not `known`, and no job of this replica explains that.
    Changed,
    /// The tag of the copy must be reset to `known`.
    Restoring,
}

impl BackupState {
    pub(super) fn new(first_check: Instant) -> Self {
        Self {
            known: None,
            integrity: Integrity::Intact,
            is_witness: false,
            check_at: Some(first_check),
            misses: 0,
            outages: 0,
            checked_at: None,
        }
    }

    /// Forgets the conclusions from earlier checks, but not the digest of the copy.
    pub(super) fn distrust(&mut self) {
        self.is_witness = false;
        self.integrity = Integrity::Intact;
        self.misses = 0;
    }

    pub(super) fn responded(&mut self, now: Instant) {
        self.outages = 0;
        self.checked_at = Some(now);
    }

    /// Backs off after a check without a result, which does not mean that the copy is absent.
    pub(super) fn failed(&mut self, is_outage: bool, clock: Clock<'_>) {
        let wait = if is_outage {
            self.outages = self.outages.saturating_add(1);
            doubling(FIRST_BACKOFF, LONGEST_POLL, self.outages)
        } else {
            LONGEST_WAIT
        };
        self.check_at = Some(clock.after(wait));
    }

    /// Backs off after a check that did not find the copy.
    pub(super) fn missed(&mut self, longest: Duration, now: Instant) {
        self.misses = self.misses.saturating_add(1);
        self.check_at = Some(now + doubling(FIRST_BACKOFF, longest, self.misses));
    }

    /// Accepts the digest of the copy unless somebody else may have changed it; returns whether a change is new.
    ///
    /// Anybody with write access to the backup can move its tags, and a restored backup moves them, too. Then the original
    /// decides. The first digest that is seen is accepted, also after a restart.
    pub(super) fn accept(
        &mut self,
        digest: &Digest<'static>,
        is_ours: bool,
        is_explained: bool,
    ) -> bool {
        let is_other = self.known.as_ref().is_some_and(|known| known != digest);
        let is_changed = is_other && self.is_witness && is_ours && !is_explained;
        self.is_witness = is_ours;
        match self.integrity {
            Integrity::Intact if is_changed => {
                self.integrity = Integrity::Changed;
                true
            }
            Integrity::Changed if is_changed => false,
            // Also if it could not be restored because the backup has lost it.
            Integrity::Intact | Integrity::Changed | Integrity::Restoring => {
                self.confirm(digest.clone());
                is_changed
            }
        }
    }

    /// Records the digest that the copy must have.
    pub(super) fn confirm(&mut self, digest: Digest<'static>) {
        self.integrity = Integrity::Intact;
        self.known = Some(digest);
    }

    /// Schedules a restore of the known digest if the copy was changed; returns whether it was.
    pub(super) fn restore_if_changed(&mut self, now: Instant) -> bool {
        let was_changed = self.integrity == Integrity::Changed;
        if was_changed {
            self.integrity = Integrity::Restoring;
            self.check_at = Some(now);
        }
        was_changed
    }
}
