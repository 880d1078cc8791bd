//! The limits of one registry host.

use super::host_pause::HostPauses;
use super::transfer_permits::TransferLimits;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The limits of one host, which sets with different credentials share.
pub(crate) struct HostLimits {
    pub(super) pauses: HostPauses,
    pub(super) transfers: TransferLimits,
    /// Requests that belong to no copy hold a large body one at a time.
    pub(super) large_body: Arc<Semaphore>,
}

impl Default for HostLimits {
    fn default() -> Self {
        Self {
            pauses: HostPauses::default(),
            transfers: TransferLimits::default(),
            large_body: Arc::new(Semaphore::new(1)),
        }
    }
}
