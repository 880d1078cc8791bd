//! Names of registry hosts, and where their traffic goes.

use reqwest::Url;
use std::collections::BTreeSet;

/// The one name of Docker Hub; references use it, its traffic goes elsewhere.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_TRAFFIC: &str = "registry-1.docker.io";

/// The name that stands for all spellings of a host: lower case, and one name for Docker Hub.
pub(crate) fn canonical(host: &str) -> String {
    let host = host.trim().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | DOCKER_HUB_TRAFFIC => DOCKER_HUB.to_owned(),
        _ => host,
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
    /// `name` and the names in `insecure` are canonical. `None` if it is not `host` or `host:port`.
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

    /// Whether an address belongs to this registry, so that its credentials may go there.
    pub(crate) fn owns(&self, url: &Url) -> bool {
        same_origin(&self.base, url)
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
    fn hosts(#[case] name: &str, #[case] base: &str) {
        let insecure = BTreeSet::from(["plain.local:5000".to_owned()]);
        let endpoint = Endpoint::new(&canonical(name), &insecure).unwrap();
        assert_eq!(endpoint.base.as_str(), base);
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
