//! The cached tokens of one registry, and the scopes that are requested together.

use super::token::{Scopes, Token};
use reqwest::header::HeaderValue;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// Maximum number of tokens per host, and their maximum size in bytes. The oldest are dropped first. Usual ones have 1 to 3
/// KiB.
const MAX_TOKENS: usize = 32;
const MAX_BYTES: usize = 128 * 1024;

/// Maximum number of announced scopes per host: more would make the URL too long for some token services.
const MAX_ANNOUNCED: usize = 32;

/// Maximum number of known fetches in progress per host. Above it all are forgotten, and some are made twice.
const MAX_FETCHES: usize = 128;

/// Locked while a token is fetched, so that it is fetched once for all waiting requests.
pub(super) type Fetch = Arc<AsyncMutex<()>>;

#[derive(Default)]
pub(super) struct TokenCache {
    /// The oldest first.
    tokens: VecDeque<Cached>,
    /// Scopes that will be needed soon.
    announced: VecDeque<Scopes>,
    /// By joined scopes.
    fetches: HashMap<String, Fetch>,
    /// The token service or the registry refuses tokens for several callers.
    no_batches: bool,
}

struct Cached {
    scopes: Scopes,
    token: Token,
}

/// Scopes that are requested together.
pub(super) struct Batch {
    pub(super) scopes: Scopes,
    /// The scopes include those of other callers.
    pub(super) batched: bool,
}

impl TokenCache {
    /// Returns the newest valid token that grants these scopes. The `refused` one is dropped; if it was for a batch, that is
    /// assumed to be the reason.
    pub(super) fn find(&mut self, wanted: &Scopes, refused: Option<&HeaderValue>) -> Option<Token> {
        let now = Instant::now();
        let is_refused = |cached: &Cached| Some(&cached.token.header) == refused;
        if self
            .tokens
            .iter()
            .any(|cached| cached.token.batched && is_refused(cached))
        {
            self.stop_batching();
        }
        self.tokens
            .retain(|cached| cached.token.renew_at > now && !is_refused(cached));
        let found = self
            .tokens
            .iter()
            .rev()
            .find(|cached| cached.scopes.cover(wanted));
        found.map(|cached| cached.token.clone())
    }

    /// Announces scopes that are requested along with the next ones.
    pub(super) fn announce(&mut self, scopes: Scopes) {
        if self.no_batches || self.find(&scopes, None).is_some() || self.announced.contains(&scopes)
        {
            return;
        }
        if self.announced.len() >= MAX_ANNOUNCED {
            self.announced.pop_front();
        }
        self.announced.push_back(scopes);
    }

    /// Returns the lock to hold while a token for these scopes is fetched.
    pub(super) fn fetch(&mut self, wanted: &Scopes) -> Fetch {
        if self.fetches.len() >= MAX_FETCHES {
            self.fetches.clear();
        }
        Arc::clone(self.fetches.entry(wanted.joined()).or_default())
    }

    /// Returns these scopes and all announced ones. Requests for the latter wait for this fetch.
    pub(super) fn batch(&mut self, wanted: &Scopes, fetch: &Fetch) -> Batch {
        let mut scopes = wanted.clone();
        for announced in self.announced.drain(..) {
            let key = announced.joined();
            scopes = scopes.union(&announced);
            self.fetches.entry(key).or_insert_with(|| Arc::clone(fetch));
        }
        let batched = !wanted.cover(&scopes);
        Batch { scopes, batched }
    }

    /// Caches a token and ends its fetch.
    pub(super) fn insert(&mut self, scopes: Scopes, token: Token, fetch: &Fetch) {
        let size = |cached: &Cached| cached.token.header.len();
        let mut bytes: usize = self.tokens.iter().map(size).sum::<usize>() + token.header.len();
        while (self.tokens.len() >= MAX_TOKENS || bytes > MAX_BYTES)
            && let Some(oldest) = self.tokens.pop_front()
        {
            bytes -= size(&oldest);
        }
        self.tokens.push_back(Cached { scopes, token });
        self.fetches.retain(|_, other| !Arc::ptr_eq(other, fetch));
    }

