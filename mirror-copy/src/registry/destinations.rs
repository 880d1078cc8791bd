//! Destinations of requests on behalf of a registry: its own host, and the addresses that it refers to.

use super::Registry;
use crate::address_policy::{
    AddressClass, AddressPolicy, AddressRefused, Allowance, group, of_address,
};
use crate::error::advice::{tls_cause, tls_problem};
use crate::error::{RegistryError, Remedy, Subject, public};
use crate::lock::lock;
use crate::registries::clients::Pool;
use crate::text::public_url;
use ipnet::IpNet;
use reqwest::{Client, Response, Url};
use std::net::IpAddr;
use std::sync::atomic::Ordering;

const LINK_LOCAL: &str = "is a link-local address or a metadata service: clouds give machines their credentials there, \
                          so no registry may refer to it";

/// The reason why no request is sent to an address that a registry refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barred {
    LinkLocal,
    Private,
    /// The address contains a user name or password.
    Userinfo,
}

impl Registry {
    /// Returns the address of this registry, an IPv6 address cut to its network of 64 bits: the only one that its name last
    /// resolved to, else the one that responded last. Returns `None` before that, and if a proxy connects.
    ///
    /// The owner of a name chooses its addresses and may list foreign ones among them. Those do not count, because they do
    /// not respond.
    #[must_use]
    pub fn address_group(&self) -> Option<IpAddr> {
        let policy = &self.shared.common.address_policy;
        let responded = || *lock(&self.shared.peers.address);
        policy
            .only_group(&self.shared.endpoint.base)
            .or_else(responded)
    }

    /// Returns whether details of the errors of this registry may be shown to the user who named it. They are hidden once a
    /// private address responded on its behalf, unless the operator allowed this registry: details about ports and paths
    /// there would make this process a scanner.
    #[must_use]
    pub fn has_public_errors(&self) -> bool {
        let peers = &self.shared.peers;
        let is_private = [&peers.own_private, &peers.other_private]
            .iter()
            .any(|seen| seen.load(Ordering::Relaxed));
        self.shared.allowance != Allowance::Public || !is_private
    }

    /// Returns one sentence about an error of this registry for the user who named it.
    #[must_use]
    pub fn public_text(&self, error: &RegistryError) -> String {
        const REGISTRY: &str = "the registry";
        if self.has_public_errors() {
            error.public_text(REGISTRY)
        } else {
            public::unreachable(REGISTRY)
        }
    }

    /// Returns the addresses that may be connected to for this URL.
    pub(super) fn allowance_for(&self, url: &Url) -> Allowance {
        self.allowance_at(url, self.beyond())
    }

    /// Returns the same if hosts other than that of the registry may have the addresses of `beyond`.
    pub(super) fn allowance_at(&self, url: &Url, beyond: Allowance) -> Allowance {
        if self.is_own_host(url) {
            self.shared.allowance
        } else {
            beyond
        }
    }

    /// Returns the addresses that other hosts which this registry refers to may have.
    pub(super) fn beyond(&self) -> Allowance {
        if self.is_private() || self.allows_private_redirects() {
            Allowance::Private
        } else {
            Allowance::Public
        }
    }

    /// Returns the same after a redirect by `url`: a public host must not refer to private addresses.
    pub(super) fn beyond_after(
        &self,
        beyond: Allowance,
        url: &Url,
        response: &Response,
    ) -> Allowance {
        if self.is_own_host(url) {
            self.beyond()
        } else if self.allows_private_redirects()
            || self.class_of_peer(url, response) != AddressClass::Public
        {
            beyond
        } else {
            Allowance::Public
        }
    }

    /// Records the address that responded, and its class.
    pub(super) fn record_peer(&self, url: &Url, response: &Response) {
        let peers = &self.shared.peers;
        let is_proxied = self.shared.common.address_policy.is_proxied(url);
        if self.is_own_host(url) && !is_proxied {
            *lock(&peers.address) = response.remote_addr().map(|peer| group(peer.ip()));
        }
        let is_public = self.class_of_peer(url, response) == AddressClass::Public;
        let seen = match (self.is_own_host(url), is_public) {
            (true, true) => &peers.own_public,
            (true, false) => &peers.own_private,
            (false, false) => &peers.other_private,
            (false, true) => return,
        };
        seen.store(true, Ordering::Relaxed);
    }

