//! The proxies of the environment, and the exceptions from them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

/// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
///
/// A proxy resolves the names of its requests, so their addresses are not known here.
pub(super) struct Proxies {
    matcher: Matcher,
    exceptions: Exceptions,
    /// Hosts of the proxies. The operator named them, so they may have any address.
    hosts: Vec<String>,
}

impl Proxies {
    pub(super) fn from_system() -> Self {
        let variables = ["NO_PROXY", "no_proxy"].map(std::env::var);
        let no_proxy = variables.into_iter().find_map(Result::ok);
        let exceptions = Exceptions::parse(&no_proxy.unwrap_or_default());
        Self::new(Matcher::from_system(), exceptions)
    }

    fn new(matcher: Matcher, exceptions: Exceptions) -> Self {
        // Any host that no exception names. If all hosts are exceptions, there is no proxy.
        let probes = ["http://probe.invalid/", "https://probe.invalid/"];
        let hosts = probes.iter().filter_map(|probe| {
            let proxy = matcher.intercept(&probe.parse().ok()?)?;
            Some(proxy.uri().host()?.to_ascii_lowercase())
        });
        Self {
            hosts: hosts.collect(),
            exceptions,
            matcher,
        }
    }

    /// Returns whether requests to this URL go through a proxy.
    pub(super) fn intercept(&self, url: &Url) -> bool {
        self.proxy_for(url).is_some()
    }

    /// Returns the proxy for requests to this URL, with its login.
    pub(super) fn proxy_for(&self, url: &Url) -> Option<Url> {
        if self.exceptions.contain(url) {
            return None;
        }
        let proxy = self.matcher.intercept(&url.as_str().parse().ok()?)?;
        let mut address: Url = proxy.uri().to_string().parse().ok()?;
        let login = proxy.basic_auth().and_then(|login| {
            let login = login.to_str().ok()?.strip_prefix("Basic ")?;
            String::from_utf8(BASE64_STANDARD.decode(login).ok()?).ok()
        });
        let login = login
            .as_deref()
            .map(|login| login.split_once(':').unwrap_or((login, "")));
        if let Some((user, password)) = login.or_else(|| proxy.raw_auth()) {
            address.set_username(user).ok()?;
            address.set_password(Some(password)).ok()?;
        }
        Some(address)
    }

    /// Returns whether a proxy has this name or address.
    pub(super) fn has_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }
}

/// The entries of `NO_PROXY` that the matcher does not support: `*` also for addresses, and `host:port`.
#[derive(Default)]
struct Exceptions {
    all: bool,
    /// Domains with all their subdomains, or addresses without brackets, with a port.
    ports: Vec<(String, u16)>,
}

impl Exceptions {
    fn parse(no_proxy: &str) -> Self {
        let entries = no_proxy.split(',').map(str::trim);
        let ports = entries.clone().filter_map(|entry| {
            let (host, port) = entry.rsplit_once(':')?;
            let is_address = host.starts_with('[') && host.ends_with(']');
            // An IPv6 address without brackets has no port.
            if host.is_empty() || !is_address && host.contains(':') {
                return None;
            }
            let host = host.trim_matches(['[', ']']).trim_start_matches('.');
            Some((host.to_ascii_lowercase(), port.parse().ok()?))
        });
        Self {
            all: entries.clone().any(|entry| entry == "*"),
            ports: ports.collect(),
        }
    }

    fn contain(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let is_name = url.domain().is_some();
        let host = host.trim_matches(['[', ']']).trim_end_matches('.');
        let is_below = |domain: &str| {
            let rest = host.strip_suffix(domain);
            rest.is_some_and(|rest| rest.is_empty() || is_name && rest.ends_with('.'))
        };
        let mut ports = self.ports.iter();
        self.all
            || ports.any(|(domain, port)| {
                url.port_or_known_default() == Some(*port) && is_below(domain)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("*", "https://10.1.2.3/", false)]
    #[case("*", "https://[2001:db8::1]:5000/", false)]
    #[case("a.example, *", "https://ghcr.io/", false)]
    #[case("registry.corp:5000", "https://registry.corp:5000/v2/", false)]
    #[case("registry.corp:5000", "https://registry.corp/v2/", true)]
    #[case(".corp:5000", "http://eu.registry.corp:5000/", false)]
    #[case("corp:5000", "http://notcorp:5000/", true)]
    #[case("registry.corp:443", "https://Registry.Corp/", false)]
    #[case("10.1.2.3:5000", "http://10.1.2.3:5000/", false)]
    #[case("0.1.2.3:5000", "http://10.1.2.3:5000/", true)]
    #[case("[2001:db8::1]:5000", "http://[2001:db8::1]:5000/", false)]
    #[case("2001:db8::1", "http://[2001:db8::1]:5000/", false)]
    #[case("2001:db8::5000", "http://[2001:db8::1]:5000/", true)]
    #[case("", "https://ghcr.io/", true)]
    fn exceptions(#[case] no_proxy: &str, #[case] url: &str, #[case] is_proxied: bool) {
        let matcher = Matcher::builder().all("proxy.corp:3128").no(no_proxy);
        let proxies = Proxies::new(matcher.build(), Exceptions::parse(no_proxy));
        let url = Url::parse(url).unwrap();
        assert_eq!(proxies.intercept(&url), is_proxied);
    }

    #[test]
    fn a_proxy_keeps_its_login() {
        let matcher = Matcher::builder().all("http://us%40er:p%3Aw@proxy.corp:3128");
        let proxies = Proxies::new(matcher.build(), Exceptions::default());
        let proxy = proxies.proxy_for(&Url::parse("https://ghcr.io/").unwrap());
        let expected = "http://us%40er:p%3Aw@proxy.corp:3128/";
        assert_eq!(proxy.unwrap().as_str(), expected);
    }

    #[test]
    fn proxies_of_both_schemes_and_their_exceptions() {
        let matcher = Matcher::builder()
            .http("http://user:pw@Proxy.corp:3128")
            .https("proxy.example.com:3129")
            .no("direct.example.com,10.0.0.0/8")
            .build();
        let proxies = Proxies::new(matcher, Exceptions::default());
        for host in ["proxy.corp", "PROXY.example.com"] {
            assert!(proxies.has_host(host), "{host}");
        }
        assert!(!proxies.has_host("example.com"));
        let intercepts = |url: &str| proxies.intercept(&Url::parse(url).unwrap());
        assert!(intercepts("https://ghcr.io/v2/"));
        assert!(!intercepts("https://direct.example.com/v2/"));
        assert!(!intercepts("http://10.1.2.3/"));
        assert!(
            !Proxies::new(Matcher::builder().build(), Exceptions::default())
                .intercept(&Url::parse("https://ghcr.io").unwrap())
        );
    }
}
