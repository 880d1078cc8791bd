//! Where registries may be, and where they may send us on to: redirect targets, upload locations and token services.
//!
//! What only we can reach must not be reachable through us, so addresses of private networks are refused
//! to a public registry, and to whoever invents image references. Only names are looked at, not what they resolve to.

use super::Registry;
use crate::error::{RegistryError, Subject};
use crate::text::public_url;
use reqwest::Url;
use std::net::{Ipv4Addr, Ipv6Addr};
use url::Host;

const PRIVATE: &str = "is an address of a private network, where this registry must not send us \
                       (the option to allow private redirects lifts that)";

const LINK_LOCAL: &str = "is a link-local address or as private as one: clouds give machines their \
                          credentials there, so no option lets a registry send us there";

/// Where clouds give machines their credentials besides link-local addresses: Alibaba Cloud's and Azure's
/// services for machines, and that of AWS for IPv6.
const METADATA_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Names of those services, where a cloud's resolver gives them some (Google Cloud, AWS).
const METADATA_NAMES: [&str; 2] = ["metadata.google.internal", "instance-data.ec2.internal"];

/// Ends of names that only a private network has: of this machine (RFC 6761), of a local network (RFC 6762), and of the
/// Services of a cluster, the first of them with the search domain left out.
const PRIVATE_ENDS: [&str; 4] = [".localhost", ".local", ".svc", ".cluster.local"];

/// What a host name says of where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A public address, or a name that says nothing.
    Public,
    /// A name of this machine, of a local network or of a cluster's Service, or a literal address that is loopback,
    /// private, shared, reserved or unspecified.
    Private,
    /// A literal link-local address, or another one or a name where clouds keep secrets.
    LinkLocal,
}

/// Whether a registry's address says that it is in a private network or on this machine.
pub(crate) fn is_private(base: &Url) -> bool {
    place(base) != Place::Public
}

impl Registry {
    /// Why this registry must not send us to this address; `None` if it may.
    pub(super) fn barred(&self, to: &Url) -> Option<&'static str> {
        let allow = self.shared.common.options.allow_private_redirects;
        barred(&self.shared.endpoint.base, to, allow)
    }

    /// Refuses a redirect that leads where it must not.
    pub(super) fn check_redirect(&self, subject: &Subject, to: &Url) -> Result<(), RegistryError> {
        self.check(subject, to, "redirect")
    }

    /// Refuses the address of a foreign layer, which an image gives: it must not lead where a redirect must
    /// not, and not leave HTTPS if the registry is spoken to by that.
    pub(super) fn check_foreign(&self, subject: &Subject, to: &Url) -> Result<(), RegistryError> {
        match (self.shared.endpoint.base.scheme(), to.scheme()) {
            (_, "https") | ("http", "http") => self.check(subject, to, "foreign layer's address"),
            _ => Err(RegistryError::Redirect {
                subject: subject.clone(),
                reason: format!(
                    "its foreign layer's address {} is not HTTPS",
                    public_url(to)
                ),
            }),
        }
    }

    /// The address of an upload as it is reached from here, if it may be sent to.
    pub(super) fn checked_location(
        &self,
        subject: &Subject,
        to: Url,
    ) -> Result<Url, RegistryError> {
        let to = self.seen_from_here(to);
        self.check(subject, &to, "upload location")?;
        Ok(to)
    }

    /// An address that the registry gave of itself, as it is reached from here.
    pub(super) fn seen_from_here(&self, url: Url) -> Url {
        seen_from_here(&self.shared.endpoint.base, url)
    }

    fn check(&self, subject: &Subject, to: &Url, what: &str) -> Result<(), RegistryError> {
        match self.barred(to) {
            None => Ok(()),
            Some(why) => Err(RegistryError::Redirect {
                subject: subject.clone(),
                reason: format!("its {what} {} {why}", public_url(to)),
            }),
        }
    }
}

/// A registry may always send us to its own host; to private addresses only if it has one itself.
fn barred(base: &Url, to: &Url, allow_private: bool) -> Option<&'static str> {
    if base.host() == to.host() {
        return None;
    }
    match (place(base), place(to)) {
        (_, Place::Public) | (Place::LinkLocal, _) | (Place::Private, Place::Private) => None,
        (_, Place::LinkLocal) => Some(LINK_LOCAL),
        (Place::Public, Place::Private) => (!allow_private).then_some(PRIVATE),
    }
}

fn place(url: &Url) -> Place {
    match url.host() {
        Some(Host::Domain(name)) => place_of_name(&name.trim_end_matches('.').to_ascii_lowercase()),
        Some(Host::Ipv4(address)) => place_v4(address),
        Some(Host::Ipv6(address)) => place_v6(address),
        None => Place::Public,
    }
}

fn place_of_name(name: &str) -> Place {
    if METADATA_NAMES.contains(&name) {
        return Place::LinkLocal;
    }
    // A name without a dot is this machine's, or is found in a search domain: in a Pod that is the cluster's.
    if !name.contains('.') || PRIVATE_ENDS.iter().any(|end| name.ends_with(end)) {
        return Place::Private;
    }
    Place::Public
}

