//! A set of registries: one [`Registry`] per host, created on first use.

mod certificates;
pub(crate) mod clients;
pub(crate) mod common;
mod error;
pub(crate) mod host;
pub(crate) mod memory_budget;
pub(crate) mod metadata_budget;
pub(crate) mod options;
mod p521;
mod tls;

pub use common::Traffic;
pub use error::SetupError;
pub use metadata_budget::{MemoryPlace, MetadataBudget};
pub use options::{RegistryOptions, RetryPolicy, Timeouts};

use crate::address_policy::{AddressPolicy, PrivateHosts};
use crate::credentials::Credentials;
use crate::error::Remedy;
use crate::lock::lock;
use crate::registry::Registry;
use clients::Clients;
use common::{Common, Counters, DigestTagLists};
use host::Endpoint;
use memory_budget::MemoryBudget;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Maximum number of hosts. Above it, unused ones are dropped with their tokens.
const MAX_HOSTS: usize = 128;

/// Maximum number of unused hosts that are kept because they requested a pause or turned out to be private: invented names
/// must not displace them.
const MAX_KEPT_HOSTS: usize = 256;

/// A set of registries with common options. Cheap to clone; clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Registries {
    common: Arc<Common>,
    hosts: Arc<Mutex<HashMap<String, Registry>>>,
}

impl Registries {
    /// Creates the set. Reads the root certificates of the platform and the files of [`RegistryOptions::certificates`];
    /// sends no request.
    ///
    /// # Errors
    /// [`SetupError`] if a certificate cannot be used.
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
            clients: Arc::new(Clients::new(&options, &address_policy)?),
            address_policy,
            options,
            memory: Arc::new(MemoryBudget::default()),
            limits: Arc::default(),
            digest_tags: DigestTagLists::default(),
            counters: Counters::default(),
        };
        Ok(Self {
            common: Arc::new(common),
            hosts: Arc::default(),
        })
    }

    /// Returns a set with the same options and other credentials. Both share connections, the memory for blobs, and the
    /// transfer permits and pauses of each host, but neither tokens nor what was learned with a login.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        Self {
            common: Arc::new(self.common.with_credentials(credentials)),
            hosts: Arc::default(),
        }
    }

    /// Returns the registry at `host[:port]`, without a request. `docker.io` and its aliases such as `registry-1.docker.io`
    /// are the same registry, and so is any host with HTTPS with and without port 443.
    ///
    /// # Errors
    /// [`SetupError::Host`] for an invalid name, [`SetupError::Private`] for a host that [`PrivateHosts`] does not allow.
    pub fn get(&self, host: &str) -> Result<Registry, SetupError> {
        let name = host::canonical_beside(host, &self.common.options.insecure_hosts);
        let mut hosts = lock(&self.hosts);
        if let Some(known) = hosts.get(&name) {
            return Ok(known.clone());
        }
        let endpoint = Endpoint::new(&name, &self.common.options.insecure_hosts)
            .ok_or_else(|| SetupError::Host(crate::text::clean(host)))?;
        let Some(allowance) = self.common.address_policy.of_registry(&endpoint) else {
            let advice = (self.common.options.advice)(&Remedy::PrivateHost(&name));
            return Err(SetupError::Private { host: name, advice });
        };
        if hosts.len() >= MAX_HOSTS {
            let mut kept = 0;
            hosts.retain(|_, registry| {
                let is_worth_keeping =
                    registry.are_writes_paused() || !registry.has_public_errors();
                let is_kept = is_worth_keeping && kept < MAX_KEPT_HOSTS;
                kept += usize::from(is_kept);
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

    /// Returns the traffic of all registries of this set so far.
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
    use crate::credentials::Login;

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
            Err(SetupError::Private { .. }) => assert!(!allowed, "{host}"),
            Err(other) => panic!("{other}"),
        }
        assert!(registries(PrivateHosts::All).get(host).is_ok());
    }

    #[test]
    fn sets_with_other_credentials_share_the_limits_of_hosts() {
        let login = |name: &str| {
            let login = Login {
                username: name.to_owned(),
                password: "secret".to_owned().into(),
            };
            Credentials::anonymous().with_login("ghcr.io", login)
        };
        let first = registries(PrivateHosts::All).with_credentials(login("a"));
        let second = first.with_credentials(login("b"));
        let (a, b) = (
            first.get("ghcr.io").unwrap(),
            second.get("ghcr.io").unwrap(),
        );
        assert!(a.shares_limits_with(&b));
        assert!(!a.shares_limits_with(&second.get("quay.io").unwrap()));
        assert!(Arc::ptr_eq(&first.common.memory, &second.common.memory));
        let user = |set: &Registries| format!("{:?}", set.common.options.credentials);
        assert!(user(&first).contains("\"a\"") && !user(&second).contains("\"a\""));
    }
}