    /// Returns the HTTP client for a request, if it may be sent.
    pub(super) fn client_for(
        &self,
        subject: &Subject,
        url: &Url,
        pool: Pool,
        allowance: Allowance,
    ) -> Result<Client, RegistryError> {
        self.check(subject, url, allowance, "address")?;
        let common = &self.shared.common;
        // A registry that redirects to another one must not use the certificate for that.
        let is_own = self.shared.endpoint.owns(url)
            && !common
                .options
                .hosts_without_client_certificate
                .contains(self.host());
        let clients = common.clients.for_url(url, is_own, allowance);
        Ok(if self.has_one_pool(pool) {
            clients.bulk
        } else {
            clients.small
        })
    }

    pub(super) fn check_redirect(
        &self,
        subject: &Subject,
        to: &Url,
        beyond: Allowance,
    ) -> Result<(), RegistryError> {
        self.check(subject, to, self.allowance_at(to, beyond), "redirect")
    }

    /// Checks the address of a foreign layer, which the image contains, like a redirect. It must be HTTPS if the registry
    /// is.
    pub(super) fn check_foreign(&self, subject: &Subject, to: &Url) -> Result<(), RegistryError> {
        match (self.shared.endpoint.base.scheme(), to.scheme()) {
            (_, "https") | ("http", "http") => {
                let allowance = self.allowance_for(to);
                self.check(subject, to, allowance, "foreign layer's address")
            }
            _ => Err(RegistryError::Redirect {
                subject: subject.clone(),
                reason: format!(
                    "its foreign layer's address {} is not HTTPS",
                    public_url(to)
                ),
            }),
        }
    }

    /// Returns the upload location as it is reached from here, if it may be connected to.
    pub(super) fn checked_location(
        &self,
        subject: &Subject,
        to: Url,
    ) -> Result<Url, RegistryError> {
        let to = self.seen_from_here(to);
        self.check(subject, &to, self.allowance_for(&to), "upload location")?;
        Ok(to)
    }

    /// Returns a URL of the registry itself as it is reached from here.
    pub(super) fn seen_from_here(&self, url: Url) -> Url {
        seen_from_here(&self.shared.endpoint.base, url)
    }

    /// Returns the reason why no request may be sent to this URL; `None` if it may.
    pub(super) fn barred(&self, to: &Url, allowance: Allowance) -> Option<Barred> {
        if !to.username().is_empty() || to.password().is_some() {
            return Some(Barred::Userinfo);
        }
        let policy = &self.shared.common.address_policy;
        match policy.check(to, allowance) {
            Ok(()) => None,
            Err(AddressClass::LinkLocal) => Some(Barred::LinkLocal),
            Err(_) => Some(Barred::Private),
        }
    }

    /// Returns the end of a sentence about a barred address.
    pub(super) fn barred_text(&self, barred: Barred) -> String {
        match barred {
            Barred::LinkLocal => LINK_LOCAL.to_owned(),
            Barred::Userinfo => {
                "contains a user name or password, which no registry may choose".to_owned()
            }
            Barred::Private => format!(
                "is in a private network, which this registry may not refer to; {}",
                self.advice(&Remedy::PrivateRedirects)
            ),
        }
    }

    /// Returns the error for a request without a response.
    pub(super) fn transport_error(
        &self,
        subject: &Subject,
        url: &Url,
        error: reqwest::Error,
    ) -> RegistryError {
        if self.is_own_host(url) && is_about_http_version(&error) {
            self.learn_that_http1_is_refused();
        }
        match AddressRefused::cause_of(&error) {
            Some(refused) => RegistryError::Address {
                subject: subject.clone(),
                reason: self.explain(url, refused),
            },
            None => RegistryError::Transport {
                subject: subject.clone(),
                url: public_url(url),
                advice: self.tls_advice(&error),
                source: error.without_url(),
            },
        }
    }

    /// Returns the cause and the remedy of a failed TLS handshake; empty if it is not a known one.
    fn tls_advice(&self, error: &reqwest::Error) -> String {
        match tls_problem(error) {
            None => String::new(),
            Some((problem, None)) => problem.to_owned(),
            Some((problem, Some(remedy))) => format!("{problem}; {}", self.advice(&remedy)),
        }
    }

    fn explain(&self, url: &Url, refused: &AddressRefused) -> String {
        let address = refused.address;
        let is_link_local = of_address(address) == AddressClass::LinkLocal;
        let (host, network) = (self.host(), IpNet::from(address));
        let to = public_url(url);
        if self.is_own_host(url) {
            let advice = self.advice(&Remedy::PrivateAddress { host, network });
            format!("{refused}; {advice}")
        } else if is_link_local {
            format!("the registry refers to {to}: {refused}, and {LINK_LOCAL}")
        } else {
            let advice = self.advice(&Remedy::PrivateTarget { network });
            format!("the registry refers to {to}: {refused}; {advice}")
        }
    }

