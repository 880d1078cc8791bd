//! What all registries of one set share.

use super::clients::Clients;
use super::memory_budget::MemoryBudget;
use super::options::RegistryOptions;
use super::traffic::Counters;
use crate::address_policy::AddressPolicy;
use crate::registry::digest_tags::DigestTagLists;
use std::sync::Arc;

/// What all hosts share.
pub(crate) struct Common {
    pub(crate) options: RegistryOptions,
    pub(crate) address_policy: Arc<AddressPolicy>,
    pub(crate) clients: Clients,
    pub(crate) memory: MemoryBudget,
    pub(crate) digest_tags: DigestTagLists,
    /// Of all hosts together, those that were forgotten included.
    pub(crate) counters: Counters,
}
