//! Names and endpoints of registry hosts.

use reqwest::Url;
use std::collections::BTreeSet;

/// Canonical name of Docker Hub in references, and the host of its registry API.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// The port of HTTPS, which names need not contain.
const DEFAULT_PORT: &str = ":443";

/// Returns the canonical name for all spellings of a host: lower case, without the port of HTTPS, and one name for Docker
/// Hub. State of a host is kept under this name.
pub(crate) fn canonical(host: &str) -> String {
    let host = spelled(host);
    hub(host.strip_suffix(DEFAULT_PORT).unwrap_or(&host)).to_owned()
}

/// Returns the canonical name where the hosts in `insecure`, as [`spelled`] returns them, use plain HTTP: their port 443 is
/// kept.
pub(crate) fn canonical_beside(host: &str, insecure: &BTreeSet<String>) -> String {
    let (exact, name) = (spelled(host), canonical(host));
    if insecure.contains(&exact) || insecure.contains(&name) {
        exact
    } else {
        name
    }
}

/// Returns a host in lower case, with its port without leading zeros, and one name for Docker Hub.
pub(crate) fn spelled(host: &str) -> String {
    let host = host.trim().to_ascii_lowercase();
    match host.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            let port = port.trim_start_matches('0');
            format!("{name}:{}", if port.is_empty() { "0" } else { port })
        }
        _ => hub(&host).to_owned(),
    }
}

fn hub(name: &str) -> &str {
    match name {
        "index.docker.io" | "registry.hub.docker.com" | DOCKER_HUB_API => DOCKER_HUB,
        name => name,
    }
}

/// The address of a registry.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The canonical name.
    pub(crate) name: String,
    /// `https://host[:port]/v2/`.
    pub(crate) base: Url,
    /// The host uses plain HTTP.
    pub(crate) insecure: bool,
}

impl Endpoint {
    /// `name` is that of [`canonical_beside`]. Returns `None` if it is not `host` or `host:port`.
    pub(crate) fn new(name: &str, insecure: &BTreeSet<String>) -> Option<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        if name.is_empty() || !name.chars().all(allowed) {
            return None;
        }
        let insecure = insecure.contains(name);
        let scheme = if insecure { "http" } else { "https" };
        let api = if name == DOCKER_HUB {
            DOCKER_HUB_API
        } else {
            name
        };
        let base = Url::parse(&format!("{scheme}://{api}/v2/")).ok()?;
        Some(Self {
            name: name.to_owned(),
            base,
            insecure,
        })
    }

    pub(crate) fn is_docker_hub(&self) -> bool {
        self.name == DOCKER_HUB
    }

    /// Returns whether a URL belongs to this registry, so that its credentials may be sent there. A URL with a login of its
    /// own does not.
    pub(crate) fn owns(&self, url: &Url) -> bool {
        let has_login = !url.username().is_empty() || url.password().is_some();
        same_origin(&self.base, url) && !has_login
    }
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("docker.io", "https://registry-1.docker.io/v2/")]
    #[case("index.docker.io", "https://registry-1.docker.io/v2/")]
    #[case("GHCR.io", "https://ghcr.io/v2/")]
    #[case("localhost:5000", "https://localhost:5000/v2/")]
    #[case("plain.local:5000", "http://plain.local:5000/v2/")]
    #[case("[::1]:5000", "https://[::1]:5000/v2/")]
    #[case("[::1]:0443", "https://[::1]/v2/")]
    #[case("[::443]", "https://[::443]/v2/")]
    #[case("plain.local:05000", "http://plain.local:5000/v2/")]
    #[case("plain.local", "https://plain.local/v2/")]
    #[case("odd.local:443", "http://odd.local:443/v2/")]
    #[case("odd.local", "https://odd.local/v2/")]
    #[case("web.local", "http://web.local/v2/")]
    #[case("web.local:443", "https://web.local/v2/")]
    fn hosts(#[case] name: &str, #[case] base: &str) {
        let insecure = ["plain.local:5000", "odd.local:443", "web.local"];
        let insecure = insecure.map(str::to_owned).into();
        let endpoint = Endpoint::new(&canonical_beside(name, &insecure), &insecure).unwrap();
        assert_eq!(endpoint.base.as_str(), base);
    }

    #[rstest::rstest]
    #[case("ghcr.io:443", "ghcr.io")]
    #[case("GHCR.io:00443", "ghcr.io")]
    #[case("ghcr.io:80", "ghcr.io:80")]
    #[case("ghcr.io:0", "ghcr.io:0")]
    #[case("ghcr.io:1443", "ghcr.io:1443")]
    #[case("docker.io:443", "docker.io")]
    #[case("index.docker.io:443", "docker.io")]
    #[case("registry-1.docker.io:443", "docker.io")]
    #[case("registry-1.docker.io", "docker.io")]
    #[case("registry.hub.docker.com", "docker.io")]
    fn one_host_has_one_name(#[case] host: &str, #[case] name: &str) {
        assert_eq!(canonical(host), name);
    }

    #[rstest::rstest]
    #[case("")]
    #[case("a/b")]
    #[case("user@host")]
    #[case("host?x")]
    #[case("host:99999")]
    fn what_is_not_a_host(#[case] name: &str) {
        assert!(Endpoint::new(name, &BTreeSet::new()).is_none());
    }
}
