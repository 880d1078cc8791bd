//! One registry host: its connections, tokens, back-pressure, and what was learned about it.

mod api;
mod auth;
mod auth_schemes;
mod blob_locations;
mod blob_reader;
mod blobs;
mod capabilities;
mod catalog;
mod challenge;
mod check_state;
mod chunked;
mod completeness;
mod destinations;
mod digest_tags;
pub(crate) mod host_limits;
mod host_pause;
mod image_contents;
mod last_failure;
mod manifests;
mod pages;
mod rate_limit;
mod read_back;
mod referrer_list;
mod referrers;
mod repository;
mod request;
mod response;
mod streaming_upload;
mod tags;
mod token;
mod token_cache;
mod token_service;
mod transfer_permits;
mod uploads;

#[cfg(any(fuzzing, test))]
#[path = "../fuzz/src/registry.rs"]
pub(crate) mod fuzzing;
#[cfg(test)]
mod testing;

pub use blob_reader::BlobReader;
pub(crate) use blob_reader::{Content, Flow, content};
pub(crate) use capabilities::SelfMount;
pub use completeness::{Completeness, PartsQuery};
pub use image_contents::ImageContents;
pub use last_failure::LastFailure;
pub(crate) use manifests::{Located, Pushed};
pub use manifests::{Manifest, Resolved};
pub use rate_limit::RateLimit;
pub(crate) use read_back::visibility_pauses;
pub(crate) use referrer_list::{Referrer, ReferrerList};
pub(crate) use repository::{Access, Repository};
pub(crate) use request::retrying;
pub(crate) use transfer_permits::TransferPermit;
pub(crate) use uploads::{MountResponse, Session};

use crate::address_policy::Allowance;
use crate::credentials::HostLogins;
use crate::error::{Operation, Remedy};
use crate::registries::clients::Pool;
use crate::registries::common::{Common, Counters, Traffic};
use crate::registries::host::Endpoint;
use crate::registries::metadata_budget::Reservation;
use crate::registries::options::{RetryPolicy, Timeouts};
use auth_schemes::AuthSchemes;
use blob_locations::BlobLocations;
use capabilities::{Capabilities, LearnedSelfMount};
use check_state::CheckState;
use host_limits::HostLimits;
use last_failure::LastFailures;
use rate_limit::Quota;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use token_cache::TokenCache;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// One registry host. Cheap to clone; clones share connections, tokens, limits and the request counter.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    /// Number of HTTP requests of this handle and its clones.
    sent: Arc<AtomicU64>,
}

struct Shared {
    endpoint: Endpoint,
    /// The addresses that the host of the registry may have.
    allowance: Allowance,
    common: Arc<Common>,
    peers: Peers,
    auth: Auth,
    limits: Arc<HostLimits>,
    quota: Quota,
    blob_locations: BlobLocations,
    self_mount: LearnedSelfMount,
    /// The host may support HTTP/2, as far as is known.
    multiplexes: AtomicBool,
    /// The host refused a TLS connection for HTTP/1.1, so that blobs use HTTP/2 as well.
    refuses_http1: AtomicBool,
    capabilities: Capabilities,
    last_failures: LastFailures,
    counters: Counters,
    checks: CheckState,
    /// A wrong digest of this host was logged.
    reported_wrong_digest: AtomicBool,
}

/// The kinds of addresses that responded on behalf of a registry.
#[derive(Default)]
struct Peers {
    own_public: AtomicBool,
    own_private: AtomicBool,
    other_private: AtomicBool,
    /// The group of the address of the registry itself that responded last.
    address: Mutex<Option<IpAddr>>,
}

/// Authentication state of a registry.
#[derive(Default)]
struct Auth {
    schemes: Mutex<AuthSchemes>,
    tokens: Mutex<TokenCache>,
    /// The logins, and the time when they were read.
    logins: AsyncMutex<Option<(Instant, HostLogins)>>,
}

impl Registry {
    pub(crate) fn new(endpoint: Endpoint, allowance: Allowance, common: Arc<Common>) -> Self {
        let limits = common.limits_of(&endpoint.name);
        let shared = Shared {
            multiplexes: AtomicBool::new(!endpoint.insecure),
            refuses_http1: AtomicBool::new(false),
            endpoint,
            allowance,
            common,
            peers: Peers::default(),
            auth: Auth::default(),
            limits,
            quota: Quota::default(),
            blob_locations: BlobLocations::default(),
            self_mount: LearnedSelfMount::default(),
            capabilities: Capabilities::default(),
            last_failures: LastFailures::default(),
            counters: Counters::default(),
            checks: CheckState::default(),
            reported_wrong_digest: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
            sent: Arc::default(),
        }
    }

