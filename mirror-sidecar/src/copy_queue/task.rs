//! Tasks of the copy queue, and their status.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Create the copy. Content that the backup reports is trusted.
    Copy,
    /// Create the copy again after it vanished. All content that the backup still has is verified.
    Restore,
    /// Update the copy to its original. The older copy stays in place meanwhile, and also if the update fails.
    Update,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Queued or running; with a description.
    Pending(String),
    Failed {
        /// One sentence.
        reason: String,
        outlook: Outlook,
    },
    /// Not accepted: the namespace has too many images in the queue. The image must be requested again.
    Full,
}

/// The expected result of the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// The failure may be transient.
    Passing,
    /// The failure lasts until somebody fixes its cause.
    Lasting,
    /// Lasting: the source has no such image, or shows none to this client.
    Absent,
}
