//! Limits of concurrent blob transfers per host.

use super::aimd::AimdLimit;
use crate::error::Operation;

/// Blobs read concurrently from one host. Less than what may be written to one, so that one source that hangs
/// cannot keep everything else from a target.
const READING: usize = 48;

/// Blobs written to one host at first, and at most.
const WRITING: (usize, usize) = (64, 96);

/// The places of one host.
pub(super) struct TransferPermits {
    pub(super) reading: AimdLimit,
    pub(super) writing: AimdLimit,
}

impl Default for TransferPermits {
    fn default() -> Self {
        Self {
            reading: AimdLimit::new(READING, READING),
            writing: AimdLimit::new(WRITING.0, WRITING.1),
        }
    }
}

impl TransferPermits {
    /// The host refused this operation because there were too many.
    pub(super) fn too_many(&self, operation: Operation) {
        if !operation.is_write() {
            self.reading.too_many();
        }
        self.writing.too_many();
    }
}
