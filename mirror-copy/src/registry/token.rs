//! Token scopes, tokens, and the response of a token service.

use crate::json;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Lifetime of a token without `expires_in` (token specification of distribution).
const DEFAULT_LIFE_SECONDS: f64 = 60.0;

/// A token is replaced after this part of its lifetime, so that no request is sent with one that is about to expire.
const USED_PART: f64 = 0.8;

/// Maximum lifetime of a token: a day, whatever `expires_in` is.
const MAX_LIFE_SECONDS: f64 = 86_400.0;

/// Maximum size of a token, in bytes: what servers accept for all headers of a request.
const MAX_TOKEN: usize = 16 * 1024;

/// Maximum number of scopes of a challenge, besides those of the request itself. A mount needs one.
const MAX_EXTRA: usize = 8;

/// Maximum length of such a scope, in bytes: enough for the longest repository name and all actions.
const MAX_SCOPE: usize = 512;

/// The scopes of a request: `repository:<name>:pull[,push]`, one per repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scopes(BTreeSet<String>);

impl Scopes {
    pub(super) fn pull(repository: &str) -> Self {
        Self(BTreeSet::from([format!("repository:{repository}:pull")]))
    }

    pub(super) fn push(repository: &str) -> Self {
        Self(BTreeSet::from([format!(
            "repository:{repository}:pull,push"
        )]))
    }

    /// The right to list all repositories, as the token specification of distribution names it.
    pub(super) fn catalog() -> Self {
        Self(BTreeSet::from(["registry:catalog:*".to_owned()]))
    }

    /// Adds the right to read another repository, as a mount needs it.
    pub(super) fn and_pull(&self, repository: &str) -> Self {
        self.union(&Self::pull(repository))
    }

    /// Returns what either of them grants, without repetition.
    pub(super) fn union(&self, other: &Self) -> Self {
        let more = other.0.iter().filter(|scope| !self.grants(scope));
        let more = Self(more.cloned().collect());
        let own = self.0.iter().filter(|scope| !more.grants(scope));
        Self(own.chain(&more.0).cloned().collect())
    }

    /// Returns whether these scopes grant everything that the others grant.
    pub(super) fn cover(&self, others: &Self) -> bool {
        others.iter().all(|scope| self.grants(scope))
    }

    /// Parses the scope of a challenge and returns the part that these scopes do not grant: at most 8 scopes of at most 512
    /// bytes.
    pub(super) fn missing_from(&self, challenge: Option<&str>) -> Self {
        let required = challenge.unwrap_or_default().split_ascii_whitespace();
        Self(
            required
                .filter(|scope| scope.len() <= MAX_SCOPE && !self.grants(scope))
                .take(MAX_EXTRA)
                .map(str::to_owned)
                .collect(),
        )
    }

    fn grants(&self, scope: &str) -> bool {
        let Some((resource, actions)) = scope.rsplit_once(':') else {
            return false;
        };
        self.0
            .iter()
            .filter_map(|own| own.rsplit_once(':'))
            .any(|(own, granted)| {
                own == resource
                    && actions
                        .split(',')
                        .all(|a| granted.split(',').any(|g| g == a))
            })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns the repository whose login is used: the one that is written, else the first. Empty for none.
    pub(super) fn login_repository(&self) -> &str {
        let writes = |scope: &&str| scope.ends_with(":pull,push");
        let scope = self.iter().find(writes).or_else(|| self.iter().next());
        let resource = scope.and_then(|scope| scope.rsplit_once(':'));
        let name = resource.and_then(|(resource, _)| resource.strip_prefix("repository:"));
        name.unwrap_or_default()
    }

    /// Returns the scopes without their actions: `repository:<name>`.
    pub(super) fn resources(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|scope| {
            scope
                .rsplit_once(':')
                .map_or(scope, |(resource, _)| resource)
        })
    }

    /// Returns all scopes in one text: the key of the cache, and `scope` of OAuth 2.
    pub(super) fn joined(&self) -> String {
        self.iter().collect::<Vec<_>>().join(" ")
    }
}