    /// Returns the host, as in image references: `ghcr.io`, `registry.local:5000`, `docker.io`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.shared.endpoint.name
    }

    /// Returns the transient failure of the last attempt at this operation, [`Operation::Ping`] or
    /// [`Operation::ReadManifest`], if it is not older than `within`. Such requests are retried; a caller that stopped
    /// waiting for one learns the cause here.
    #[must_use]
    pub fn last_failure(
        &self,
        operation: Operation,
        within: std::time::Duration,
    ) -> Option<LastFailure> {
        self.shared.last_failures.get(operation, within)
    }

    /// Returns the number of HTTP requests of this handle and its clones so far, including those to token services and
    /// redirect targets.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the traffic to this host so far, of all handles. It restarts at 0 if the [`Registries`](crate::Registries)
    /// dropped the host, which happens only without any handle.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.read()
    }

    fn count_request(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.shared.counters.request();
        self.shared.common.counters.request();
    }

    /// Delays requests of the kind of this operation for at least that long.
    fn pause(&self, operation: Operation, pause: std::time::Duration) {
        if self.shared.limits.pauses.pause(operation, pause) {
            self.shared.counters.pause();
            self.shared.common.counters.pause();
        }
    }

    /// Returns a handle with a request counter of its own.
    pub(crate) fn counting_from_zero(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            sent: Arc::default(),
        }
    }

    pub(crate) fn same_host(&self, other: &Self) -> bool {
        self.host() == other.host()
    }

    #[cfg(test)]
    pub(crate) fn shares_limits_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared.limits, &other.shared.limits)
    }

    pub(crate) fn is_used_elsewhere(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.shared.common.options.timeouts
    }

    pub(crate) fn retry_policy(&self) -> &RetryPolicy {
        &self.shared.common.options.retry
    }

    /// Returns memory for one request that belongs to no copy.
    fn reservation(&self) -> Arc<Reservation> {
        let budget = &self.shared.common.options.metadata_budget;
        budget.for_request(&self.shared.limits.large_body)
    }

    /// Returns memory for one copy.
    pub(crate) fn reservation_of_copy(&self) -> Arc<Reservation> {
        self.shared.common.options.metadata_budget.for_copy()
    }

    /// Words a remedy at the end of an error text.
    pub(crate) fn advice(&self, remedy: &Remedy<'_>) -> String {
        (self.shared.common.options.advice)(remedy)
    }

    pub(crate) fn self_mount(&self) -> &LearnedSelfMount {
        &self.shared.self_mount
    }

    /// Waits until `target` may be probed for a blob of `source`.
    pub(crate) async fn probe_permit<'a>(source: &'a Self, target: &'a Self) -> impl Sized + 'a {
        target
            .shared
            .limits
            .transfers
            .writing
            .acquire(source.host())
            .await
    }

    /// Waits until a blob of `size` bytes may be copied between two registries.
    pub(crate) async fn transfer_permit<'a>(
        source: &'a Self,
        target: &'a Self,
        size: u64,
    ) -> TransferPermit<'a> {
        let host = source.host();
        let memory = target.shared.common.memory.take(host, size).await;
        let (reading, writing) = (
            &source.shared.limits.transfers,
            &target.shared.limits.transfers,
        );
        TransferPermit::acquire(memory, &reading.reading, &writing.writing, host).await
    }

    /// Waits until a blob of `size` bytes may be read without being sent anywhere.
    pub(crate) async fn read_permit(&self, size: u64) -> impl Sized + '_ {
        let host = self.host();
        let memory = self.shared.common.memory.take(host, size).await;
        (
            memory,
            self.shared.limits.transfers.reading.acquire(host).await,
        )
    }

    /// Returns whether a slow transfer from `source` must yield to blobs of other hosts that wait. It takes a lock, so it is
    /// not for every piece of a blob.
    pub(crate) fn must_yield(source: &Self, target: &Self) -> bool {
        target.shared.common.memory.must_yield(source.host())
    }

    fn reports_wrong_digests(&self) -> bool {
        self.shared.reported_wrong_digest.load(Ordering::Relaxed)
    }

    /// Returns whether a pool uses the connections for blobs. A host without HTTP/2 has one pool for everything, so that no
    /// connection is idle while another one is opened.
    fn has_one_pool(&self, pool: Pool) -> bool {
        let flag = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        !flag(&self.shared.refuses_http1) && (pool == Pool::Bulk || !flag(&self.shared.multiplexes))
    }

    /// Handles a TLS connection that was refused because only HTTP/1.1 was offered. The next attempt offers HTTP/2.
    fn learn_that_http1_is_refused(&self) {
        if !self.shared.refuses_http1.swap(true, Ordering::Relaxed) {
            tracing::info!(
                host = self.host(),
                "the registry supports only HTTP/2; sending blobs by HTTP/2"
            );
        }
    }

    fn learn_version(&self, pool: Pool, response: &reqwest::Response) {
        if pool == Pool::Small && response.version() < reqwest::Version::HTTP_2 {
            self.shared.multiplexes.store(false, Ordering::Relaxed);
        }
    }

    /// Returns whether this host requested a pause that is not over, in response to a request that reads. All requests wait
    /// for its end.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.shared.limits.pauses.is_paused(false)
    }

    /// Returns whether requests that write wait for the end of a pause.
    pub(crate) fn are_writes_paused(&self) -> bool {
        self.shared.limits.pauses.is_paused(true)
    }

    pub(crate) fn blob_locations(&self) -> &BlobLocations {
        &self.shared.blob_locations
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}
