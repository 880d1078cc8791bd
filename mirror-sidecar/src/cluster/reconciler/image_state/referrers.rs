//! Referrers that appear after the copy: CI pushes an image, then signs it.

use crate::cluster::reconciler::referrer_checks::{ByKind, ReferrersPlan, UpstreamReferrers};

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
    /// The referrers to check in this `turn` of the re-check schedule.
    pub(super) fn plan(&self, turn: u128) -> ReferrersPlan {
        let settled = |progress: &Progress| match *progress {
            Progress::Settled(fingerprint) => Some(fingerprint),
            Progress::Unknown | Progress::Requested { .. } => None,
        };
        ReferrersPlan {
            known: self.0.map(settled),
            turn,
        }
    }

    /// Records comparisons with the original; returns whether to request a copy for missing ones.
    pub(super) fn checked(&mut self, checked: &[UpstreamReferrers]) -> bool {
        self.end_latest(true);
        let mut is_to_copy = false;
        for referrers in checked {
            is_to_copy |= self.record(*referrers);
        }
        is_to_copy
    }

    /// Ends the latest request. It does not count as a try unless it `was_allowed`.
    pub(super) fn end_latest(&mut self, was_allowed: bool) {
        self.0 = self.0.map(|progress| match *progress {
            Progress::Requested {
                fingerprint,
                tries,
                is_latest,
            } => Progress::Requested {
                fingerprint,
                tries: tries.saturating_sub(u8::from(is_latest && !was_allowed)),
                is_latest: false,
            },
            progress => progress,
        });
    }

    fn record(&mut self, checked: UpstreamReferrers) -> bool {
        let fingerprint = checked.fingerprint;
        let progress = self.0.of_mut(checked.kind);
        let tries = match *progress {
            Progress::Requested {
                fingerprint: requested,
                tries,
                ..
            } if requested == fingerprint => tries,
            Progress::Settled(settled) if settled == fingerprint => MAX_TRIES,
            _ => 0,
        };
        let is_to_copy = checked.are_missing && tries < MAX_TRIES;
        *progress = if is_to_copy {
            Progress::Requested {
                fingerprint,
                tries: tries + 1,
                is_latest: true,
            }
        } else {
            Progress::Settled(fingerprint)
        };
        is_to_copy
    }
}
