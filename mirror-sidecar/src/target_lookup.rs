//! Looks up images in the targets of rewrites: existing mirrors and pull-through caches.
//!
//! The registry of the target is the source of truth: an image counts as present only for a short time after this process
//! has seen it there. Nothing is copied or written. A pull-through cache may need many seconds to get an image for the first
//! time, so a lookup continues after the response, up to [`LOOKUP_TIMEOUT`].
//!
//! A target is read with the login that Pods get for it: an image that only this service could see would not start anywhere.

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::{Digest, ImageRef, ImageStatus, Mode, Refusal, RewriteTarget};
use mirror_copy::{Credentials, Operation, Registries, Registry, RegistryError, TagOrDigest};
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::cluster::policies::Policies;
use crate::locations::{Locations, contract_digest, reference};
use crate::logging::Throttle;
use crate::lookup::ANSWER_WITHIN;
use crate::single_flight::{Limits, SingleFlight};

/// Longest time of a lookup in the background: the pull-through cache reads the manifest from its own upstream registry.
const LOOKUP_TIMEOUT: Duration = Duration::from_mins(1);

/// How long an image counts as present after it was seen. The host caches the response for another minute.
const SEEN_FOR: Duration = Duration::from_secs(30);

/// How long a lookup that found no image is not repeated.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// How long a manifest that was read is not read again under the same reference, while its digest stays.
const READ_FOR: Duration = Duration::from_hours(24);

/// Time after the failed attempt of a request in which a slow one counts as failing too.
const FAILED_WITHIN: Duration = Duration::from_secs(10);

/// Size of the caches, as for copies.
const MAX_IMAGES: u64 = 10_000;

/// Concurrent lookups. Each lasts up to a minute, and waits most of that time.
const LIMITS: Limits = Limits {
    total: 64,
    of_host: 32,
};

/// Concurrent requests for dry runs.
const MAX_PEEKS: usize = 16;

/// Shortest time between two log lines about failed lookups: every request of the policy may meet the same outage.
const OUTAGE_LOG_INTERVAL: Duration = Duration::from_secs(30);

/// The digest of an image that the target has, or the reason why it cannot be used.
pub(crate) type Found = Result<Digest<'static>, Refusal<'static>>;

/// Looks up images in the targets of rewrites. Clones share their caches.
#[derive(Clone)]
pub struct TargetLookup(Arc<Inner>);

/// The registries of targets.
#[derive(Clone, Debug)]
pub struct TargetRegistries {
    /// Of targets without a login.
    anonymous: Registries,
    /// By the location that the login is for.
    with_login: Vec<(RewriteTarget<'static>, Registries)>,
}

struct Inner {
    registries: TargetRegistries,
    locations: Arc<Locations>,
    policies: Policies,
    seen: Cache<ImageRef<'static>, Digest<'static>>,
    refused: Cache<ImageRef<'static>, Refusal<'static>>,
    /// The digest of the manifest that was read last under each reference.
    read: Cache<ImageRef<'static>, Digest<'static>>,
    running: SingleFlight<Digest<'static>>,
    peeks: Semaphore,
    outage: Throttle,
}

impl TargetRegistries {
    /// The registries of targets, of which these locations have a login. The locations do not overlap.
    pub fn new(
        anonymous: Registries,
        logins: impl IntoIterator<Item = (RewriteTarget<'static>, Credentials)>,
    ) -> Self {
        let logins = logins.into_iter();
        let with_login =
            logins.map(|(location, login)| (location, anonymous.with_credentials(login)));
        Self {
            with_login: with_login.collect(),
            anonymous,
        }
    }

    /// Returns all sets of registries.
    pub fn sets(&self) -> impl Iterator<Item = Registries> {
        let with_login = self.with_login.iter();
        std::iter::once(&self.anonymous)
            .chain(with_login.map(|(_, registries)| registries))
            .cloned()
    }

    fn of(&self, image: &ImageRef<'_>) -> &Registries {
        let mut with_login = self.with_login.iter();
        let found = with_login.find(|(location, _)| location.contains(image));
        found.map_or(&self.anonymous, |(_, registries)| registries)
    }
}

impl TargetLookup {
    /// Creates a lookup that reads from `registries`. It refuses images in the backups of `locations`, and while there are
    /// policies in force, images outside the targets of their rules.
    #[must_use]
    pub fn new(
        registries: TargetRegistries,
        locations: Arc<Locations>,
        policies: Policies,
    ) -> Self {
        let cache = || Cache::builder().max_capacity(MAX_IMAGES);
        Self(Arc::new(Inner {
            registries,
            locations,
            policies,
            seen: cache().time_to_live(SEEN_FOR).build(),
            refused: Cache::builder()
                .max_capacity(MAX_IMAGES)
                .time_to_live(REFUSED_FOR)
                .build(),
            read: cache().time_to_live(READ_FOR).build(),
            running: SingleFlight::new(LIMITS),
            peeks: Semaphore::new(MAX_PEEKS),
            outage: Throttle::new(OUTAGE_LOG_INTERVAL),
        }))
    }

