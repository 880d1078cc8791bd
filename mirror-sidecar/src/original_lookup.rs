//! Looks up originals by digest while a backup is unavailable, so that new Pods can use them instead of their copies.
//!
//! The registry of the original is the source of truth. Every response comes within [`ANSWER_WITHIN`]; a lookup that takes
//! longer continues, or waits for room in the background, and the next request gets its result. Nothing is copied or written.
//!
//! - [`turns`]: which lookup is next, and how many there may be;
//! - [`room`]: wakes the lookups that wait.

mod room;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_contract::{ImageRef, ImageStatus, Mode, Refusal, RefusalKind};
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::backup_health::BackupHealth;
use crate::backups::ByBackup;
use crate::cluster::CopyStatuses;
use crate::copy_queue::{Class, Source, Sources};
use crate::locations::{Locations, contract_digest};
use crate::logging::Throttle;
use crate::lookup::{ANSWER_WITHIN, Lookup};
use crate::single_flight::{Limits, SingleFlight};
use room::{Place, Room};
use turns::{MAX_RUNNING, MAX_WAITING, Request};

/// Longest time of a lookup in the background, once there is room for it.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A registry that needs longer is looked up behind others until it responds in time.
const SLOW_AFTER: Duration = Duration::from_secs(5);

/// How long a result is used. The host caches a success for another minute.
const KNOWN_FOR: Duration = Duration::from_secs(15);

/// Size of the cache, as for copies.
const MAX_KNOWN: u64 = 10_000;

/// No limits beside those of [`turns`].
const LIMITS: Limits = Limits {
    total: MAX_RUNNING + MAX_WAITING + 1,
    of_host: MAX_RUNNING + MAX_WAITING + 1,
};

/// Concurrent requests for dry runs.
const MAX_PEEKS: usize = 16;

/// Shortest time between two log lines about originals.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// An error if the original cannot be used.
type Found = Result<(), Refusal<'static>>;

/// Looks up originals. Clones share their cache and limits.
#[derive(Clone)]
pub struct OriginalLookup(Arc<Inner>);

struct Inner {
    /// Of the default backup: all backups read originals alike.
    locations: Arc<Locations>,
    backups: ByBackup<Lookup>,
    /// Of all backups; empty without a cluster.
    in_use: Vec<CopyStatuses>,
    /// Which registries respond to lookups.
    sources: Mutex<Sources>,
    room: Room,
    known: Cache<ImageRef<'static>, Found>,
    running: SingleFlight<()>,
    peeks: Semaphore,
    responses: Throttle,
}

impl OriginalLookup {
    /// Creates a lookup of the originals of copies in these backups. Those that are `in_use` come first.
    #[must_use]
    pub fn new(backups: &ByBackup<Lookup>, in_use: Vec<CopyStatuses>) -> Self {
        Self(Arc::new(Inner {
            locations: Arc::clone(backups.of_default().locations()),
            backups: backups.clone(),
            in_use,
            sources: Mutex::default(),
            room: Room::default(),
            known: Cache::builder()
                .max_capacity(MAX_KNOWN)
                .time_to_live(KNOWN_FOR)
                .build(),
            running: SingleFlight::new(LIMITS),
            peeks: Semaphore::new(MAX_PEEKS),
            responses: Throttle::new(LOG_INTERVAL),
        }))
    }

    /// Returns [`ImageStatus::Original`] if the registry of `image` has it with its digest, and some backup is unavailable. A
    /// request does not name the backup with the copy: while workloads move, that is not the one of their rule. The policy sends
    /// it only after a response that the backup with the copy is unavailable.
    ///
    /// A dry run sends at most one request, and starts no lookup.
    ///
    /// # Errors
    /// [`Refusal`] if the copy must be used, or the lookup has not ended yet.
    pub async fn image(
        &self,
        image: &ImageRef<'static>,
        mode: Mode,
    ) -> Result<ImageStatus<'static>, Refusal<'static>> {
        let Some(digest) = image.digest() else {
            return Err(Refusal::failed("an original needs a digest"));
        };
        let mut health = self.0.backups.values().map(Lookup::health);
        if !health.any(BackupHealth::is_unavailable) {
            return Err(Refusal::failed("the backup registry responds"));
        }
        if self.0.locations.contains(image) {
            return Err(Refusal::failed("it is a copy itself"));
        }
        let found = match self.0.known.get(image).await {
            Some(found) => found,
            None => self.find(image, mode).await,
        };
        found?;
        if mode == Mode::Ensure
            && let Some(times) = self.0.responses.count()
        {
            tracing::warn!(
                %image,
                times,
                "responded that new pods may use an original, because a backup registry is unavailable; check the backup registry"
            );
        }
        Ok(ImageStatus::Original {
            digest: digest.clone(),
        })
    }

