//! What becomes of a copy that gives up its slot.

/// Why a running copy ends before it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It waits for its next turn, as if it had not started.
    Requeue,
    /// It took long, others wait, and too many long copies run: it waits for the slot of a long one. This is no failure.
    MakeRoom,
    /// The attempt failed.
    GiveUp {
        /// One sentence.
        reason: String,
        blame: Blame,
    },
}

/// Who goes to the penalty line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// Nobody: the backup, or a pause that the source asked for, may be why. Failed images still wait behind untried ones.
    Nobody,
    /// The image: other images of its source arrive.
    Image,
    /// All images of the source.
    Source,
    /// All images of the source, and this one also when the source delivers again.
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
