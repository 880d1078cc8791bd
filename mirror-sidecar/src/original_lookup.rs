//! Looks up originals by digest while the backup is unavailable, so that new Pods can use them instead of their copies.
//!
//! The registry of the original is the source of truth. Every response comes within [`ANSWER_WITHIN`]; a lookup that takes
//! longer continues, and the next request gets its result. Nothing is copied or written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_contract::{ImageRef, ImageStatus, Mode, Refusal, RefusalKind};
use moka::future::Cache;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::backup_health::BackupHealth;
use crate::locations::{Locations, contract_digest};
use crate::logging::Throttle;
use crate::lookup::{ANSWER_WITHIN, Lookup};

/// Longest time of a lookup in the background.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a result is used. The host caches a success for another minute.
const KNOWN_FOR: Duration = Duration::from_secs(15);

/// Size of the cache, as for copies.
const MAX_KNOWN: u64 = 10_000;

/// Concurrent lookups, in all registries and in one of them. A registry that does not respond must not hold up the others.
const MAX_LOOKUPS: usize = 32;
const MAX_LOOKUPS_OF_HOST: usize = 8;

/// Shortest time between two log lines about originals in use.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// An error if the original cannot be used.
type Found = Result<(), Refusal<'static>>;

/// Looks up originals. Clones share their cache and limits.
#[derive(Clone)]
pub struct OriginalLookup(Arc<Inner>);

struct Inner {
    locations: Arc<Locations>,
    health: BackupHealth,
    shared: Arc<Shared>,
}

/// Whether an original can be used does not depend on the backup.
struct Shared {
    known: Cache<ImageRef<'static>, Found>,
    running: Mutex<HashMap<ImageRef<'static>, watch::Receiver<Option<Found>>>>,
    used: Throttle,
}

impl OriginalLookup {
    /// Creates a lookup of the originals of the copies that `lookup` finds.
    #[must_use]
    pub fn new(lookup: &Lookup) -> Self {
        let shared = Shared {
            known: Cache::builder()
                .max_capacity(MAX_KNOWN)
                .time_to_live(KNOWN_FOR)
                .build(),
            running: Mutex::default(),
            used: Throttle::new(LOG_INTERVAL),
        };
        Self::sharing(lookup, Arc::new(shared))
    }

    /// Creates a lookup of the originals of the copies in another backup, with the same cache and limits.
    #[must_use]
    pub fn of_other_backup(&self, lookup: &Lookup) -> Self {
        Self::sharing(lookup, Arc::clone(&self.0.shared))
    }

    fn sharing(lookup: &Lookup, shared: Arc<Shared>) -> Self {
        Self(Arc::new(Inner {
            locations: Arc::clone(lookup.locations()),
            health: lookup.health().clone(),
            shared,
        }))
    }

    /// Returns whether originals are looked up now: the backup is unavailable.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.0.health.is_unavailable()
    }

    /// Returns [`ImageStatus::Original`] if the backup is unavailable and the registry of `image` has it with its digest.
    ///
    /// # Errors
    /// [`Refusal`] if the copy must be used, or the lookup has not ended yet.
    pub async fn image(
        &self,
        image: &ImageRef<'static>,
        mode: Mode,
    ) -> Result<ImageStatus<'static>, Refusal<'static>> {
        let Some(digest) = image.digest() else {
            return Err(failed("an original needs a digest"));
        };
        if !self.is_needed() {
            return Err(failed("the backup registry responds"));
        }
        if self.0.locations.contains(image) {
            return Err(failed("it is a copy itself"));
        }
        let found = match self.0.shared.known.get(image).await {
            Some(found) => found,
            None => self.look_up(image).await,
        };
        found?;
        // A dry run creates no Pod.
        if mode == Mode::Ensure
            && let Some(times) = self.0.shared.used.count()
        {
            tracing::warn!(
                %image,
                times,
                "original used in a new pod, because the backup registry is unavailable; check the backup registry"
            );
        }
        Ok(ImageStatus::Original {
            digest: digest.clone(),
        })
    }

    /// Joins the running lookup of `image`, or starts one.
    async fn look_up(&self, image: &ImageRef<'static>) -> Found {
        let Some(mut running) = self.join_or_start(image) else {
            return Err(pending("too many originals are looked up"));
        };
        let found = timeout(ANSWER_WITHIN, running.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(found)) => found.clone().unwrap_or_else(|| Err(aborted())),
            Ok(Err(_)) => Err(aborted()),
            Err(_) => Err(pending(&format!("{} has not responded yet", image.host()))),
        }
    }

    fn join_or_start(&self, image: &ImageRef<'static>) -> Option<watch::Receiver<Option<Found>>> {
        let mut running = self.0.running();
        // The channel of one that was aborted is closed.
        if let Some(found) = running.get(image)
            && found.has_changed().is_ok()
        {
            return Some(found.clone());
        }
        let is_of_host = |other: &&ImageRef<'_>| other.host() == image.host();
        if running.len() >= MAX_LOOKUPS
            || running.keys().filter(is_of_host).count() >= MAX_LOOKUPS_OF_HOST
        {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(image.clone(), receiver.clone());
        let (inner, image) = (Arc::clone(&self.0), image.clone());
        tokio::spawn(async move {
            let found = inner.find(&image).await;
            inner
                .shared
                .known
                .insert(image.clone(), found.clone())
                .await;
            inner.running().remove(&image);
            sender.send_replace(Some(found));
        });
        Some(receiver)
    }
}

impl Inner {
    async fn find(&self, image: &ImageRef<'static>) -> Found {
        let host = image.host();
        let source = self.locations.source(image);
        let source = source.map_err(|error| failed(&error.to_string()))?;
        let resolved = source
            .registry
            .resolve(&source.repository, &source.reference);
        match timeout(LOOKUP_TIMEOUT, resolved).await {
            Err(_) => Err(unavailable(&format!("{host} does not respond"))),
            Ok(Err(error)) => {
                tracing::debug!(%image, %error, "cannot look up original");
                Err(unavailable(&source.registry.public_text(&error)))
            }
            Ok(Ok(None)) => Err(failed(&format!("{host} has no such image"))),
            Ok(Ok(Some(found))) => {
                if contract_digest(&found.digest).as_ref() == image.digest() {
                    Ok(())
                } else {
                    Err(failed(&format!("{host} has another digest")))
                }
            }
        }
    }

    fn running(
        &self,
    ) -> MutexGuard<'_, HashMap<ImageRef<'static>, watch::Receiver<Option<Found>>>> {
        let running = &self.shared.running;
        running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn aborted() -> Refusal<'static> {
    unavailable("the lookup of the original was aborted")
}

fn pending(reason: &str) -> Refusal<'static> {
    Refusal::new(RefusalKind::Pending, reason)
}

fn failed(reason: &str) -> Refusal<'static> {
    Refusal::new(RefusalKind::Failed, reason)
}

fn unavailable(reason: &str) -> Refusal<'static> {
    Refusal::new(RefusalKind::Unavailable, reason)
}
