//! The resolver of an HTTP client: the names resolve only to addresses that the policy allows.

use super::{AddressPolicy, Allowance};
use futures_util::FutureExt as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::SocketAddr;
use std::sync::Arc;

/// Resolves names for one HTTP client, whose connections all have the same allowance.
struct PolicyResolver {
    policy: Arc<AddressPolicy>,
    allowance: Allowance,
}

impl Resolve for PolicyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, allowance) = (Arc::clone(&self.policy), self.allowance);
        async move {
            let addresses = policy.resolve(name.as_str(), allowance).await?;
            // The port of the URL takes the place of 0.
            let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, 0));
            let addresses: Addrs = Box::new(addresses);
            Ok(addresses)
        }
        .boxed()
    }
}

impl AddressPolicy {
    /// Returns the resolver for an HTTP client all of whose connections have this allowance.
    pub(crate) fn resolver(self: &Arc<Self>, allowance: Allowance) -> Arc<dyn Resolve> {
        let policy = Arc::clone(self);
        Arc::new(PolicyResolver { policy, allowance })
    }
}
