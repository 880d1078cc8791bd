//! The proxies of the environment, chosen as the HTTP client chooses them.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

/// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
///
/// What goes through a proxy is resolved there, so nothing here knows the address.
pub(super) struct Proxies {
    matcher: Matcher,
    /// Their own hosts. The operator named them, so they may be anywhere.
    hosts: Vec<String>,
}

impl Proxies {
    pub(super) fn from_system() -> Self {
        Self::new(Matcher::from_system())
    }

    fn new(matcher: Matcher) -> Self {
        // Any host that no exception names. If all hosts are exceptions, there is no proxy.
        let probes = ["http://probe.invalid/", "https://probe.invalid/"];
        let hosts = probes.iter().filter_map(|probe| {
            let proxy = matcher.intercept(&probe.parse().ok()?)?;
            Some(proxy.uri().host()?.to_ascii_lowercase())
        });
        Self {
            hosts: hosts.collect(),
            matcher,
        }
    }

    /// Returns whether requests to this URL go through a proxy.
    pub(super) fn intercept(&self, url: &Url) -> bool {
        let uri = url.as_str().parse();
        uri.is_ok_and(|uri| self.matcher.intercept(&uri).is_some())
    }

    /// Returns whether a proxy has this name or address.
    pub(super) fn has_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_of_both_schemes_and_their_exceptions() {
        let matcher = Matcher::builder()
            .http("http://user:pw@Proxy.corp:3128")
            .https("proxy.example.com:3129")
            .no("direct.example.com,10.0.0.0/8")
            .build();
        let proxies = Proxies::new(matcher);
        for host in ["proxy.corp", "PROXY.example.com"] {
            assert!(proxies.has_host(host), "{host}");
        }
        assert!(!proxies.has_host("example.com"));
        let intercepts = |url: &str| proxies.intercept(&Url::parse(url).unwrap());
        assert!(intercepts("https://ghcr.io/v2/"));
        assert!(!intercepts("https://direct.example.com/v2/"));
        assert!(!intercepts("http://10.1.2.3/"));
        assert!(
            !Proxies::new(Matcher::builder().build())
                .intercept(&Url::parse("https://ghcr.io").unwrap())
        );
    }
}