    /// Returns the status of `image`, which a rewrite has put in place of an original, within [`ANSWER_WITHIN`].
    ///
    /// A dry run sends at most one `HEAD`, so that no pull-through cache gets an image for it, and starts no lookup.
    ///
    /// # Errors
    /// [`Refusal`] if the image cannot be used, or its lookup has not ended yet.
    pub async fn image(
        &self,
        image: &ImageRef<'static>,
        mode: Mode,
    ) -> Result<ImageStatus<'static>, Refusal<'static>> {
        let digest = self.find(image, mode).await?;
        Ok(ImageStatus::Mirrored {
            image: image.clone(),
            digest,
            secret: None,
        })
    }

    /// Looks up `image`, and waits until that ends. Only the cache of present images counts. The caller limits the number of
    /// concurrent checks.
    ///
    /// # Errors
    /// [`Refusal`] if the image cannot be used.
    pub(crate) async fn check(&self, image: &ImageRef<'static>) -> Found {
        self.0.check_place(image)?;
        match self.0.seen.get(image).await {
            Some(digest) => Ok(digest),
            None => self.look_up(image, true).await,
        }
    }

    /// Looks up `image` by one `HEAD`, so that no pull-through cache gets an image, and waits for the response. The caller limits
    /// the number of concurrent calls.
    ///
    /// # Errors
    /// [`Refusal`] if the image cannot be used.
    pub(crate) async fn probe(&self, image: &ImageRef<'static>) -> Found {
        self.0.check_place(image)?;
        let found = timeout(LOOKUP_TIMEOUT, self.0.resolve(image)).await;
        let silent = || Refusal::unavailable(&format!("{} does not respond", image.host()));
        Ok(found.map_err(|_| silent())??.1)
    }

    async fn find(&self, image: &ImageRef<'static>, mode: Mode) -> Found {
        self.0.check_place(image)?;
        if let Some(digest) = self.0.seen.get(image).await {
            return Ok(digest);
        }
        if let Some(refusal) = self.0.refused.get(image).await {
            return Err(refusal);
        }
        let found = async {
            match mode {
                Mode::Ensure => self.look_up(image, false).await,
                Mode::Peek => self.peek(image).await,
            }
        };
        timeout(ANSWER_WITHIN, found)
            .await
            .unwrap_or_else(|_| Err(self.0.no_response_yet(image)))
    }

    /// Joins the running lookup of `image`, or starts one, which continues if nobody waits for it.
    async fn look_up(&self, image: &ImageRef<'static>, is_check: bool) -> Found {
        let inner = Arc::clone(&self.0);
        let lookup = {
            let image = image.clone();
            async move { inner.look_up(&image).await }
        };
        let has_priority = is_check || self.0.read.contains_key(image);
        match self.0.running.join_or_start(image, has_priority, lookup) {
            Some(result) => result.wait().await,
            // Not `unavailable`: a tenant who floods the lookups must not choose which setting of the policy applies.
            None => Err(Refusal::pending("too many images are looked up")),
        }
    }

