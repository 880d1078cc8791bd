//! What is to be done for an image, and how far it is.

/// What is to be done for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Make its copy. What the backup has of it is believed to be whole.
    Copy,
    /// Make its copy again, which was there and vanished: everything that the backup still has of it is checked.
    Restore,
    /// Make the copy follow its original. The older copy stays in place meanwhile, and also if that fails.
    Update,
}

/// How far the copy of an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Being made or waiting for its turn, in words.
    Pending(String),
    /// The last attempt failed.
    Failed {
        /// Why, in one sentence.
        reason: String,
        /// What is to be expected of the next one.
        outlook: Outlook,
    },
    /// Not accepted: its namespace has too many images in the queue. It must be requested again.
    Full,
}

/// What is to be expected after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It may pass by itself.
    Passing,
    /// It will fail again until somebody changes something.
    Lasting,
    /// The same, because the source has no such image, or shows none to this client.
    Absent,
}
