//! The cache of the policy server's OCI callbacks, with its side effects.
//!
//! Only successes are kept, for a fixed time, by the raw text of the question; and ONE lock is held while an answer
//! is fetched, so that a slow registry stalls every caller, also those whose answer is cached.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// An answer, and whether it came from the cache.
pub(super) struct Cached<V> {
    pub value: V,
    pub hit: bool,
}

pub(super) struct SerialCache<V> {
    time_to_live: Duration,
    entries: Mutex<HashMap<String, (Instant, V)>>,
}

impl<V: Clone> SerialCache<V> {
    pub fn new(time_to_live: Duration) -> Self {
        Self {
            time_to_live,
            entries: Mutex::new(HashMap::new()),
        }
    }

    /// The cached value of `key`, or the result of `fetch`, which is kept when it is a success.
    pub async fn get_or_fetch<E>(
        &self,
        key: &str,
        fetch: impl Future<Output = Result<V, E>>,
    ) -> Result<Cached<V>, E> {
        let mut entries = self.entries.lock().await;
        if let Some((since, value)) = entries.get(key)
            && since.elapsed() < self.time_to_live
        {
            return Ok(Cached {
                value: value.clone(),
                hit: true,
            });
        }
        let value = fetch.await?;
        entries.insert(key.to_owned(), (Instant::now(), value.clone()));
        Ok(Cached { value, hit: false })
    }

    /// Drops everything, as a restart of the policy server does.
    pub async fn clear(&self) {
        self.entries.lock().await.clear();
    }
}
