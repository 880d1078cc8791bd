//! Checks of parsing headers and lists of registries. See [`crate::fuzzing`].

// A fuzz target and a test report a fault by panicking.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

mod challenge;
mod lists;
mod location;
mod range;

pub use challenge::challenge;
pub use lists::lists;
pub use location::location;
pub use range::range;

use super::Registry;
use crate::error::{Operation, RegistryError, Subject};
use crate::{Registries, RegistryOptions};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// Registries with a public and with a private address, by HTTPS and by HTTP, and of each one that may refer to private
/// addresses.
static REGISTRIES: LazyLock<Vec<Registry>> = LazyLock::new(|| {
    let kinds = [false, true].map(|allow| {
        let options = RegistryOptions {
            insecure_hosts: ["plain.example.com:5000", "127.0.0.1:5000"]
                .map(str::to_owned)
                .into(),
            allow_private_redirects: allow,
            ..RegistryOptions::default()
        };
        let registries = Registries::new(options).expect("nothing is contacted");
        [
            "registry.example.com",
            "registry.example.com:5000",
            "10.1.2.3",
            "plain.example.com:5000",
            "127.0.0.1:5000",
        ]
        .map(|host| registries.get(host).expect("it is a host"))
    });
    kinds.into_iter().flatten().collect()
});

fn chosen(line: &[u8]) -> &'static Registry {
    let number = line.first().copied().unwrap_or_default();
    &REGISTRIES[usize::from(number) % REGISTRIES.len()]
}

fn subject() -> Subject {
    Subject {
        operation: Operation::ReadBlob,
        object: "registry.example.com/team/app".to_owned(),
    }
}

fn headers<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> HeaderMap {
    let pairs = pairs.into_iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    });
    let mut headers = HeaderMap::new();
    // No server sends more than a few dozen, and the map has a limit of its own.
    for (name, value) in pairs.take(64) {
        headers.append(name, value);
    }
    headers
}

/// Checks an address that this registry refers to: no downgrade from HTTPS, no login, no private address of a public
/// registry.
fn check_address(registry: &Registry, to: &Url) {
    let base = &registry.shared.endpoint.base;
    assert!(["http", "https"].contains(&to.scheme()), "{to}");
    if base.scheme() == "https" {
        assert_eq!(to.scheme(), "https", "{to} leaves HTTPS");
    }
    assert!(to.username().is_empty() && to.password().is_none(), "{to}");
    if base.host() == to.host() {
        return;
    }
    assert!(!is_link_local(to), "{base} refers to {to}");
    let may = registry.shared.common.options.allow_private_redirects || is_private(base);
    assert!(may || !is_private(to), "{base} refers to {to}");
}

/// Checks an error text: it must not control a terminal.
fn check_text(error: &RegistryError) {
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?.trim_matches(['[', ']']);
    let address = host.parse().ok()?;
    Some(match address {
        IpAddr::V6(v6) => inner(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    })
}

/// Returns the IPv4 address in an IPv6 one, except in `::1` and `::`.
fn inner(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d] = [12, 13, 14, 15].map(|at| address.octets()[at]);
    let head = &address.octets()[..12];
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let nat64 = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    let compatible = head == [0; 12] && (a, b, c) != (0, 0, 0);
    (head == mapped || head == nat64 || compatible).then(|| Ipv4Addr::new(a, b, c, d))
}

fn is_link_local(url: &Url) -> bool {
    match address(url) {
        Some(IpAddr::V4(v4)) => v4.octets().starts_with(&[169, 254]),
        Some(IpAddr::V6(v6)) => v6.segments()[0] & 0xffc0 == 0xfe80,
        None => false,
    }
}

/// Checks the most common ranges; the address policy has all of them.
fn is_private(url: &Url) -> bool {
    match address(url) {
        Some(IpAddr::V4(v4)) => {
            let is_shared = matches!(v4.octets(), [100, 64..=127, ..]);
            matches!(v4.octets(), [0 | 10 | 127 | 224.., ..] | [192, 168, ..])
                || matches!(v4.octets(), [172, 16..=31, ..])
                || is_shared
        }
        Some(IpAddr::V6(v6)) => v6.segments()[0] & 0xfe00 == 0xfc00 || u128::from(v6) <= 1,
        None => {
            let name = url.host_str().unwrap_or_default().trim_end_matches('.');
            let top = name.rsplit('.').next().unwrap_or_default();
            !name.contains('.') || ["localhost", "local", "svc"].contains(&top)
        }
    }
}
