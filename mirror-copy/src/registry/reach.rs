//! Where a registry may send us on to: redirect targets, upload locations and token services.
//!
//! What only we can reach must not be reachable through us, so addresses of private networks are refused
//! to a public registry. Only names are looked at, not what they resolve to.

use super::Registry;
use crate::error::{RegistryError, Subject};
use crate::text::public_url;
use reqwest::Url;
use std::net::{Ipv4Addr, Ipv6Addr};
use url::Host;

const PRIVATE: &str = "is an address of a private network, where this registry must not send us \
                       (the option to allow private redirects lifts that)";

const LINK_LOCAL: &str = "is a link-local address, the most private kind: clouds give machines their \
                          credentials there, so no option lets a registry send us there";

/// What a host name says of where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A public address, or a name that says nothing.
    Public,
    /// `localhost`, or a literal address that is loopback, private, shared or unspecified.
    Private,
    /// A literal link-local address.
    LinkLocal,
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
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if name == "localhost" || name.ends_with(".localhost") {
                Place::Private
            } else {
                Place::Public
            }
        }
        Some(Host::Ipv4(address)) => place_v4(address),
        Some(Host::Ipv6(address)) => place_v6(address),
        None => Place::Public,
    }
}

fn place_v4(address: Ipv4Addr) -> Place {
    let octets = address.octets();
    // RFC 6598: shared by a provider's customers, and used inside clusters.
    let is_shared = octets[0] == 100 && octets[1] & 0xc0 == 64;
    // RFC 1122: "this network"; Linux takes it for the machine itself.
    let is_this_network = octets[0] == 0;
    if address.is_link_local() {
        Place::LinkLocal
    } else if address.is_loopback() || address.is_private() || is_shared || is_this_network {
        Place::Private
    } else {
        Place::Public
    }
}

fn place_v6(address: Ipv6Addr) -> Place {
    if address.is_loopback() || address.is_unspecified() || address.is_unique_local() {
        return Place::Private;
    }
    if address.is_unicast_link_local() {
        return Place::LinkLocal;
    }
    inner_v4(address).map_or(Place::Public, place_v4)
}

/// The IPv4 address within an IPv6 one: mapped and compatible (RFC 4291 section 2.5.5), NAT64 (RFC 6052).
fn inner_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    if nat64 {
        let [.., a, b, c, d] = address.octets();
        return Some(Ipv4Addr::new(a, b, c, d));
    }
    address.to_ipv4()
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
    #[case("http://100.100.100.200/", Place::Private)]
    #[case("http://169.254.169.254/", Place::LinkLocal)]
    #[case("http://[::1]/", Place::Private)]
    #[case("http://[::]/", Place::Private)]
    #[case("http://[fd00:ec2::254]/", Place::Private)]
    #[case("http://[fe80::1]/", Place::LinkLocal)]
    #[case("http://[::ffff:10.0.0.1]/", Place::Private)]
    #[case("http://[::ffff:169.254.169.254]/", Place::LinkLocal)]
    #[case("http://[64:ff9b::a9fe:a9fe]/", Place::LinkLocal)]
    #[case("http://LOCALHOST:5000/", Place::Private)]
    #[case("http://a.localhost./", Place::Private)]
    #[case("http://registry.example/", Place::Public)]
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
