//! Classes of addresses and names. Only public ones are reachable for everyone.

use super::public_suffix::has_public_suffix;
use reqwest::Url;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::Host;

/// Metadata services besides those at link-local addresses: Alibaba Cloud, Azure, Oracle Cloud.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Metadata services in unique-local networks: AWS (of machines, and of Pods), Google Cloud, Oracle Cloud, Scaleway.
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

/// Names of metadata services in the DNS of clouds.
const METADATA_NAMES: [&str; 5] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
];

/// The class of an address, in the order of the allowance that it requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AddressClass {
    /// Globally reachable, or a name that can exist in public DNS.
    Public,
    /// Everything else: private, shared, loopback, multicast, reserved, translated; or a name without a public suffix.
    Private,
    /// Link-local, or a metadata service that gives machines their credentials.
    LinkLocal,
}

/// Returns the class of the host of a URL, without resolving names.
pub(crate) fn of_url(url: &Url) -> AddressClass {
    match url.host() {
        Some(Host::Domain(name)) => of_name(name),
        Some(Host::Ipv4(address)) => of_v4(address),
        Some(Host::Ipv6(address)) => of_v6(address),
        None => AddressClass::Private,
    }
}

/// Returns the class of a name, without resolving it.
pub(super) fn of_name(name: &str) -> AddressClass {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if METADATA_NAMES.contains(&name.as_str()) {
        return AddressClass::LinkLocal;
    }
    // `.arpa` is a public suffix, but its names are those of infrastructure and of homes (RFC 8375).
    let top = name.rsplit('.').next();
    if has_public_suffix(&name) && top != Some("arpa") {
        AddressClass::Public
    } else {
        AddressClass::Private
    }
}

/// Returns the class of an address.
pub(crate) fn of_address(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(address) => of_v4(address),
        IpAddr::V6(address) => of_v6(address),
    }
}

/// Follows the IANA IPv4 Special-Purpose Address Registry.
fn of_v4(address: Ipv4Addr) -> AddressClass {
    if address.is_link_local() || METADATA_V4.contains(&address) {
        return AddressClass::LinkLocal;
    }
    match address.octets() {
        // This network, private, loopback; multicast, reserved, broadcast. Shared (RFC 6598) and private.
        [0 | 10 | 127 | 224..=255, ..] | [100, 64..=127, ..] | [172, 16..=31, ..] | [192, 168, ..]
        // Protocol assignments, documentation (RFC 5737), 6to4 relays (RFC 7526), benchmarks (RFC 2544).
        | [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] | [198, 18..=19, ..] => {
            AddressClass::Private
        }
        _ => AddressClass::Public,
    }
}

/// Follows the IANA IPv6 Special-Purpose Address Registry: only global unicast (`2000::/3`) is public, and not all of that.
fn of_v6(address: Ipv6Addr) -> AddressClass {
    if address.is_unicast_link_local() || METADATA_V6.contains(&address) {
        return AddressClass::LinkLocal;
    }
    let embedded = embedded_v4(address).into_iter().map(of_v4).max();
    match address.segments() {
        // The well-known prefix of NAT64 (RFC 6052), by which public IPv4 addresses are reached.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => embedded.unwrap_or(AddressClass::Private),
        // Protocol assignments with Teredo and benchmarks, 6to4, documentation (RFC 3849, RFC 9637).
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => embedded
            .map_or(AddressClass::Private, |inner| {
                inner.max(AddressClass::Private)
            }),
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        _ => embedded.map_or(AddressClass::Private, |inner| {
            inner.max(AddressClass::Private)
        }),
    }
}

