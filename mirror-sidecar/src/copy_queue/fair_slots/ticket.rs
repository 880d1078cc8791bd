//! An image that waits for a slot.

use std::sync::Arc;

use super::super::sources::Source;

/// Who needs a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copy_queue) enum Lane {
    /// Something in the cluster runs it.
    InUse,
    /// Admission asked for it.
    Requested,
}

/// What happened to the image before. Those that differ in it do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::copy_queue) enum Sort {
    Normal,
    /// Its last attempt failed.
    Failed,
    /// It took long, and made room for others.
    Long,
    /// It was too slow itself.
    Penalized,
}

/// An image that waits for a slot.
#[derive(Clone, Debug)]
pub(in crate::copy_queue) struct Ticket {
    pub(in crate::copy_queue) lane: Lane,
    /// The namespaces that use the image; it is served in the turn of each. Not empty.
    pub(in crate::copy_queue) groups: Vec<Arc<str>>,
    pub(in crate::copy_queue) source: Source,
    /// Its copy was there and is lost: it goes before the other images in use.
    pub(in crate::copy_queue) is_restore: bool,
    pub(in crate::copy_queue) sort: Sort,
    /// It may have ended the process before, so it runs while nothing else does.
    pub(in crate::copy_queue) is_isolated: bool,
    /// Attempts that failed in a row.
    pub(in crate::copy_queue) failures: u32,
}
