//! Referrers that appear after the copy: CI pushes an image and signs it then.

use super::{Doubt, ImageState, Job, Owner};
use crate::copy_queue::Task;
use crate::lookup::UpstreamReferrers;

/// Copies requested for one list of referrers. What is still missing then cannot be copied.
const MAX_TRIES: u8 = 3;

/// The referrers of one image. Lists are known by their fingerprints.
#[derive(Debug, Default)]
pub(super) struct Referrers {
    /// The copy has all of this list, or cannot have them.
    settled: Option<u64>,
    /// The list that copies were requested for.
    tried: Option<u64>,
    tries: u8,
}

impl Referrers {
    /// The copy that was requested last was not allowed yet.
    pub(super) fn were_not_copied(&mut self) {
        self.tries = self.tries.saturating_sub(1);
    }
}

impl ImageState {
    /// The list of referrers with which there is nothing to do.
    pub(in crate::cluster::reconciler) fn known_referrers(&self) -> Option<u64> {
        self.referrers.settled
    }

    /// Records a comparison of the referrers; returns the task that brings missing ones.
    pub(in crate::cluster::reconciler) fn referrers_seen(
        &mut self,
        seen: UpstreamReferrers,
    ) -> Option<Task> {
        let list = Some(seen.fingerprint);
        let is_busy = self.job != Job::None || self.doubt != Doubt::None;
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
        self.job = Job::Updating;
        Some(Task::Update)
    }
}