/// The IPv4 addresses that an IPv6 address may stand for: mapped and compatible (RFC 4291), translated (RFC 2765),
/// NAT64 (RFC 6052 section 2.2, RFC 8215), 6to4 (RFC 3056) and Teredo (RFC 4380).
fn embedded_v4(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let pair = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0 | 0xffff, 0, high, low]
        | [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => vec![pair(high, low)],
        // The network's operator chooses the length of the prefix: 96, 48, 56 or 64 bits.
        [0x64, 0xff9b, 1, ..] => {
            let [.., b6, b7, _, b9, b10, b11, b12, b13, b14, b15] = address.octets();
            [
                [b12, b13, b14, b15],
                [b6, b7, b9, b10],
                [b7, b9, b10, b11],
                [b9, b10, b11, b12],
            ]
            .map(Ipv4Addr::from)
            .into()
        }
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            vec![pair(server_high, server_low), pair(!high, !low)]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::AddressClass::{LinkLocal, Private, Public};
    use super::*;

    fn class(address: &str) -> AddressClass {
        of_address(address.parse().unwrap())
    }

    /// The first and the last address of each special range, and the public ones beside them.
    #[rstest::rstest]
    #[case(Private, &["0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "127.0.0.0", "127.255.255.255"])]
    #[case(Public, &["1.0.0.0", "9.255.255.255", "11.0.0.0", "126.255.255.255", "128.0.0.0"])]
    #[case(Private, &["100.64.0.0", "100.127.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"])]
    #[case(Public, &["100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"])]
    #[case(Private, &["192.0.0.0", "192.0.0.255", "192.0.2.0", "192.0.2.255", "198.51.100.0", "203.0.113.255"])]
    #[case(Public, &["191.255.255.255", "192.0.1.0", "192.0.3.0", "198.51.99.255", "198.51.101.0", "203.0.114.0"])]
    #[case(Private, &["192.88.99.1", "198.18.0.0", "198.19.255.255", "224.0.0.0", "239.255.255.255"])]
    #[case(Public, &["192.88.98.255", "198.17.255.255", "198.20.0.0", "223.255.255.255", "8.8.8.8"])]
    #[case(Private, &["240.0.0.0", "255.255.255.254", "255.255.255.255"])]
    #[case(LinkLocal, &["169.254.0.0", "169.254.169.254", "169.254.170.2", "169.254.255.255"])]
    #[case(Public, &["169.253.255.255", "169.255.0.0"])]
    #[case(LinkLocal, &["100.100.100.200", "168.63.129.16", "192.0.0.192"])]
    #[case(Private, &["::", "::1", "fc00::", "fd00:ec2::255", "fdff:ffff::1", "fec0::1", "feff::1", "ff02::1", "ff0e::1"])]
    #[case(LinkLocal, &["fe80::1", "febf::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42"])]
    #[case(Public, &["2606:4700::1111", "2a00::1", "2001:200::1", "2001:4860::8888", "2003::1", "3ffe::1", "2000::"])]
    #[case(Private, &["2001:db8::1", "3fff::1", "3fff:fff::1", "2001:2::1", "2001:10::1", "2001:20::1", "100::1", "5f00::1", "4000::"])]
    #[case(Public, &["3fff:1000::1", "2001:db7::1", "2001:db9::1"])]
    // Mapped, compatible and translated IPv4 addresses, whatever they stand for.
    #[case(Private, &["::ffff:10.0.0.1", "::ffff:1.1.1.1", "::1.1.1.1", "::ffff:0:1.1.1.1", "::ffff:0:10.0.0.1"])]
    #[case(LinkLocal, &["::ffff:169.254.169.254", "::169.254.169.254", "::ffff:0:169.254.169.254"])]
    // NAT64.
    #[case(Private, &["64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::1.1.1.1", "64:ff9b:0:1::1.1.1.1"])]
    #[case(LinkLocal, &["64:ff9b::169.254.169.254", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:2::a9fe:a9fe"])]
    #[case(LinkLocal, &["64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:2:a9:fea9:fe00:0"])]
    #[case(Public, &["64:ff9b::1.1.1.1"])]
    // 6to4 and Teredo.
    #[case(Private, &["2002:101:101::1", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"])]
    #[case(LinkLocal, &["2002:a9fe:a9fe::", "2001:0:4136:e378:0:0:5601:5601"])]
    fn classes_of_addresses(#[case] expected: AddressClass, #[case] addresses: &[&str]) {
        for address in addresses {
            assert_eq!(class(address), expected, "{address}");
        }
    }

    #[rstest::rstest]
    // Every spelling of an IPv4 address is the address.
    #[case("http://2130706433/", Private)]
    #[case("http://0x7f.1/", Private)]
    #[case("http://0177.0.0.1/", Private)]
    #[case("http://127.1/", Private)]
    #[case("http://0/", Private)]
    #[case("http://0xa9fea9fe/", LinkLocal)]
    #[case("http://0251.0376.0251.0376/", LinkLocal)]
    #[case("http://169.254.169.254./", LinkLocal)]
    #[case("http://%31%32%37.1/", Private)]
    #[case("http://１２７.0.0.1/", Private)]
    #[case("http://[::ffff:a9fe:a9fe]/", LinkLocal)]
    #[case("http://1.1.1.1/", Public)]
    #[case("http://0x01010101/", Public)]
    #[case("http://LOCALHOST:5000/", Private)]
    #[case("http://a.localhost./", Private)]
    #[case("http://registry:5000/", Private)]
    #[case("http://harbor.registry.svc/", Private)]
    #[case("http://HARBOR.registry.SVC.:443/", Private)]
    #[case("http://harbor.registry.svc.cluster.local/", Private)]
    #[case("http://service.namespace/", Private)]
    #[case("http://svc.cluster/", Private)]
    #[case("http://nas.local/", Private)]
    #[case("http://nas.home.arpa/", Private)]
    #[case("http://registry.corp.internal/", Private)]
    #[case("http://registry.example/", Private)]
    #[case("http://notlocal/a.com", Private)]
    #[case("http://metadata.google.internal/", LinkLocal)]
    #[case("http://Metadata.Google.Internal./", LinkLocal)]
    #[case("http://metadata/", LinkLocal)]
    #[case("http://instance-data.ec2.internal/", LinkLocal)]
    #[case("http://registry.example.com/", Public)]
    #[case("http://registry.example.com./", Public)]
    #[case("http://my-svc.example.org/x.svc", Public)]
    #[case("http://localhost.example.com/", Public)]
    #[case("http://127.0.0.1.nip.io/", Public)]
    fn classes_of_urls(#[case] url: &str, #[case] expected: AddressClass) {
        assert_eq!(of_url(&Url::parse(url).unwrap()), expected);
    }
}
