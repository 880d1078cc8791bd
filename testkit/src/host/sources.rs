//! How the host reaches registries: the `sources.yml` and the docker config of a policy server, as data.

use std::collections::{BTreeMap, BTreeSet};

use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;

/// Trust and credentials per `host:port`. Keys are compared literally, as the real host does.
#[derive(Clone, Default)]
pub struct Sources {
    authorities: BTreeMap<String, String>,
    insecure: BTreeSet<String>,
    credentials: BTreeMap<String, (String, String)>,
}

/// One way to talk to a registry.
pub(super) enum Attempt {
    /// HTTPS with the platform's roots, and these (PEM) if any.
    Verified(Option<String>),
    /// HTTPS, any certificate.
    Unverified,
    /// Plain HTTP.
    Plain,
}

impl Sources {
    /// Trusts a CA (PEM) for one registry, besides the platform's roots (`source_authorities`).
    #[must_use]
    pub fn authority(mut self, registry: impl Into<String>, ca_pem: impl Into<String>) -> Self {
        self.authorities.insert(registry.into(), ca_pem.into());
        self
    }

    /// Lets one registry fall back to unverified HTTPS, then to plain HTTP (`insecure_sources`).
    #[must_use]
    pub fn insecure(mut self, registry: impl Into<String>) -> Self {
        self.insecure.insert(registry.into());
        self
    }

    /// A user and password for one registry, as docker's `config.json` has them.
    #[must_use]
    pub fn credential(
        mut self,
        registry: impl Into<String>,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.credentials
            .insert(registry.into(), (user.into(), password.into()));
        self
    }

    /// The ways to try, in order. The error of the last one is what the guest sees.
    pub(super) fn attempts(&self, registry: &str) -> Vec<Attempt> {
        let verified = Attempt::Verified(self.authorities.get(registry).cloned());
        if self.insecure.contains(registry) {
            vec![verified, Attempt::Unverified, Attempt::Plain]
        } else {
            vec![verified]
        }
    }

    pub(super) fn auth(&self, registry: &str) -> RegistryAuth {
        self.credentials
            .get(registry)
            .map_or(RegistryAuth::Anonymous, |(user, password)| {
                RegistryAuth::Basic(user.clone(), password.clone())
            })
    }

    /// The first registry whose CA is not a PEM certificate, if there is one.
    pub(super) fn broken_authority(&self) -> Option<&str> {
        self.authorities
            .iter()
            .find(|(_, pem)| {
                !pem.contains("BEGIN CERTIFICATE")
                    || Client::try_from(Attempt::Verified(Some((*pem).clone())).config()).is_err()
            })
            .map(|(registry, _)| registry.as_str())
    }
}

impl Attempt {
    /// A new client each time: the real host keeps no connection and no token between two calls.
    pub fn client(&self) -> Client {
        Client::new(self.config())
    }

    fn config(&self) -> ClientConfig {
        match self {
            Self::Verified(None) => ClientConfig::default(),
            Self::Verified(Some(pem)) => ClientConfig {
                extra_root_certificates: vec![Certificate {
                    encoding: CertificateEncoding::Pem,
                    data: pem.clone().into_bytes(),
                }],
                ..ClientConfig::default()
            },
            Self::Unverified => ClientConfig {
                accept_invalid_certificates: true,
                ..ClientConfig::default()
            },
            Self::Plain => ClientConfig {
                protocol: ClientProtocol::Http,
                ..ClientConfig::default()
            },
        }
    }
}
