//! The addresses that may be connected to.
//!
//! Image references are chosen by everyone who may create a Pod, and a registry chooses its redirects, upload locations and
//! token services. They must not give access to destinations that only this process can reach. So the address of each
//! connection is checked: names are resolved here and refused addresses are dropped, and literal addresses are checked
//! before each request, since the HTTP client does not resolve them.
//!
//! Connections of different [`Allowance`]s are never shared: each has an HTTP client of its own.

mod class;
mod proxies;
mod public_suffix;
mod resolver;

pub(crate) use class::{AddressClass, of_address};
pub use public_suffix::registrable_domain;
pub(crate) use resolver::AddressRefused;
pub use resolver::{Resolver, SystemResolver};

use crate::lock::lock;
use crate::registries::host::Endpoint;
use futures_util::FutureExt as _;
use ipnet::IpNet;
use proxies::Proxies;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

/// Maximum number of names whose addresses are remembered: more than registries.
const MAX_RESOLVED: usize = 1024;

/// The registries that may have addresses which are not public: private, loopback, link-local and all other special ranges,
/// as a literal address or as the address of a name. A name without a public suffix (`localhost`, `harbor.registry.svc`) is
/// private whatever its addresses are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PrivateHosts {
    /// All registries: users who name them have the same network access as this process. Only metadata services and
    /// link-local addresses are refused for names with a public suffix.
    #[default]
    All,
    /// These (`host` or `host:port`) and the insecure hosts: the users who name images are not the operator.
    Only(BTreeSet<String>),
}

/// The addresses that a connection may use. The networks of the operator are always allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Public addresses.
    Public,
    /// Public and private addresses, but neither link-local ones nor metadata services.
    Private,
    /// Every address: the operator named this host.
    Any,
}

impl Allowance {
    fn covers(self, class: AddressClass) -> bool {
        match self {
            Self::Public => class == AddressClass::Public,
            Self::Private => class <= AddressClass::Private,
            Self::Any => true,
        }
    }
}

/// The rules of one set of registries, and the addresses of its names.
pub(crate) struct AddressPolicy {
    private_hosts: PrivateHosts,
    private_networks: Vec<IpNet>,
    proxies: Proxies,
    resolver: Arc<dyn Resolver>,
    resolved: Mutex<HashMap<String, IpAddr>>,
}

impl AddressPolicy {
    pub(crate) fn new(
        private_hosts: PrivateHosts,
        private_networks: Vec<IpNet>,
        resolver: Arc<dyn Resolver>,
    ) -> Self {
        Self {
            private_hosts,
            private_networks,
            proxies: Proxies::from_system(),
            resolver,
            resolved: Mutex::default(),
        }
    }

    /// Returns the addresses that the host of a registry may have; `None` if its name or literal address is refused.
    pub(crate) fn of_registry(&self, endpoint: &Endpoint) -> Option<Allowance> {
        let is_named = endpoint.insecure
            || match &self.private_hosts {
                PrivateHosts::All => class::of_url(&endpoint.base) != AddressClass::Public,
                PrivateHosts::Only(names) => names.contains(&endpoint.name),
            };
        match &self.private_hosts {
            _ if is_named => Some(Allowance::Any),
            PrivateHosts::All => Some(Allowance::Private),
            PrivateHosts::Only(_) => {
                let refused = self.check(&endpoint.base, Allowance::Public);
                refused.is_ok().then_some(Allowance::Public)
            }
        }
    }

    /// Checks the host of a URL without resolving it.
    ///
    /// # Errors
    /// The class of a host that is not allowed.
    pub(crate) fn check(&self, url: &Url, allowance: Allowance) -> Result<(), AddressClass> {
        let class = class::of_url(url);
        // A direct connection to a proxy would bypass its rules.
        if allowance == Allowance::Public && self.is_proxy_itself(url) {
            return Err(class.max(AddressClass::Private));
        }
        if allowance.covers(class) {
            return Ok(());
        }
        let is_allowed = match literal(url) {
            Some(address) => self.is_in_private_networks(address),
            // The networks are checked when the name is resolved.
            None => {
                class == AddressClass::Private
                    && !self.private_networks.is_empty()
                    && !self.is_proxied(url)
            }
        };
        if is_allowed { Ok(()) } else { Err(class) }
    }

    /// Returns whether a proxy connects to the host of this URL, so that its address is not known here.
    pub(crate) fn is_proxied(&self, url: &Url) -> bool {
        self.proxies.intercept(url)
    }

    /// Returns the proxies of the environment for an HTTP client, which then uses no others.
    pub(crate) fn proxy(self: &Arc<Self>) -> reqwest::Proxy {
        let policy = Arc::clone(self);
        reqwest::Proxy::custom(move |url| policy.proxies.proxy_for(url))
    }

