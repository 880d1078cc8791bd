//! The registries that may have private addresses.

use std::collections::BTreeSet;

/// The registries that may have addresses which are not public: private, loopback, link-local and all other special
/// ranges, by a literal address or by what their name resolves to. A name without a public suffix (`localhost`,
/// `harbor.registry.svc`) is private whatever it resolves to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PrivateHosts {
    /// All of them: a user who names the registries may reach what this process can reach. Only metadata services and
    /// link-local addresses stay out of reach of names with a public suffix.
    #[default]
    All,
    /// These (`host` or `host:port`) and the insecure hosts: somebody else names the registries.
    Only(BTreeSet<String>),
}
