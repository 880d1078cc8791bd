//! Authentication schemes of one host, each for the repositories that were challenged with it, and the proofs of requests.
//!
//! One private repository among public ones, or one bad response of a proxy, must not decide for the rest of the host. Only
//! a scheme whose login the registry accepted is used for the whole host.

use super::token::Scopes;
use crate::address_policy::Allowance;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

/// Maximum number of repositories per host whose schemes are remembered. Learning one again takes one request.
const MAX_REPOSITORIES: usize = 128;

/// Maximum number of token services per host. Registries have one.
const MAX_SERVICES: usize = 4;

/// Maximum length of realm and service of a token service, in bytes.
const MAX_SERVICE_BYTES: usize = 2048;

#[derive(PartialEq, Eq)]
pub(super) struct TokenService {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    /// The addresses that the host of the realm may have.
    pub(super) allowance: Allowance,
}

impl TokenService {
    fn length(&self) -> usize {
        self.realm.as_str().len() + self.service.as_ref().map_or(0, String::len)
    }
}

#[derive(Clone)]
pub(super) enum Scheme {
    Basic,
    Bearer(Arc<TokenService>),
}

#[derive(Default)]
pub(super) struct AuthSchemes {
    hasher: RandomState,
    /// By the hash of the repository, the oldest first.
    by_repository: VecDeque<(u64, Scheme)>,
    /// The scheme with which the registry accepted a login.
    of_login: Option<Scheme>,
}

impl AuthSchemes {
    pub(super) fn find(&self, scopes: &Scopes) -> Option<Scheme> {
        let keys = self.keys(scopes);
        let known = self.by_repository.iter().rev();
        let mut known = known.filter(|(key, _)| keys.contains(key));
        let known = known.next().map(|(_, scheme)| scheme);
        known.or(self.of_login.as_ref()).cloned()
    }

    pub(super) fn learn(&mut self, scopes: &Scopes, scheme: &Scheme) {
        let keys = self.keys(scopes);
        self.by_repository.retain(|(key, _)| !keys.contains(key));
        let Some(scheme) = self.shared(scheme) else {
            return;
        };
        for key in keys {
            if self.by_repository.len() >= MAX_REPOSITORIES {
                self.by_repository.pop_front();
            }
            self.by_repository.push_back((key, scheme.clone()));
        }
    }

    /// Records that the registry accepted a login for these scopes: their scheme is used for the whole host.
    pub(super) fn accept_login(&mut self, scopes: &Scopes) {
        if let Some(scheme) = self.find(scopes) {
            self.of_login = Some(scheme);
        }
    }

    /// Forgets the scheme that [`Self::find`] returns for these scopes.
    pub(super) fn forget(&mut self, scopes: &Scopes) {
        let keys = self.keys(scopes);
        let before = self.by_repository.len();
        self.by_repository.retain(|(key, _)| !keys.contains(key));
        if self.by_repository.len() == before {
            self.of_login = None;
        }
    }

    /// Returns the scheme with the known instance of its token service, so that each is kept once. Returns `None` if its
    /// names are too long.
    fn shared(&mut self, scheme: &Scheme) -> Option<Scheme> {
        let Scheme::Bearer(service) = scheme else {
            return Some(Scheme::Basic);
        };
        let mut known: Vec<&Arc<TokenService>> = Vec::new();
        let entries = self.by_repository.iter().map(|(_, scheme)| scheme);
        for scheme in entries.chain(&self.of_login) {
            if let Scheme::Bearer(other) = scheme
                && !known.iter().any(|known| Arc::ptr_eq(known, other))
            {
                known.push(other);
            }
        }
        if let Some(same) = known.iter().find(|known| ***known == *service) {
            return Some(Scheme::Bearer(Arc::clone(same)));
        }
        if service.length() > MAX_SERVICE_BYTES {
            return None;
        }
        if known.len() >= MAX_SERVICES {
            self.by_repository.clear();
        }
        Some(Scheme::Bearer(Arc::clone(service)))
    }

    /// Returns one key per repository, and one for a request without a repository.
    fn keys(&self, scopes: &Scopes) -> Vec<u64> {
        let mut keys: Vec<_> = scopes
            .resources()
            .map(|resource| self.hasher.hash_one(resource))
            .collect();
        if keys.is_empty() {
            keys.push(self.hasher.hash_one(""));
        }
        keys
    }
}

/// The content of `Authorization`.
pub(super) struct Proof {
    pub(super) header: HeaderValue,
    /// `None` for an anonymous token.
    pub(super) user: Option<String>,
    /// The header is the password itself, so that a 401 means that it is wrong.
    pub(super) is_password: bool,
    /// It is a token with the scopes of several callers.
    pub(super) batched: bool,
}

pub(super) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    let mut header = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address_policy::Allowance;

    fn bearer(realm: &str) -> Scheme {
        Scheme::Bearer(Arc::new(TokenService {
            realm: realm.parse().unwrap(),
            service: None,
            allowance: Allowance::Public,
        }))
    }

    fn realm(schemes: &AuthSchemes, repository: &str) -> Option<String> {
        match schemes.find(&Scopes::pull(repository))? {
            Scheme::Basic => Some("basic".to_owned()),
            Scheme::Bearer(service) => Some(service.realm.to_string()),
        }
    }

    #[test]
    fn a_scheme_holds_for_its_repository_until_a_login_was_accepted() {
        let mut schemes = AuthSchemes::default();
        schemes.learn(&Scopes::push("a"), &Scheme::Basic);
        assert_eq!(realm(&schemes, "a").as_deref(), Some("basic"));
        assert_eq!(realm(&schemes, "b"), None);
        assert!(schemes.find(&Scopes::default()).is_none());
        schemes.learn(&Scopes::pull("b"), &bearer("https://t/"));
        schemes.accept_login(&Scopes::pull("b"));
        assert_eq!(realm(&schemes, "c").as_deref(), Some("https://t/"));
        assert_eq!(realm(&schemes, "a").as_deref(), Some("basic"));
        schemes.forget(&Scopes::pull("a"));
        assert_eq!(realm(&schemes, "a").as_deref(), Some("https://t/"));
        schemes.forget(&Scopes::pull("a"));
        assert_eq!(realm(&schemes, "c"), None);
        assert_eq!(realm(&schemes, "b").as_deref(), Some("https://t/"));
    }

    #[test]
    fn everything_is_bounded() {
        let mut schemes = AuthSchemes::default();
        for number in 0..2 * MAX_REPOSITORIES {
            let scheme = bearer(&format!("https://t/{}", number % MAX_SERVICES));
            schemes.learn(&Scopes::pull(&number.to_string()), &scheme);
        }
        assert_eq!(schemes.by_repository.len(), MAX_REPOSITORIES);
        for number in 0..100 {
            schemes.learn(&Scopes::pull("a"), &bearer(&format!("https://u/{number}")));
        }
        assert!(schemes.by_repository.len() <= MAX_SERVICES);
        let long = bearer(&format!("https://t/{}", "x".repeat(MAX_SERVICE_BYTES)));
        schemes.learn(&Scopes::pull("a"), &long);
        assert_eq!(realm(&schemes, "a"), None);
    }
}
