//! One copy in progress: what all its parts share.

use super::options::CopyOptions;
use super::progress::Progress;
use super::referring::Referring;
use super::report::Tally;
use super::sent::Sent;
use super::sessions::Abandoned;
use super::sums::Sums;
use crate::registries::Reservation;
use crate::registry::Repository;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How often a copy is looked at while it runs: what moves, and what it waits for.
pub(super) const REPORT_EVERY: Duration = Duration::from_millis(250);

/// One copy in progress.
pub(super) struct Job<'a> {
    pub(super) source: Repository,
    pub(super) target: Repository,
    pub(super) options: &'a CopyOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) tally: Tally,
    /// Whether the target turned out to have parts of the image.
    pub(super) found_something: AtomicBool,
    /// Whether the target refused an index because parts of it are missing.
    pub(super) parts_are_missing: AtomicBool,
    /// Whether the target said that it has what it does not have.
    pub(super) misled: AtomicBool,
    /// Blobs and manifests that the target accepted from this copy.
    pub(super) sent: Sent,
    /// Memory for all that is read, at both sides.
    pub(super) reservation: Arc<Reservation>,
    pub(super) sums: Sums,
    pub(super) referring: Referring,
    pub(super) abandoned: Abandoned,
}
