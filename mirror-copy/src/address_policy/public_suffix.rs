//! Public suffixes of host names, from the compiled Public Suffix List (<https://publicsuffix.org>).
//!
//! Only the ICANN section of the list is used. The private section has providers whose customers have names of their own,
//! and anyone can create such names: `a.duckdns.org` and `b.duckdns.org` have one owner here.

use psl::{List, Psl as _, Type};
use std::net::Ipv6Addr;

/// Returns the registrable part of a host name: `example.co.uk` of `a.b.example.co.uk:5000`.
///
/// `host` is `host` or `host:port`. The result has neither port nor trailing dot. IP addresses, public suffixes
/// themselves and names without a public suffix (`localhost`, `harbor.registry.svc`) are returned whole.
#[must_use]
pub fn registrable_domain(host: &str) -> &str {
    let name = without_port(host).trim_end_matches('.');
    let suffix = public_suffix_length(name);
    let before = name
        .len()
        .checked_sub(suffix + 1)
        .filter(|_| suffix > 0)
        .and_then(|end| name.get(..end));
    match before {
        None | Some("") => name,
        Some(before) => {
            let start = before.rfind('.').map_or(0, |dot| dot + 1);
            name.get(start..).unwrap_or(name)
        }
    }
}

/// Returns whether the name is below a public suffix, so that it can be registered in public DNS. A suffix by itself is not:
/// `app`, `dev` and `om` are names of Services rather than of registries.
pub(super) fn has_public_suffix(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let suffix = public_suffix_length(name);
    suffix > 0 && suffix < name.len()
}

/// Returns the length of the public suffix of a name without a trailing dot; 0 if it has none, as for IP addresses.
fn public_suffix_length(name: &str) -> usize {
    let name = name.to_ascii_lowercase();
    let mut rest = name.as_str();
    loop {
        let info = List.find(rest.rsplit('.').map(str::as_bytes));
        match info.typ {
            None => return 0,
            Some(Type::Icann) => return info.len,
            // A name in the private section: its own suffix is in the ICANN section.
            Some(Type::Private) => {
                let start = rest.len().saturating_sub(info.len);
                let suffix = rest.get(start..).unwrap_or_default();
                match suffix.split_once('.') {
                    Some((_, parent)) => rest = parent,
                    None => return 0,
                }
            }
        }
    }
}

/// Returns the host without its port; an IPv6 address may have brackets or not.
fn without_port(host: &str) -> &str {
    if host.parse::<Ipv6Addr>().is_ok() {
        return host;
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("ghcr.io", "ghcr.io")]
    #[case("GHCR.io:443", "GHCR.io")]
    #[case("registry-1.docker.io.", "docker.io")]
    #[case("a.b.example.co.uk:5000", "example.co.uk")]
    #[case("123456789012.dkr.ecr.eu-central-1.amazonaws.com", "amazonaws.com")]
    #[case("a.duckdns.org", "duckdns.org")]
    #[case("a.github.io", "github.io")]
    #[case("s3.dualstack.eu-west-1.amazonaws.com", "amazonaws.com")]
    #[case("registry.xn--55qx5d.cn", "registry.xn--55qx5d.cn")]
    #[case("a.www.ck", "www.ck")]
    #[case("co.uk", "co.uk")]
    #[case("localhost:5000", "localhost")]
    #[case("harbor.registry.svc", "harbor.registry.svc")]
    #[case("10.1.2.3:5000", "10.1.2.3")]
    #[case("[2001:db8::1]:5000", "[2001:db8::1]")]
    #[case("2001:db8::1", "2001:db8::1")]
    #[case(".com", ".com")]
    #[case("a..com", ".com")]
    #[case("", "")]
    fn registrable_domains(#[case] host: &str, #[case] expected: &str) {
        assert_eq!(registrable_domain(host), expected);
    }

    #[rstest::rstest]
    #[case("ghcr.io", true)]
    #[case("ghcr.io.", true)]
    #[case("a.GitHub.IO", true)]
    #[case("example.xn--p1ai", true)]
    #[case("om", false)]
    #[case("app.", false)]
    #[case("co.uk", false)]
    #[case("service.namespace", false)]
    #[case("harbor.registry.svc", false)]
    #[case("registry.svc.cluster.local", false)]
    #[case("localhost", false)]
    #[case("registry.corp.internal", false)]
    #[case("nas.lan", false)]
    #[case("registry.example", false)]
    #[case("registry.test", false)]
    #[case("", false)]
    fn public_suffixes(#[case] name: &str, #[case] expected: bool) {
        assert_eq!(has_public_suffix(name), expected);
    }
}
