//! Reasons for which a copy gives up its slot.

/// Why a running copy ends before it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The job waits for its next turn, as if it had not started.
    Requeue,
    /// The copy took long, others wait, and too many long copies run: it waits for a slot for long copies. This is no
    /// failure.
    MakeRoom,
    GiveUp {
        /// One sentence.
        reason: String,
        blame: Blame,
    },
}

/// Which images move to the penalty queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// None: the cause may be the backup, or a pause that the source requested. Failed images still wait behind untried
    /// ones.
    Nobody,
    /// This image: other images of its source arrive.
    Image,
    /// All images of the source.
    Source,
    /// All images of the source; this image also after the source delivers again.
    Both,
}

impl Blame {
    pub(super) fn is_on_source(self) -> bool {
        matches!(self, Self::Source | Self::Both)
    }

    pub(super) fn is_on_image(self) -> bool {
        matches!(self, Self::Image | Self::Both)
    }
}
