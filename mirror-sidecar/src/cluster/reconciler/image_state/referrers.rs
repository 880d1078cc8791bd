//! Referrers that appear after the copy: CI pushes an image, then signs it.

use super::{ImageState, Integrity, JobStage, Owner};
use crate::copy_queue::Task;
use crate::lookup::UpstreamReferrers;

/// Updates requested for one list of referrers. Referrers that are still missing then cannot be copied.
const MAX_TRIES: u8 = 3;

/// What is known about the referrers of an image. Lists are compared by fingerprint.
#[derive(Debug, Default)]
pub(super) struct Referrers {
    /// The list that needs no further update: the copy has all of it, or cannot.
    settled: Option<u64>,
    /// The list that updates were requested for.
    tried: Option<u64>,
    tries: u8,
}

impl Referrers {
    /// The requested update was not allowed yet.
    pub(super) fn not_copied(&mut self) {
        self.tries = self.tries.saturating_sub(1);
    }
}

impl ImageState {
    /// The list that needs no further update.
    pub(in crate::cluster::reconciler) fn settled_referrers(&self) -> Option<u64> {
        self.referrers.settled
    }

    /// Applies a comparison of the referrers; returns the task that copies missing ones.
    pub(in crate::cluster::reconciler) fn referrers_checked(
        &mut self,
        seen: UpstreamReferrers,
    ) -> Option<Task> {
        let list = Some(seen.fingerprint);
        let is_busy =
            self.job.stage != JobStage::None || self.backup.integrity != Integrity::Intact;
        if self.owner != Owner::Ours || !self.is_mirrored() || is_busy {
            return None;
        }
        let referrers = &mut self.referrers;
        if referrers.tried != list {
            referrers.tried = list;
            referrers.tries = 0;
        }
        if !seen.are_missing || referrers.tries >= MAX_TRIES {
            referrers.settled = list;
            return None;
        }
        referrers.tries += 1;
        self.job.stage = JobStage::Updating;
        Some(Task::Update)
    }
}