    fn check(
        &self,
        subject: &Subject,
        to: &Url,
        allowance: Allowance,
        what: &str,
    ) -> Result<(), RegistryError> {
        match self.barred(to, allowance) {
            None => Ok(()),
            Some(barred) => Err(RegistryError::Redirect {
                subject: subject.clone(),
                reason: format!("its {what} {} {}", public_url(to), self.barred_text(barred)),
            }),
        }
    }

    fn is_own_host(&self, url: &Url) -> bool {
        url.host() == self.shared.endpoint.base.host()
    }

    /// Returns whether this registry is in a private network and the operator allowed that. A registry that was ever seen at
    /// a public address is not.
    fn is_private(&self) -> bool {
        let peers = &self.shared.peers;
        let is_at_private_address = || {
            peers.own_private.load(Ordering::Relaxed) && !peers.own_public.load(Ordering::Relaxed)
        };
        self.shared.allowance != Allowance::Public
            && (AddressPolicy::is_private(&self.shared.endpoint.base) || is_at_private_address())
    }

    fn allows_private_redirects(&self) -> bool {
        self.shared.common.options.allow_private_redirects
    }

    /// Returns the class of the address that responded. Behind a proxy only the URL is known.
    fn class_of_peer(&self, url: &Url, response: &Response) -> AddressClass {
        let policy = &self.shared.common.address_policy;
        match response.remote_addr() {
            Some(peer) if !policy.is_proxied(url) => of_address(peer.ip()),
            _ if AddressPolicy::is_private(url) => AddressClass::Private,
            _ => AddressClass::Public,
        }
    }
}

/// Returns whether the peer supports none of the offered protocols (RFC 7301, `no_application_protocol`).
fn is_about_http_version(error: &reqwest::Error) -> bool {
    let alert = rustls::AlertDescription::NoApplicationProtocol;
    tls_cause(error).is_some_and(|tls| {
        *tls == rustls::Error::NoApplicationProtocol || *tls == rustls::Error::AlertReceived(alert)
    })
}