fn place_v4(address: Ipv4Addr) -> Place {
    if address.is_link_local() || METADATA_V4.contains(&address) {
        return Place::LinkLocal;
    }
    match address.octets() {
        // RFC 1122: "this network", which Linux takes for the machine itself. RFC 6598: shared by a provider's
        // customers, and used inside clusters. RFC 6890: for protocols. RFC 2544: for tests between networks.
        // RFC 1112: reserved, with the broadcast address, and in use as private by some.
        [0 | 240..=255, ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18..=19, ..] => {
            Place::Private
        }
        _ if address.is_loopback() || address.is_private() => Place::Private,
        _ => Place::Public,
    }
}

fn place_v6(address: Ipv6Addr) -> Place {
    if address.is_unicast_link_local() || address == METADATA_V6 {
        return Place::LinkLocal;
    }
    if address.is_loopback() || address.is_unspecified() || address.is_unique_local() {
        return Place::Private;
    }
    let inner = inner_v4(address).map_or(Place::Public, place_v4);
    match (address.segments(), inner) {
        // RFC 3879: site-local, the older kind of private. RFC 8215: NAT64 within a network.
        ([0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..], Place::Public) => Place::Private,
        (_, inner) => inner,
    }
}

/// The IPv4 address within an IPv6 one: mapped and compatible (RFC 4291 section 2.5.5), NAT64 (RFC 6052, and
/// RFC 8215 with its longest prefix) and 6to4 (RFC 3056).
fn inner_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let inner = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => {
            Some(inner(high, low))
        }
        [0x2002, high, low, ..] => Some(inner(high, low)),
        _ => address.to_ipv4(),
    }
}

