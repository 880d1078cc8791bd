//! The tokens of one registry: which one serves a request, and which scopes are asked for together.

use super::token::{Scopes, Token};
use reqwest::header::HeaderValue;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// Tokens remembered per host, and bytes of them. The oldest go first: they are cheap. Usual ones have 1 to 3 KiB.
const MAX_TOKENS: usize = 32;
const MAX_BYTES: usize = 128 * 1024;

/// Announcements kept per host: more scopes would make the token service's address too long for some.
const MAX_ANNOUNCED: usize = 32;

/// Fetches under way that are known of per host. Over this all are forgotten: some are then made twice.
const MAX_FLIGHTS: usize = 128;

/// Locked while a token is fetched, so that it is fetched once however many wait for it.
pub(super) type Flight = Arc<AsyncMutex<()>>;

/// See the module's documentation. Holds no lock of its own and waits for nothing.
#[derive(Default)]
pub(super) struct TokenCache {
    /// The oldest first.
    tokens: VecDeque<Cached>,
    /// Scopes that will be wanted soon.
    announced: VecDeque<Scopes>,
    /// By joined scopes.
    flights: HashMap<String, Flight>,
    /// The token service or the registry was found to dislike tokens for several callers.
    alone: bool,
}

struct Cached {
    scopes: Scopes,
    token: Token,
}

/// Scopes to ask for in one request.
pub(super) struct Batch {
    pub(super) scopes: Scopes,
    /// Whether there are scopes of other callers among them.
    pub(super) batched: bool,
}

impl TokenCache {
    /// The newest fresh token that grants these scopes. The `refused` one is forgotten; if it was a
    /// batch's, that is what it was refused for, as far as can be known.
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

    /// Scopes that a caller is going to want, to be asked for along with the next ones. Forgotten when
    /// that was done.
    pub(super) fn announce(&mut self, scopes: Scopes) {
        if self.alone || self.find(&scopes, None).is_some() || self.announced.contains(&scopes) {
            return;
        }
        if self.announced.len() >= MAX_ANNOUNCED {
            self.announced.pop_front();
        }
        self.announced.push_back(scopes);
    }

    /// The lock to hold while a token for these scopes is fetched.
    pub(super) fn flight(&mut self, wanted: &Scopes) -> Flight {
        if self.flights.len() >= MAX_FLIGHTS {
            self.flights.clear();
        }
        Arc::clone(self.flights.entry(wanted.joined()).or_default())
    }

    /// What to ask for: these scopes and all announced ones. Whoever wants those waits for this flight.
    pub(super) fn batch(&mut self, wanted: &Scopes, flight: &Flight) -> Batch {
        let mut scopes = wanted.clone();
        for announced in self.announced.drain(..) {
            let key = announced.joined();
            scopes = scopes.union(&announced);
            self.flights
                .entry(key)
                .or_insert_with(|| Arc::clone(flight));
        }
        let batched = !wanted.cover(&scopes);
        Batch { scopes, batched }
    }

    /// Remembers a token and lets its waiters go.
    pub(super) fn insert(&mut self, scopes: Scopes, token: Token, flight: &Flight) {
        let size = |cached: &Cached| cached.token.header.len();
        let mut bytes: usize = self.tokens.iter().map(size).sum::<usize>() + token.header.len();
        while (self.tokens.len() >= MAX_TOKENS || bytes > MAX_BYTES)
            && let Some(oldest) = self.tokens.pop_front()
        {
            bytes -= size(&oldest);
        }
        self.tokens.push_back(Cached { scopes, token });
        self.flights.retain(|_, other| !Arc::ptr_eq(other, flight));
    }

    /// From now on everybody asks for what he needs himself.
    pub(super) fn stop_batching(&mut self) {
        self.alone = true;
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
        let flight = cache.flight(wanted);
        let batch = cache.batch(wanted, &flight);
        let mut token = token(name, 60);
        token.batched = batch.batched;
        cache.insert(batch.scopes.clone(), token, &flight);
        batch
    }

    fn found(cache: &mut TokenCache, wanted: &Scopes) -> Option<HeaderValue> {
        cache.find(wanted, None).map(|token| token.header)
    }

    #[tokio::test]
    async fn many_and_large_tokens_push_out_the_oldest() {
        for (size, kept) in [(10, MAX_TOKENS), (16 * 1024, MAX_BYTES / (16 * 1024))] {
            let mut cache = TokenCache::default();
            for number in 0..100 {
                let scopes = Scopes::pull(&format!("r{number}"));
                let flight = cache.flight(&scopes);
                let mut token = token("t", 100);
                token.header = HeaderValue::try_from("x".repeat(size)).unwrap();
                cache.insert(scopes, token, &flight);
                assert!(cache.tokens.len() <= kept);
            }
            assert_eq!(cache.tokens.len(), kept);
            assert!(cache.find(&Scopes::pull("r99"), None).is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_serves_whatever_it_grants_as_long_as_it_lives() {
        let mut cache = TokenCache::default();
        assert!(!add(&mut cache, &Scopes::push("a"), "t").batched);
        assert!(found(&mut cache, &Scopes::pull("a")).is_some());
        assert!(found(&mut cache, &Scopes::default()).is_some());
        assert!(found(&mut cache, &Scopes::pull("b")).is_none());
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(found(&mut cache, &Scopes::pull("a")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn announced_scopes_are_asked_for_along_and_once() {
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
        assert!(cache.flights.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_announced_waits_for_the_flight_of_the_batch() {
        let mut cache = TokenCache::default();
        cache.announce(Scopes::pull("b"));
        let flight = cache.flight(&Scopes::pull("a"));
        cache.batch(&Scopes::pull("a"), &flight);
        assert!(Arc::ptr_eq(&flight, &cache.flight(&Scopes::pull("b"))));
        assert!(!Arc::ptr_eq(&flight, &cache.flight(&Scopes::pull("c"))));
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
            "that token was nobody else's"
        );
        cache.find(&Scopes::pull("b"), Some(&HeaderValue::from_static("u")));
        cache.announce(Scopes::pull("c"));
        assert!(!add(&mut cache, &Scopes::pull("a"), "v").batched);
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_bounded() {
        let mut cache = TokenCache::default();
        for number in 0..2 * MAX_FLIGHTS {
            cache.announce(Scopes::pull(&number.to_string()));
            cache.flight(&Scopes::pull(&number.to_string()));
        }
        assert_eq!(cache.announced.len(), MAX_ANNOUNCED);
        assert!(cache.flights.len() <= MAX_FLIGHTS);
        for number in 0..=MAX_TOKENS {
            add(&mut cache, &Scopes::push(&number.to_string()), "t");
        }
        assert_eq!(cache.tokens.len(), MAX_TOKENS);
    }
}
