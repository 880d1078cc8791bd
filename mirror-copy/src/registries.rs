//! The process's set of registries: one [`Registry`] per host, made on first use.

mod certificates;
mod clients;
pub(crate) mod common;
mod error;
pub(crate) mod host;
mod memory_budget;
pub(crate) mod metadata_budget;
pub(crate) mod options;
mod p521;
mod tls;
pub(crate) mod traffic;

pub use error::SetupError;
pub use metadata_budget::{MemoryPlace, MetadataBudget};
pub use options::{RegistryOptions, RetryPolicy, Timeouts};
pub(crate) use traffic::Counters;
pub use traffic::Traffic;

use crate::address_policy::{AddressPolicy, PrivateHosts};
use crate::registry::{DigestTagLists, Registry};
use clients::Clients;
use common::Common;
use host::Endpoint;
pub(crate) use memory_budget::{MemoryBudget, Share};
pub(crate) use metadata_budget::{BeyondLimit, Lease, Leased, Reservation};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Hosts remembered at once. Over this, those that nobody uses are forgotten with their tokens.
const MAX_HOSTS: usize = 128;

/// Of these, hosts that nobody uses and that asked for a pause or turned out to be private: invented names must not make
/// us forget that.
const MAX_NOTED_HOSTS: usize = 256;

/// The process's set of registries. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Registries {
    common: Arc<Common>,
    hosts: Arc<Mutex<HashMap<String, Registry>>>,
}

impl Registries {
    /// Makes the set. Reads the platform's root certificates once; contacts nobody.
    pub fn new(mut options: RegistryOptions) -> Result<Self, SetupError> {
        options.insecure_hosts = options
            .insecure_hosts
            .iter()
            .map(|name| host::spelled(name))
            .collect();
        options.hosts_without_client_certificate = options
            .hosts_without_client_certificate
            .iter()
            .map(|name| host::canonical(name))
            .collect();
        if let PrivateHosts::Only(names) = &mut options.private_hosts {
            *names = names.iter().map(|name| host::canonical(name)).collect();
        }
        let address_policy = Arc::new(AddressPolicy::new(
            options.private_hosts.clone(),
            options.private_networks.clone(),
            Arc::clone(&options.resolver),
        ));
        let common = Common {
            clients: Clients::new(&options, &address_policy)?,
            address_policy,
            options,
            memory: MemoryBudget::default(),
            digest_tags: DigestTagLists::default(),
            counters: Counters::default(),
        };
        Ok(Self {
            common: Arc::new(common),
            hosts: Arc::default(),
        })
    }

    /// The registry at `host[:port]`. `docker.io` and its aliases such as `registry-1.docker.io` are
    /// the same registry, and so is any host spoken to by HTTPS with and without port 443. Contacts nobody.
    ///
    /// # Errors
    /// [`SetupError::Host`] for what is no host, [`SetupError::Private`] for what [`PrivateHosts`] does not allow.
    pub fn get(&self, host: &str) -> Result<Registry, SetupError> {
        let name = host::canonical_beside(host, &self.common.options.insecure_hosts);
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(&name) {
            return Ok(known.clone());
        }
        let endpoint = Endpoint::new(&name, &self.common.options.insecure_hosts)
            .ok_or_else(|| SetupError::Host(crate::text::clean(host)))?;
        let Some(allowance) = self.common.address_policy.of_registry(&endpoint) else {
            return Err(SetupError::Private(name));
        };
        if hosts.len() >= MAX_HOSTS {
            let mut noted = 0;
            hosts.retain(|_, registry| {
                let is_noted = registry.are_writes_paused() || !registry.has_public_errors();
                let is_kept = is_noted && noted < MAX_NOTED_HOSTS;
                noted += usize::from(is_kept);
                is_kept || registry.is_used_elsewhere()
            });
        }
        let registry = Registry::new(endpoint, allowance, Arc::clone(&self.common));
        hosts.insert(name, registry.clone());
        Ok(registry)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.hosts.lock().unwrap().len()
    }

    /// What was asked of all registries of this set so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.common.counters.read()
    }
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries")
            .field("options", &self.common.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(private_hosts: PrivateHosts) -> Registries {
        let options = RegistryOptions {
            insecure_hosts: ["localhost:5000".to_owned(), "10.0.0.7".to_owned()].into(),
            private_hosts,
            ..RegistryOptions::default()
        };
        Registries::new(options).unwrap()
    }

    #[rstest::rstest]
    #[case("ghcr.io", true)]
    #[case("registry.corp.example.com", true)]
    #[case("1.1.1.1:5000", true)]
    #[case("localhost:5000", true)]
    #[case("localhost:5001", false)]
    #[case("10.0.0.7", true)]
    #[case("10.0.0.7:443", false)]
    #[case("10.0.0.8:443", true)]
    #[case("10.0.0.8", true)]
    #[case("10.0.0.8:8443", false)]
    #[case("harbor.registry.svc", true)]
    #[case("Harbor.Registry.SVC:443", true)]
    #[case("vault.vault.svc:8200", false)]
    #[case("redis:6379", false)]
    #[case("127.1:80", false)]
    #[case("0x7f000001:80", false)]
    #[case("[::1]:80", false)]
    #[case("169.254.169.254", false)]
    #[case("metadata.google.internal", false)]
    fn private_hosts_are_refused_unless_named(#[case] host: &str, #[case] allowed: bool) {
        let names = ["10.0.0.8", "harbor.registry.svc"].map(str::to_owned);
        let some = registries(PrivateHosts::Only(names.into()));
        match some.get(host) {
            Ok(_) => assert!(allowed, "{host}"),
            Err(SetupError::Private(_)) => assert!(!allowed, "{host}"),
            Err(other) => panic!("{other}"),
        }
        assert!(registries(PrivateHosts::All).get(host).is_ok());
    }
}