#[derive(Clone)]
pub(super) struct Token {
    /// `Bearer …`, marked sensitive.
    pub(super) header: HeaderValue,
    pub(super) renew_at: Instant,
    /// `None` for an anonymous token.
    pub(super) user: Option<String>,
    /// It was requested with the scopes of several callers, which may be the reason if a registry refuses it.
    pub(super) batched: bool,
}

/// The response of a token service: `token` of Docker, or `access_token` of OAuth 2.
#[derive(Deserialize)]
pub(super) struct TokenResponse<'a> {
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
    /// In seconds. Some services return a float or null.
    #[serde(borrow)]
    expires_in: Option<&'a RawValue>,
}

impl<'a> TokenResponse<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        json::from_slice(body).ok()
    }

    /// Returns the token, or `None` if there is none of at most 16 KiB that can be part of a header. The lifetime starts at
    /// `requested`, by the local clock: `issued_at` would add the skew between two clocks.
    pub(super) fn into_token(self, requested: Instant, user: Option<String>) -> Option<Token> {
        let filled = |raw| json::optional_text(raw, MAX_TOKEN).filter(|text| !text.is_empty());
        let text = filled(self.token).or_else(|| filled(self.access_token))?;
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        header.set_sensitive(true);
        let seconds = json::optional::<f64>(self.expires_in).filter(|life| *life > 0.0);
        let life = seconds
            .unwrap_or(DEFAULT_LIFE_SECONDS)
            .min(MAX_LIFE_SECONDS);
        let renew_at = requested + Duration::from_secs_f64(life * USED_PART);
        Some(Token {
            header,
            renew_at,
            user,
            batched: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_adds_only_what_is_missing() {
        let scopes = Scopes::push("a/b");
        assert_eq!(
            scopes.missing_from(Some("repository:a/b:pull")),
            Scopes::default()
        );
        assert_eq!(
            scopes.missing_from(Some("repository:a/b:push,pull")),
            Scopes::default()
        );
        assert_eq!(
            scopes.missing_from(Some("repository:a/b:pull repository:c:pull")),
            Scopes::pull("c")
        );
        assert_eq!(scopes.missing_from(None), Scopes::default());
        assert_eq!(
            scopes.and_pull("c").joined(),
            "repository:a/b:pull,push repository:c:pull"
        );
    }

    #[test]
    fn the_scopes_of_a_challenge_are_bounded() {
        let scopes = Scopes::pull("a");
        let many: Vec<_> = (0..100).map(|n| format!("repository:{n}:pull")).collect();
        let extra = scopes.missing_from(Some(&many.join(" ")));
        assert_eq!(extra.iter().count(), MAX_EXTRA);
        let long = format!(
            "repository:{}:pull repository:b:pull",
            "x".repeat(MAX_SCOPE)
        );
        assert_eq!(scopes.missing_from(Some(&long)), Scopes::pull("b"));
    }

    #[test]
    fn a_union_has_no_repetition() {
        let (pull, push) = (Scopes::pull("a"), Scopes::push("a"));
        assert_eq!(push.and_pull("a"), push);
        assert_eq!(pull.union(&push), push);
        assert_eq!(pull.union(&Scopes::default()), pull);
        assert!(push.cover(&pull) && !pull.cover(&push));
        assert!(!push.cover(&Scopes::pull("b")));
    }

    #[tokio::test(start_paused = true)]
    async fn lifetimes_are_parsed_leniently() {
        let life = |text: &str| {
            let answer = TokenResponse::read(text.as_bytes()).unwrap();
            let now = Instant::now();
            answer
                .into_token(now, None)
                .map(|token| token.renew_at - now)
        };
        assert_eq!(
            life(r#"{"token":"t","expires_in":100}"#),
            Some(Duration::from_secs(80))
        );
        assert_eq!(
            life(r#"{"access_token":"t"}"#),
            Some(Duration::from_secs(48))
        );
        assert_eq!(
            life(r#"{"token":"t","expires_in":1e300}"#),
            Some(Duration::from_mins(1152))
        );
        assert_eq!(life(r#"{"token":""}"#), None);
        assert_eq!(life(r#"{"token":"a\nb"}"#), None);
        let of_length = |length| life(&format!(r#"{{"token":"{}"}}"#, "t".repeat(length)));
        assert!(of_length(MAX_TOKEN).is_some());
        assert_eq!(of_length(MAX_TOKEN + 1), None);
    }
}