/// Behind a proxy that ends TLS a registry may not know that it is spoken to by HTTPS, and the proxy may
/// have kept the port from it. An address on the registry's own host is repaired accordingly.
fn seen_from_here(base: &Url, url: Url) -> Url {
    let downgraded = base.scheme() == "https" && url.scheme() == "http";
    let lost_port = url.port().is_none() && base.port().is_some() && url.scheme() == base.scheme();
    if url.host() != base.host() || !(downgraded || lost_port) {
        return url;
    }
    let mut seen = url.clone();
    let port = url.port().or(base.port());
    match (seen.set_scheme(base.scheme()), seen.set_port(port)) {
        (Ok(()), Ok(())) => seen,
        _ => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[rstest::rstest]
    #[case("http://127.0.0.1/", Place::Private)]
    #[case("http://2130706433/", Place::Private)]
    #[case("http://0x7f.1/", Place::Private)]
    #[case("http://0.0.0.0/", Place::Private)]
    #[case("http://10.1.2.3/", Place::Private)]
    #[case("http://172.16.0.1/", Place::Private)]
    #[case("http://192.168.0.1/", Place::Private)]
    #[case("http://100.64.0.1/", Place::Private)]
    #[case("http://192.0.0.170/", Place::Private)]
    #[case("http://198.18.0.1/", Place::Private)]
    #[case("http://198.19.255.255/", Place::Private)]
    #[case("http://240.0.0.1/", Place::Private)]
    #[case("http://255.255.255.255/", Place::Private)]
    #[case("http://100.100.100.200/", Place::LinkLocal)]
    #[case("http://168.63.129.16/", Place::LinkLocal)]
    #[case("http://169.254.169.254/", Place::LinkLocal)]
    #[case("http://[::1]/", Place::Private)]
    #[case("http://[::]/", Place::Private)]
    #[case("http://[fd00:ec2::254]/", Place::LinkLocal)]
    #[case("http://[fd00:ec2::255]/", Place::Private)]
    #[case("http://[fec0::1]/", Place::Private)]
    #[case("http://[feff::1]/", Place::Private)]
    #[case("http://[64:ff9b:1::1.1.1.1]/", Place::Private)]
    #[case("http://[64:ff9b:1:2::a9fe:a9fe]/", Place::LinkLocal)]
    #[case("http://[2002:a00:1::1]/", Place::Private)]
    #[case("http://[2002:a9fe:a9fe::]/", Place::LinkLocal)]
    #[case("http://[2002:101:101::1]/", Place::Public)]
    #[case("http://[64:ff9b::1.1.1.1]/", Place::Public)]
    #[case("http://192.0.1.1/", Place::Public)]
    #[case("http://198.20.0.1/", Place::Public)]
    #[case("http://239.255.255.255/", Place::Public)]
    #[case("http://[fe80::1]/", Place::LinkLocal)]
    #[case("http://[::ffff:10.0.0.1]/", Place::Private)]
    #[case("http://[::ffff:169.254.169.254]/", Place::LinkLocal)]
    #[case("http://[64:ff9b::a9fe:a9fe]/", Place::LinkLocal)]
    #[case("http://LOCALHOST:5000/", Place::Private)]
    #[case("http://a.localhost./", Place::Private)]
    #[case("http://registry:5000/", Place::Private)]
    #[case("http://harbor.registry.svc/", Place::Private)]
    #[case("http://HARBOR.registry.SVC.:443/", Place::Private)]
    #[case("http://harbor.registry.svc.cluster.local/", Place::Private)]
    #[case("http://nas.local/", Place::Private)]
    #[case("http://metadata.google.internal/", Place::LinkLocal)]
    #[case("http://Metadata.Google.Internal./", Place::LinkLocal)]
    #[case("http://instance-data.ec2.internal/", Place::LinkLocal)]
    #[case("http://registry.example/", Place::Public)]
    #[case("http://registry.corp.internal/", Place::Public)]
    #[case("http://svc.example/", Place::Public)]
    #[case("http://notlocal/a.local", Place::Private)]
    #[case("http://my-svc.example/x.svc", Place::Public)]
    #[case("http://localhost.example/", Place::Public)]
    #[case("http://1.1.1.1/", Place::Public)]
    #[case("http://172.32.0.1/", Place::Public)]
    #[case("http://100.128.0.1/", Place::Public)]
    #[case("http://[2606:4700::1111]/", Place::Public)]
    fn places(#[case] address: &str, #[case] expected: Place) {
        assert_eq!(place(&url(address)), expected);
    }

    #[rstest::rstest]
    #[case("https://ghcr.io/", "https://cdn.example/", false, None)]
    #[case("https://ghcr.io/", "https://10.0.0.1/", false, Some(PRIVATE))]
    #[case("https://ghcr.io/", "https://10.0.0.1/", true, None)]
    #[case("https://ghcr.io/", "http://169.254.169.254/", true, Some(LINK_LOCAL))]
    #[case("https://10.0.0.9/", "https://10.0.0.1/", false, None)]
    #[case(
        "https://10.0.0.9/",
        "https://169.254.169.254/",
        true,
        Some(LINK_LOCAL)
    )]
    #[case("https://localhost:5000/", "http://127.0.0.1:9000/", false, None)]
    #[case("http://169.254.0.9/", "http://169.254.0.9:9000/", false, None)]
    #[case("http://169.254.0.9/", "http://169.254.0.1/", false, None)]
    fn who_may_send_us_where(
        #[case] base: &str,
        #[case] to: &str,
        #[case] allow: bool,
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(barred(&url(base), &url(to), allow), expected);
    }

    #[rstest::rstest]
    #[case("ghcr.io", "https://web.example/layer", None)]
    #[case("ghcr.io", "http://web.example/layer", Some("is not HTTPS"))]
    #[case("ghcr.io", "ftp://web.example/layer", Some("is not HTTPS"))]
    #[case("ghcr.io", "https://10.0.0.1/layer", Some("private network"))]
    #[case("ghcr.io", "https://169.254.169.254/layer", Some("link-local"))]
    #[case("plain.local", "http://web.example/layer", None)]
    #[case("plain.local", "file:///etc/passwd", Some("is not HTTPS"))]
    fn where_foreign_layers_may_be(
        #[case] host: &str,
        #[case] to: &str,
        #[case] refused: Option<&str>,
    ) {
        let options = crate::RegistryOptions {
            insecure_hosts: ["plain.local".to_owned()].into(),
            ..crate::RegistryOptions::default()
        };
        let registry = crate::Registries::new(options).unwrap().get(host).unwrap();
        let subject = Subject {
            operation: crate::Operation::ReadBlob,
            object: "a".to_owned(),
        };
        let error = registry.check_foreign(&subject, &url(to)).err();
        let text = error.map(|error| error.to_string());
        match (text, refused) {
            (text, None) => assert_eq!(text, None),
            (text, Some(part)) => assert!(text.unwrap().contains(part)),
        }
    }

    #[rstest::rstest]
    #[case(
        "https://r.example",
        "http://r.example/u?a=%2F",
        "https://r.example/u?a=%2F"
    )]
    #[case("https://r.example", "https://r.example:443/u", "https://r.example/u")]
    #[case(
        "https://r.example:5000",
        "http://r.example/u",
        "https://r.example:5000/u"
    )]
    #[case(
        "https://r.example:5000",
        "https://r.example/u",
        "https://r.example:5000/u"
    )]
    #[case(
        "https://r.example:5000",
        "http://r.example:5000/u",
        "https://r.example:5000/u"
    )]
    #[case(
        "https://r.example:5000",
        "https://r.example:6000/u",
        "https://r.example:6000/u"
    )]
    #[case("http://r.local:5000", "http://r.local/u", "http://r.local:5000/u")]
    #[case("http://r.local:5000", "https://r.local/u", "https://r.local/u")]
    #[case(
        "https://r.example",
        "http://other.example/u",
        "http://other.example/u"
    )]
    fn what_a_registry_says_of_itself(#[case] base: &str, #[case] said: &str, #[case] seen: &str) {
        assert_eq!(seen_from_here(&url(base), url(said)).as_str(), seen);
    }
}
