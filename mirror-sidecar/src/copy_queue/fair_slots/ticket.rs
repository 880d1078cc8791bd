//! A job that waits for a slot.

use std::sync::Arc;

use super::super::sources::Source;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copy_queue) enum Lane {
    /// An object in the cluster uses the image.
    InUse,
    /// Admission requested the image.
    Requested,
}

/// The history of the image. Images of different sorts do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::copy_queue) enum Sort {
    Normal,
    /// The last attempt failed.
    Failed,
    /// The copy took long and made room for others.
    Long,
    /// The image itself was too slow.
    Penalized,
}

/// A job that waits for a slot.
#[derive(Clone, Debug)]
pub(in crate::copy_queue) struct Ticket {
    pub(in crate::copy_queue) lane: Lane,
    /// The namespaces that use the image; it is served in the turn of each. Not empty.
    pub(in crate::copy_queue) groups: Vec<Arc<str>>,
    pub(in crate::copy_queue) source: Source,
    /// The copy existed and is lost: served before the other images in use.
    pub(in crate::copy_queue) is_restore: bool,
    pub(in crate::copy_queue) sort: Sort,
    /// The image may have killed the process, so it is copied alone.
    pub(in crate::copy_queue) is_isolated: bool,
    /// Failed attempts in a row.
    pub(in crate::copy_queue) failures: u32,
}