    async fn peek(&self, image: &ImageRef<'static>) -> Found {
        if let Some(result) = self.0.running.join(image) {
            return result.wait().await;
        }
        let Ok(_permit) = self.0.peeks.try_acquire() else {
            return Err(self.0.no_response_yet(image));
        };
        let found = self.0.resolve(image).await.map(|(_, digest)| digest);
        self.0.record_refusal(image, &found).await;
        found
    }
}

impl Inner {
    /// Fails if nothing is looked up at the place of `image`. Without policies, a client may name any registry that the
    /// address policy allows, as for originals.
    fn check_place(&self, image: &ImageRef<'_>) -> Result<(), Refusal<'static>> {
        if self.locations.contains(image) {
            return Err(Refusal::failed(
                "the target of the rule is in a backup of mirror-sidecar; write a target outside of the backups",
            ));
        }
        if !self.policies.current().has_target_with(image) {
            return Err(Refusal::failed(
                "no policy of mirror-sidecar rewrites images to it",
            ));
        }
        Ok(())
    }

    /// Resolves the reference and reads the manifest, which makes a pull-through cache keep it.
    async fn look_up(&self, image: &ImageRef<'static>) -> Found {
        let found = timeout(LOOKUP_TIMEOUT, self.read(image)).await;
        let found = found.unwrap_or_else(|_| {
            let reason = format!("{} does not respond", image.host());
            self.report_outage(image, &reason);
            Err(Refusal::unavailable(&reason))
        });
        if let Ok(digest) = &found {
            self.seen.insert(image.clone(), digest.clone()).await;
            self.refused.invalidate(image).await;
        }
        self.record_refusal(image, &found).await;
        found
    }

    async fn read(&self, image: &ImageRef<'static>) -> Found {
        let (registry, digest) = self.resolve(image).await?;
        if self.read.get(image).await.as_ref() != Some(&digest) {
            let by_digest = TagOrDigest::parse(&digest.to_string());
            let manifest = registry.manifest(image.path(), &by_digest).await;
            manifest.map_err(|error| self.refusal(image, &registry, &error))?;
            self.read.insert(image.clone(), digest.clone()).await;
        }
        Ok(digest)
    }

    async fn resolve(
        &self,
        image: &ImageRef<'static>,
    ) -> Result<(Registry, Digest<'static>), Refusal<'static>> {
        let registry = self.registries.of(image).get(image.host());
        let registry = registry.map_err(|error| Refusal::failed(&error.to_string()))?;
        let resolved = registry.resolve(image.path(), &reference(image)).await;
        let resolved = resolved.map_err(|error| self.refusal(image, &registry, &error))?;
        let missing = || Refusal::failed(&format!("{} has no such image", image.host()));
        let digest = contract_digest(&resolved.ok_or_else(missing)?.digest);
        let digest = digest.filter(|digest| image.digest().is_none_or(|wanted| wanted == digest));
        let other_digest = || Refusal::failed(&format!("{} has another digest", image.host()));
        Ok((registry, digest.ok_or_else(other_digest)?))
    }

    /// Returns `pending` for a registry that is slow, and `unavailable` if the request is repeated after a failure.
    fn no_response_yet(&self, image: &ImageRef<'_>) -> Refusal<'static> {
        let host = image.host();
        let registry = self.registries.of(image).get(host).ok();
        let failure = registry
            .and_then(|registry| registry.last_failure(Operation::ReadManifest, FAILED_WITHIN));
        if failure.is_some() {
            Refusal::unavailable(&format!("requests to {host} fail"))
        } else {
            let reason = format!("{host} has not responded yet");
            Refusal::pending(&reason)
        }
    }

    async fn record_refusal(&self, image: &ImageRef<'static>, found: &Found) {
        if let Err(refusal) = found {
            self.seen.invalidate(image).await;
            self.refused.insert(image.clone(), refusal.clone()).await;
        }
    }

    fn refusal(
        &self,
        image: &ImageRef<'_>,
        registry: &Registry,
        error: &RegistryError,
    ) -> Refusal<'static> {
        let host = image.host();
        if error.status() == Some(404) {
            return Refusal::failed(&format!("{host} has no such image"));
        }
        // The operator has named the targets of policies.
        let reason = if self.policies.current().is_empty() {
            registry.public_text(error)
        } else {
            error.public_text(host)
        };
        self.report_outage(image, &error.to_string());
        // Whatever the error is: the kind must not show whether an address was refused or does not respond.
        Refusal::unavailable(&reason)
    }

    fn report_outage(&self, image: &ImageRef<'_>, error: &str) {
        if let Some(times) = self.outage.count() {
            tracing::warn!(
                %image,
                error,
                times,
                "cannot look up images in the target of a rewrite; check that the registry responds, and that it needs no login other than that of --config"
            );
        }
    }
}
