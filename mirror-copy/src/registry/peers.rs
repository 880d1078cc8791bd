//! The kinds of addresses that answered on behalf of a registry.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The kinds of addresses that answered requests on behalf of a registry.
#[derive(Default)]
pub(super) struct Peers {
    pub(super) own_public: AtomicBool,
    pub(super) own_private: AtomicBool,
    pub(super) other_private: AtomicBool,
    /// The group of the address of the registry itself that responded last.
    pub(super) address: Mutex<Option<IpAddr>>,
}

impl Peers {
    pub(super) fn address(&self) -> MutexGuard<'_, Option<IpAddr>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
