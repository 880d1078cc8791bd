//! Name resolution.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// Resolves the host names of registries to addresses.
pub trait Resolver: Send + Sync {
    /// Returns the addresses of a name. A name with a trailing dot is absolute: no search domain applies to it.
    ///
    /// # Errors
    /// [`io::Error`] if the name does not exist or cannot be resolved.
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// Resolves as the operating system does: the hosts file, then DNS.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let name = name.to_owned();
        async move {
            // `getaddrinfo` finds no absolute name in the hosts file.
            let relative = name.trim_end_matches('.');
            let is_listed = relative != name && hosts_file_lists(relative).await;
            let name = if is_listed { relative } else { &name };
            let addresses = tokio::net::lookup_host((name, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        }
        .boxed()
    }
}

/// Returns whether the hosts file has this name, as `hostAliases` of a Pod put it there.
async fn hosts_file_lists(name: &str) -> bool {
    let text = tokio::fs::read_to_string(Path::new("/etc/hosts")).await;
    text.is_ok_and(|text| lists(&text, name))
}

fn lists(hosts: &str, name: &str) -> bool {
    hosts.lines().any(|line| {
        let entry = line.split('#').next().unwrap_or_default();
        let mut names = entry.split_ascii_whitespace().skip(1);
        names.any(|listed| listed.eq_ignore_ascii_case(name))
    })
}

/// A name resolves only to addresses that are not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressRefused {
    pub(crate) name: String,
    /// One of its addresses.
    pub(crate) address: IpAddr,
}

impl fmt::Display for AddressRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, address } = self;
        write!(
            f,
            "{name} resolves to {address}, which is not a public address"
        )
    }
}

impl std::error::Error for AddressRefused {}

impl AddressRefused {
    /// Returns the refusal that caused the failure of a request, if there is one.
    pub(crate) fn cause_of(error: &reqwest::Error) -> Option<&Self> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(refused) = error.downcast_ref() {
                return Some(refused);
            }
            next = error.source();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_hosts_file() {
        let hosts = "# a b.example.com\n127.0.0.1\tlocalhost\n10.0.0.1 Registry.example.com alias # c.example.com\n\n::1";
        for name in ["localhost", "registry.example.com", "alias"] {
            assert!(lists(hosts, name), "{name}");
        }
        for name in [
            "b.example.com",
            "c.example.com",
            "10.0.0.1",
            "example.com",
            "",
        ] {
            assert!(!lists(hosts, name), "{name}");
        }
    }
}