    async fn find(&self, image: &ImageRef<'static>, mode: Mode) -> Found {
        let found = async {
            match mode {
                Mode::Ensure => self.look_up(image).await,
                Mode::Peek => self.peek(image).await,
            }
        };
        timeout(ANSWER_WITHIN, found)
            .await
            .unwrap_or_else(|_| Err(no_response_yet(image)))
    }

    /// Joins the lookup of `image` that waits or runs, or starts one.
    async fn look_up(&self, image: &ImageRef<'static>) -> Found {
        if let Some(result) = self.0.running.join(image) {
            return result.wait().await;
        }
        let Some(place) = self.0.room.enter(self.0.request(image)) else {
            return Err(too_many());
        };
        let lookup = {
            let (inner, image) = (Arc::clone(&self.0), image.clone());
            async move { inner.resolve_in(place, &image).await }
        };
        match self.0.running.join_or_start(image, true, lookup) {
            Some(result) => result.wait().await,
            None => Err(too_many()),
        }
    }

    async fn peek(&self, image: &ImageRef<'static>) -> Found {
        if let Some(result) = self.0.running.join(image) {
            return result.wait().await;
        }
        let Ok(_permit) = self.0.peeks.try_acquire() else {
            return Err(no_response_yet(image));
        };
        self.0.resolve(image).await
    }
}

impl Inner {
    fn request(&self, image: &ImageRef<'static>) -> Request {
        let source = Source::of_any_backup(image);
        let class = {
            let sources = self.sources.lock();
            let sources = sources.unwrap_or_else(PoisonError::into_inner);
            sources.class(&source, Instant::now())
        };
        let mut backups = self.backups.values();
        let class = match class {
            Class::Untried if backups.any(|lookup| lookup.has_proven_source(image)) => {
                Class::Proven
            }
            class => class,
        };
        Request {
            domain: source.domain_name(),
            class,
            is_in_use: self.in_use.iter().any(|images| images.contain(image)),
        }
    }

    /// Waits for room, then looks up `image` and records whether its registry responds.
    async fn resolve_in(&self, mut place: Place, image: &ImageRef<'static>) -> Found {
        if !place.wait().await {
            return Err(too_many());
        }
        let start = Instant::now();
        let found = self.resolve(image).await;
        let now = Instant::now();
        let source = Source::of_any_backup(image);
        let has_failed = matches!(&found, Err(refusal) if refusal.kind == RefusalKind::Unavailable);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(start) >= SLOW_AFTER {
            sources.strike(&source, now);
        } else if !has_failed {
            sources.delivered(&source, now);
        }
        found
    }

    async fn resolve(&self, image: &ImageRef<'static>) -> Found {
        let found = timeout(LOOKUP_TIMEOUT, self.resolve_digest(image)).await;
        let found = found.unwrap_or_else(|_| {
            let reason = format!("{} does not respond", image.host());
            Err(Refusal::unavailable(&reason))
        });
        self.known.insert(image.clone(), found.clone()).await;
        found
    }

    async fn resolve_digest(&self, image: &ImageRef<'static>) -> Found {
        let host = image.host();
        let source = self.locations.source(image);
        let source = source.map_err(|error| Refusal::failed(&error.to_string()))?;
        let resolved = source
            .registry
            .resolve(&source.repository, &source.reference);
        let resolved = resolved.await.map_err(|error| {
            tracing::debug!(%image, %error, "cannot look up original");
            Refusal::unavailable(&source.registry.public_text(&error))
        })?;
        let missing = || Refusal::failed(&format!("{host} has no such image"));
        if contract_digest(&resolved.ok_or_else(missing)?.digest).as_ref() == image.digest() {
            Ok(())
        } else {
            Err(Refusal::failed(&format!("{host} has another digest")))
        }
    }
}

fn too_many() -> Refusal<'static> {
    Refusal::pending("too many originals are looked up")
}

fn no_response_yet(image: &ImageRef<'_>) -> Refusal<'static> {
    Refusal::pending(&format!("{} has not responded yet", image.host()))
}