    /// Returns the resolver for an HTTP client all of whose connections have this allowance.
    pub(crate) fn resolver(self: &Arc<Self>, allowance: Allowance) -> Arc<dyn Resolve> {
        let policy = Arc::clone(self);
        Arc::new(PolicyResolver { policy, allowance })
    }

    /// Returns whether this host is private by its literal address, or by a name without a public suffix.
    pub(crate) fn is_private(url: &Url) -> bool {
        class::of_url(url) != AddressClass::Public
    }

    /// Returns the group of the only address that the host of a URL last resolved to, allowed or not. Returns `None` if it
    /// has several.
    pub(crate) fn only_group(&self, url: &Url) -> Option<IpAddr> {
        match literal(url) {
            Some(address) => Some(group(address)),
            None if self.is_proxied(url) => None,
            None => {
                let name = url.host_str()?;
                lock(&self.resolved).get(name).copied()
            }
        }
    }

    /// Resolves a name and drops the addresses that are not allowed.
    async fn resolve_allowed(
        &self,
        name: &str,
        allowance: Allowance,
    ) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let is_proxy = self.proxies.has_host(name);
        let mut found = self.lookup(name, allowance, is_proxy).await?;
        self.remember(name, &found);
        let Some(first) = found.first().copied() else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
        };
        if !is_proxy {
            found.retain(|address| self.is_allowed(*address, allowance));
        }
        if found.is_empty() {
            return Err(Box::new(AddressRefused {
                name: name.to_owned(),
                address: first,
            }));
        }
        Ok(found)
    }

    /// A Pod has search domains: with them `ghcr.io` can be the Service `ghcr` in a namespace `io`. So names that can exist
    /// in public DNS are resolved without them, and with them only if the operator named the host and it is not found.
    async fn lookup(
        &self,
        name: &str,
        allowance: Allowance,
        is_proxy: bool,
    ) -> io::Result<Vec<IpAddr>> {
        let is_relative =
            is_proxy || name.ends_with('.') || class::of_name(name) != AddressClass::Public;
        if is_relative {
            return self.resolver.resolve(name).await;
        }
        match self.resolver.resolve(&format!("{name}.")).await {
            Err(_) if allowance == Allowance::Any => self.resolver.resolve(name).await,
            found => found,
        }
    }

    fn is_allowed(&self, address: IpAddr, allowance: Allowance) -> bool {
        allowance.covers(of_address(address)) || self.is_in_private_networks(address)
    }

    /// A link-local or metadata address is allowed only by a network of that single address.
    fn is_in_private_networks(&self, address: IpAddr) -> bool {
        let is_link_local = of_address(address) == AddressClass::LinkLocal;
        let address = address.to_canonical();
        self.private_networks.iter().any(|network| {
            let is_single = network.prefix_len() == network.max_prefix_len();
            network.contains(&address) && (is_single || !is_link_local)
        })
    }

    /// Returns whether a URL is that of a proxy and is not requested through it.
    fn is_proxy_itself(&self, url: &Url) -> bool {
        url.host_str()
            .is_some_and(|host| self.proxies.has_host(host))
            && !self.is_proxied(url)
    }

    fn remember(&self, name: &str, addresses: &[IpAddr]) {
        let mut groups = addresses.iter().copied().map(group);
        let first = groups.next();
        let only = first.filter(|first| groups.all(|other| other == *first));
        let mut resolved = lock(&self.resolved);
        let Some(only) = only else {
            resolved.remove(name);
            return;
        };
        if resolved.len() >= MAX_RESOLVED && !resolved.contains_key(name) {
            resolved.clear();
        }
        resolved.insert(name.to_owned(), only);
    }
}

/// Returns the group of an address for counting sources: an IPv6 address is cut to its network of 64 bits, within which a
/// host can choose any address.
pub(crate) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        url::Host::Domain(_) => None,
        url::Host::Ipv4(address) => Some(address.into()),
        url::Host::Ipv6(address) => Some(address.into()),
    }
}

/// Resolves names for one HTTP client, whose connections all have the same allowance.
struct PolicyResolver {
    policy: Arc<AddressPolicy>,
    allowance: Allowance,
}

impl Resolve for PolicyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, allowance) = (Arc::clone(&self.policy), self.allowance);
        async move {
            let addresses = policy.resolve_allowed(name.as_str(), allowance).await?;
            // The port of the URL takes the place of 0.
            let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, 0));
            let addresses: Addrs = Box::new(addresses);
            Ok(addresses)
        }
        .boxed()
    }
}
