//! Token scopes, cached tokens, and the token service's answer.

use crate::json;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Life of a token whose answer names none (distribution's token specification, `expires_in`).
const DEFAULT_LIFE_SECONDS: f64 = 60.0;

/// A token is replaced after this part of its life, so that no request leaves with a dying one.
const USED_PART: f64 = 0.8;

/// No token is kept longer than a day, whatever it says.
const MAX_LIFE_SECONDS: f64 = 86_400.0;

/// Longest token used, in bytes: what servers take as all headers of a request together.
const MAX_TOKEN: usize = 16 * 1024;

/// Most scopes taken over from a challenge, beyond those that the request itself wants. A mount wants one.
const MAX_EXTRA: usize = 8;

/// Longest scope taken over, in bytes: room for the longest repository name and all actions.
const MAX_SCOPE: usize = 512;

/// What a request needs to be allowed: `repository:<name>:pull[,push]`, one per repository.
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

    /// These scopes and reading of one more repository, as a mount needs it.
    pub(super) fn and_pull(&self, repository: &str) -> Self {
        self.union(&Self::pull(repository))
    }

    /// What either of them grants, said once.
    pub(super) fn union(&self, other: &Self) -> Self {
        let more = other.0.iter().filter(|scope| !self.grants(scope));
        let more = Self(more.cloned().collect());
        let own = self.0.iter().filter(|scope| !more.grants(scope));
        Self(own.chain(&more.0).cloned().collect())
    }

    /// Whether these scopes grant all that the others do.
    pub(super) fn cover(&self, others: &Self) -> bool {
        others.iter().all(|scope| self.grants(scope))
    }

    /// Reads a challenge's scope, keeping only what these scopes do not already grant: at most 8 scopes of
    /// at most 512 bytes.
    pub(super) fn missing_from(&self, challenge: Option<&str>) -> Self {
        let asked = challenge.unwrap_or_default().split_ascii_whitespace();
        Self(
            asked
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

    /// The repository whose login is used: the one that is written to, else the first. Empty for none.
    pub(super) fn login_repository(&self) -> &str {
        let writes = |scope: &&str| scope.ends_with(":pull,push");
        let scope = self.iter().find(writes).or_else(|| self.iter().next());
        let resource = scope.and_then(|scope| scope.rsplit_once(':'));
        let name = resource.and_then(|(resource, _)| resource.strip_prefix("repository:"));
        name.unwrap_or_default()
    }

    /// The scopes without their actions: `repository:<name>`.
    pub(super) fn resources(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|scope| {
            scope
                .rsplit_once(':')
                .map_or(scope, |(resource, _)| resource)
        })
    }

    /// All scopes in one text: the cache's key and the value of OAuth 2's `scope`.
    pub(super) fn joined(&self) -> String {
        self.iter().collect::<Vec<_>>().join(" ")
    }
}

/// A Bearer token in use.
#[derive(Clone)]
pub(super) struct Token {
    /// `Bearer …`, marked sensitive.
    pub(super) header: HeaderValue,
    pub(super) renew_at: Instant,
    /// Whose token it is; `None` for an anonymous one.
    pub(super) user: Option<String>,
    /// Whether scopes of several callers were asked for. A registry that refuses it may do so for that.
    pub(super) batched: bool,
}

/// The answer of a token service: Docker's `token` or OAuth 2's `access_token`.
#[derive(Deserialize)]
pub(super) struct TokenAnswer<'a> {
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
    /// Seconds. Some services write a float or null.
    #[serde(borrow)]
    expires_in: Option<&'a RawValue>,
}

impl<'a> TokenAnswer<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        json::from_slice(body).ok()
    }

    /// The token as a header, or `None` if there is none of at most 16 KiB that could be sent. The life counts from
    /// `asked`, by the local clock: `issued_at` would add the skew between two clocks.
    pub(super) fn into_token(self, asked: Instant, user: Option<String>) -> Option<Token> {
        let filled = |raw| json::optional_text(raw, MAX_TOKEN).filter(|text| !text.is_empty());
        let text = filled(self.token).or_else(|| filled(self.access_token))?;
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        header.set_sensitive(true);
        let seconds = json::optional::<f64>(self.expires_in).filter(|life| *life > 0.0);
        let life = seconds
            .unwrap_or(DEFAULT_LIFE_SECONDS)
            .min(MAX_LIFE_SECONDS);
        let renew_at = asked + Duration::from_secs_f64(life * USED_PART);
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
    fn a_challenge_adds_only_so_much() {
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
    fn a_union_says_everything_once() {
        let (pull, push) = (Scopes::pull("a"), Scopes::push("a"));
        assert_eq!(push.and_pull("a"), push);
        assert_eq!(pull.union(&push), push);
        assert_eq!(pull.union(&Scopes::default()), pull);
        assert!(push.cover(&pull) && !pull.cover(&push));
        assert!(!push.cover(&Scopes::pull("b")));
    }

    #[tokio::test(start_paused = true)]
    async fn lives_are_read_leniently() {
        let life = |text: &str| {
            let answer = TokenAnswer::read(text.as_bytes()).unwrap();
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