/// Repairs a URL on the own host of the registry: behind a proxy that terminates TLS, the registry may not know that it is
/// accessed by HTTPS, nor by which port.
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
    use crate::{Operation, PrivateHosts, Registries, RegistryOptions};

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn registry(host: &str, options: RegistryOptions) -> Registry {
        Registries::new(options).unwrap().get(host).unwrap()
    }

    /// `ghcr.io` is public by its name, and nothing was resolved.
    #[rstest::rstest]
    #[case("ghcr.io", "https://cdn.example.com/", false, None)]
    #[case("ghcr.io", "https://10.0.0.1/", false, Some(Barred::Private))]
    #[case("ghcr.io", "https://10.0.0.1/", true, None)]
    #[case("ghcr.io", "https://minio.minio.svc/", false, Some(Barred::Private))]
    #[case("ghcr.io", "https://service.namespace/", false, Some(Barred::Private))]
    #[case("ghcr.io", "http://169.254.169.254/", true, Some(Barred::LinkLocal))]
    #[case(
        "ghcr.io",
        "http://metadata.google.internal/",
        true,
        Some(Barred::LinkLocal)
    )]
    #[case("ghcr.io", "https://user:pw@ghcr.io/", true, Some(Barred::Userinfo))]
    #[case(
        "ghcr.io",
        "https://user@cdn.example.com/",
        true,
        Some(Barred::Userinfo)
    )]
    #[case(
        "ghcr.io",
        "https://:pw@cdn.example.com/",
        true,
        Some(Barred::Userinfo)
    )]
    #[case("10.0.0.9", "https://10.0.0.1/", false, None)]
    #[case("10.0.0.9", "https://169.254.169.254/", true, Some(Barred::LinkLocal))]
    #[case("localhost:5000", "http://127.0.0.1:9000/", false, None)]
    #[case("harbor.harbor.svc", "https://minio.minio.svc/", false, None)]
    #[case(
        "harbor.harbor.svc",
        "https://metadata/",
        true,
        Some(Barred::LinkLocal)
    )]
    #[case("169.254.0.9", "http://169.254.0.9:9000/", false, None)]
    #[case("169.254.0.9", "http://169.254.0.1/", false, Some(Barred::LinkLocal))]
    fn destinations_of_registries(
        #[case] host: &str,
        #[case] to: &str,
        #[case] allow_private_redirects: bool,
        #[case] expected: Option<Barred>,
    ) {
        let options = RegistryOptions {
            allow_private_redirects,
            ..RegistryOptions::default()
        };
        let (registry, to) = (registry(host, options), url(to));
        let allowance = registry.allowance_for(&to);
        assert_eq!(registry.barred(&to, allowance), expected);
    }

    /// All registries may be private, and the addresses that responded decide whether this one is.
    #[rstest::rstest]
    #[case(&[], "https://10.0.0.1/", Some(Barred::Private))]
    #[case(&[false], "https://10.0.0.1/", None)]
    #[case(&[false], "https://169.254.169.254/", Some(Barred::LinkLocal))]
    #[case(&[true], "https://10.0.0.1/", Some(Barred::Private))]
    #[case(&[false, true], "https://10.0.0.1/", Some(Barred::Private))]
    #[case(&[true, false], "https://10.0.0.1/", Some(Barred::Private))]
    fn a_registry_is_private_if_all_its_addresses_are(
        #[case] answered_by_public: &[bool],
        #[case] to: &str,
        #[case] expected: Option<Barred>,
    ) {
        let registry = registry("harbor.example.com", RegistryOptions::default());
        for is_public in answered_by_public {
            let peers = &registry.shared.peers;
            let seen = if *is_public {
                &peers.own_public
            } else {
                &peers.own_private
            };
            seen.store(true, Ordering::Relaxed);
        }
        let to = url(to);
        let allowance = registry.allowance_for(&to);
        assert_eq!(registry.barred(&to, allowance), expected);
    }

    /// Users name the registries; the operator allowed a name and two networks.
    #[rstest::rstest]
    #[case("ghcr.io", "https://10.20.0.1/", None)]
    #[case("ghcr.io", "https://[::ffff:10.20.0.1]/", None)]
    #[case("ghcr.io", "https://10.21.0.1/", Some(Barred::Private))]
    #[case("ghcr.io", "https://10.9.9.9/", Some(Barred::Private))]
    #[case("10.20.0.1", "https://10.21.0.1/", Some(Barred::Private))]
    #[case("10.9.9.9", "https://10.21.0.1/", None)]
    // It is resolved, and the networks decide.
    #[case("ghcr.io", "https://minio.minio.svc/", None)]
    #[case("ghcr.io", "https://169.254.0.1/", Some(Barred::LinkLocal))]
    #[case("ghcr.io", "https://169.254.20.10/", None)]
    #[case("10.9.9.9", "https://169.254.169.254/", Some(Barred::LinkLocal))]
    fn networks_are_allowed_for_all(
        #[case] host: &str,
        #[case] to: &str,
        #[case] expected: Option<Barred>,
    ) {
        let networks = ["10.20.0.0/16", "169.254.0.0/16", "169.254.20.10/32"];
        let networks = networks.map(|network| network.parse().unwrap()).to_vec();
        let options = RegistryOptions {
            private_hosts: PrivateHosts::Only(["10.9.9.9".to_owned()].into()),
            private_networks: networks,
            ..RegistryOptions::default()
        };
        let (registry, to) = (registry(host, options), url(to));
        let allowance = registry.allowance_for(&to);
        assert_eq!(registry.barred(&to, allowance), expected);
    }

    #[rstest::rstest]
    #[case("ghcr.io", "https://web.example.com/layer", None)]
    #[case("ghcr.io", "http://web.example.com/layer", Some("is not HTTPS"))]
    #[case("ghcr.io", "ftp://web.example.com/layer", Some("is not HTTPS"))]
    #[case("ghcr.io", "https://10.0.0.1/layer", Some("private network"))]
    #[case("ghcr.io", "https://169.254.169.254/layer", Some("link-local"))]
    #[case("plain.local", "http://web.example.com/layer", None)]
    #[case("plain.local", "file:///etc/passwd", Some("is not HTTPS"))]
    fn destinations_of_foreign_layers(
        #[case] host: &str,
        #[case] to: &str,
        #[case] refused: Option<&str>,
    ) {
        let options = RegistryOptions {
            insecure_hosts: ["plain.local".to_owned()].into(),
            ..RegistryOptions::default()
        };
        let registry = registry(host, options);
        let subject = Subject {
            operation: Operation::ReadBlob,
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
    fn urls_of_the_registry_itself(#[case] base: &str, #[case] said: &str, #[case] seen: &str) {
        assert_eq!(seen_from_here(&url(base), url(said)).as_str(), seen);
    }
}
