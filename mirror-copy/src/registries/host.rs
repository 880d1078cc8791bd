//! Names of registry hosts, and where their traffic goes.

use reqwest::Url;
use std::collections::BTreeSet;

/// The one name of Docker Hub; references use it, its traffic goes elsewhere.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_TRAFFIC: &str = "registry-1.docker.io";

/// The port that needs not be named, because HTTPS has it.
const DEFAULT_PORT: &str = ":443";

/// The name that stands for all spellings of a host: lower case, without the port of HTTPS, and one name for
/// Docker Hub. What is learned of a host must be known under all its names.
pub(crate) fn canonical(host: &str) -> String {
    let host = spelled(host);
    hub(host.strip_suffix(DEFAULT_PORT).unwrap_or(&host)).to_owned()
}

/// The same where the hosts in `insecure`, as [`spelled`] gives them, are spoken to by plain HTTP: port 443 of
/// those is a port like any other.
pub(crate) fn canonical_beside(host: &str, insecure: &BTreeSet<String>) -> String {
    let (exact, name) = (spelled(host), canonical(host));
    if insecure.contains(&exact) || insecure.contains(&name) {
        exact
    } else {
        name
    }
}

/// A host in lower case, its port without leading zeros; one name for Docker Hub.
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
        "index.docker.io" | "registry.hub.docker.com" | DOCKER_HUB_TRAFFIC => DOCKER_HUB,
        name => name,
    }
}

/// Where a registry is.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The canonical name.
    pub(crate) name: String,
    /// `https://host[:port]/v2/`.
    pub(crate) base: Url,
    /// Whether plain HTTP was allowed for this host.
    pub(crate) insecure: bool,
}

impl Endpoint {
    /// `name` is canonical beside `insecure`. `None` if it is not `host` or `host:port`.
    pub(crate) fn new(name: &str, insecure: &BTreeSet<String>) -> Option<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        if name.is_empty() || !name.chars().all(allowed) {
            return None;
        }
        let insecure = insecure.contains(name);
        let scheme = if insecure { "http" } else { "https" };
        let traffic = if name == DOCKER_HUB {
            DOCKER_HUB_TRAFFIC
        } else {
            name
        };
        let base = Url::parse(&format!("{scheme}://{traffic}/v2/")).ok()?;
        Some(Self {
            name: name.to_owned(),
            base,
            insecure,
        })
    }

    pub(crate) fn is_docker_hub(&self) -> bool {
        self.name == DOCKER_HUB
    }

    /// Whether an address belongs to this registry, so that its credentials may go there. One that brings a login of its
    /// own does not.
    pub(crate) fn owns(&self, url: &Url) -> bool {
        let has_login = !url.username().is_empty() || url.password().is_some();
        same_origin(&self.base, url) && !has_login
    }
}

/// Same scheme, host and port.
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