    /// From now on each caller requests its own scopes only.
    pub(super) fn stop_batching(&mut self) {
        self.no_batches = true;
        self.announced.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn token(name: &'static str, seconds: u64) -> Token {
        Token {
            header: HeaderValue::from_static(name),
            renew_at: Instant::now() + Duration::from_secs(seconds),
            user: None,
            batched: false,
        }
    }

    fn add(cache: &mut TokenCache, wanted: &Scopes, name: &'static str) -> Batch {
        let fetch = cache.fetch(wanted);
        let batch = cache.batch(wanted, &fetch);
        let mut token = token(name, 60);
        token.batched = batch.batched;
        cache.insert(batch.scopes.clone(), token, &fetch);
        batch
    }

    fn found(cache: &mut TokenCache, wanted: &Scopes) -> Option<HeaderValue> {
        cache.find(wanted, None).map(|token| token.header)
    }

    #[tokio::test]
    async fn many_and_large_tokens_displace_the_oldest() {
        for (size, kept) in [(10, MAX_TOKENS), (16 * 1024, MAX_BYTES / (16 * 1024))] {
            let mut cache = TokenCache::default();
            for number in 0..100 {
                let scopes = Scopes::pull(&format!("r{number}"));
                let fetch = cache.fetch(&scopes);
                let mut token = token("t", 100);
                token.header = HeaderValue::try_from("x".repeat(size)).unwrap();
                cache.insert(scopes, token, &fetch);
                assert!(cache.tokens.len() <= kept);
            }
            assert_eq!(cache.tokens.len(), kept);
            assert!(cache.find(&Scopes::pull("r99"), None).is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_used_for_all_that_it_grants_until_it_expires() {
        let mut cache = TokenCache::default();
        assert!(!add(&mut cache, &Scopes::push("a"), "t").batched);
        assert!(found(&mut cache, &Scopes::pull("a")).is_some());
        assert!(found(&mut cache, &Scopes::default()).is_some());
        assert!(found(&mut cache, &Scopes::pull("b")).is_none());
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(found(&mut cache, &Scopes::pull("a")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn announced_scopes_are_requested_along_and_once() {
        let mut cache = TokenCache::default();
        cache.announce(Scopes::pull("a"));
        cache.announce(Scopes::push("b"));
        let batch = add(&mut cache, &Scopes::push("a"), "t");
        assert_eq!(
            batch.scopes.joined(),
            "repository:a:pull,push repository:b:pull,push"
        );
        assert!(batch.batched);
        assert!(found(&mut cache, &Scopes::push("b")).is_some());
        cache.announce(Scopes::pull("b"));
        assert!(
            !add(&mut cache, &Scopes::pull("c"), "u").batched,
            "b is served already"
        );
        assert!(cache.fetches.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn announced_scopes_wait_for_the_fetch_of_the_batch() {
        let mut cache = TokenCache::default();
        cache.announce(Scopes::pull("b"));
        let fetch = cache.fetch(&Scopes::pull("a"));
        cache.batch(&Scopes::pull("a"), &fetch);
        assert!(Arc::ptr_eq(&fetch, &cache.fetch(&Scopes::pull("b"))));
        assert!(!Arc::ptr_eq(&fetch, &cache.fetch(&Scopes::pull("c"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_batch_ends_batching() {
        let mut cache = TokenCache::default();
        add(&mut cache, &Scopes::pull("a"), "t");
        cache.find(&Scopes::pull("a"), Some(&HeaderValue::from_static("t")));
        assert!(found(&mut cache, &Scopes::pull("a")).is_none());
        cache.announce(Scopes::pull("b"));
        assert!(
            add(&mut cache, &Scopes::pull("a"), "u").batched,
            "that token was refused for another reason"
        );
        cache.find(&Scopes::pull("b"), Some(&HeaderValue::from_static("u")));
        cache.announce(Scopes::pull("c"));
        assert!(!add(&mut cache, &Scopes::pull("a"), "v").batched);
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_bounded() {
        let mut cache = TokenCache::default();
        for number in 0..2 * MAX_FETCHES {
            cache.announce(Scopes::pull(&number.to_string()));
            cache.fetch(&Scopes::pull(&number.to_string()));
        }
        assert_eq!(cache.announced.len(), MAX_ANNOUNCED);
        assert!(cache.fetches.len() <= MAX_FETCHES);
        for number in 0..=MAX_TOKENS {
            add(&mut cache, &Scopes::push(&number.to_string()), "t");
        }
        assert_eq!(cache.tokens.len(), MAX_TOKENS);
    }
}
