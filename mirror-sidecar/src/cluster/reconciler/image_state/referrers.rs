//! Referrers that appear after the copy: CI pushes an image, then signs it.

use super::{Clock, ImageState, Integrity, JobStage, Owner};
use crate::cluster::reconciler::referrer_checks::{ByKind, ReferrersPlan, UpstreamReferrers};
use crate::copy_queue::Task;

/// Copies requested for the same referrers of a kind. What is still missing then cannot be copied.
const MAX_TRIES: u8 = 3;

/// The referrers of one image.
#[derive(Debug, Default)]
pub(super) struct Referrers(ByKind<Progress>);

/// How far the copy has the referrers of one kind, which are known by their fingerprint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Unknown,
    /// Copies were requested for them.
    Requested {
        fingerprint: u64,
        tries: u8,
        /// The copy that was requested last is for them.
        is_latest: bool,
    },
    /// The copy has all of them, or cannot have them.
    Settled(u64),
}

impl Referrers {
    /// The requested update was not allowed yet.
    pub(super) fn not_copied(&mut self) {
        self.0 = self.0.map(|progress| match *progress {
            Progress::Requested {
                fingerprint,
                tries,
                is_latest: true,
            } => Progress::Requested {
                fingerprint,
                tries: tries.saturating_sub(1),
                is_latest: false,
            },
            progress => progress,
        });
    }

    /// A copy is to be requested, for nothing so far.
    fn forget_latest(&mut self) {
        self.0 = self.0.map(|progress| match *progress {
            Progress::Requested {
                fingerprint, tries, ..
            } => Progress::Requested {
                fingerprint,
                tries,
                is_latest: false,
            },
            progress => progress,
        });
    }

    /// Records a comparison; returns whether to request a copy for it.
    fn seen(&mut self, seen: UpstreamReferrers) -> bool {
        let fingerprint = seen.fingerprint;
        let progress = self.0.of_mut(seen.kind);
        let tries = match *progress {
            Progress::Requested {
                fingerprint: requested,
                tries,
                ..
            } if requested == fingerprint => tries,
            Progress::Settled(settled) if settled == fingerprint => MAX_TRIES,
            _ => 0,
        };
        let is_to_try = seen.are_missing && tries < MAX_TRIES;
        *progress = if is_to_try {
            Progress::Requested {
                fingerprint,
                tries: tries + 1,
                is_latest: true,
            }
        } else {
            Progress::Settled(fingerprint)
        };
        is_to_try
    }
}

impl ImageState {
    /// What to check of the referrers now.
    pub(in crate::cluster::reconciler) fn referrers_plan(&self, clock: Clock<'_>) -> ReferrersPlan {
        let settled = |progress: &Progress| match *progress {
            Progress::Settled(fingerprint) => Some(fingerprint),
            Progress::Unknown | Progress::Requested { .. } => None,
        };
        ReferrersPlan {
            known: self.referrers.0.map(settled),
            turn: clock.recheck_schedule.turn(self.phase, clock.now),
        }
    }

    /// Applies comparisons of the referrers; returns the task that copies missing ones.
    pub(in crate::cluster::reconciler) fn referrers_checked(
        &mut self,
        seen: &[UpstreamReferrers],
    ) -> Option<Task> {
        let is_busy =
            self.job.stage != JobStage::None || self.backup.integrity != Integrity::Intact;
        if self.owner != Owner::Ours || !self.is_mirrored() || is_busy {
            return None;
        }
        self.referrers.forget_latest();
        let mut is_to_try = false;
        for seen in seen {
            is_to_try |= self.referrers.seen(*seen);
        }
        is_to_try.then(|| {
            self.job.stage = JobStage::Updating;
            Task::Update
        })
    }
}
