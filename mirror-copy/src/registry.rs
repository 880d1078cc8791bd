//! One registry host: its connections, tokens, back-pressure, and what is known about it.

mod aimd;
mod api;
mod auth;
mod auth_schemes;
mod auth_state;
mod blob_locations;
mod blob_reader;
mod blobs;
mod capabilities;
mod challenge;
mod check_state;
mod chunked;
mod chunker;
mod completeness;
mod content;
mod destinations;
mod digest_tag;
pub(crate) mod digest_tags;
mod host_pause;
mod last_failure;
mod manifests;
mod pages;
mod peers;
mod pool;
mod proof;
mod rate_limit;
mod read_back;
mod redirect;
mod referrer_list;
mod referrers;
mod repository;
mod request;
mod response;
mod self_mount;
mod streaming_upload;
mod tags;
mod token;
mod token_cache;
mod token_service;
mod transfer_limits;
mod transfer_permits;
mod uploads;

#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod testing;

pub use blob_reader::BlobReader;
pub use completeness::{Completeness, PartsQuery};
pub(crate) use content::{Content, Flow, content};
pub(crate) use digest_tags::{DigestTagLists, DigestTags};
pub use last_failure::LastFailure;
pub(crate) use manifests::{Located, Pushed};
pub use manifests::{Manifest, Resolved};
pub use rate_limit::RateLimit;
pub(crate) use read_back::visibility_pauses;
pub(crate) use referrer_list::{Referrer, ReferrerList};
pub(crate) use repository::{Access, Repository};
pub(crate) use request::retrying;
pub(crate) use self_mount::SelfMount;
pub(crate) use transfer_permits::TransferPermit;
pub(crate) use uploads::{MountAnswer, Session};

use crate::address_policy::Allowance;
use crate::error::Operation;
use crate::registries::common::Common;
use crate::registries::host::Endpoint;
use crate::registries::metadata_budget::Reservation;
use crate::registries::options::{RetryPolicy, Timeouts};
use crate::registries::traffic::{Counters, Traffic};
use auth_state::Auth;
use blob_locations::BlobLocations;
use capabilities::Capabilities;
use check_state::CheckState;
use host_pause::HostPauses;
use last_failure::LastFailures;
use peers::Peers;
use pool::Pool;
use rate_limit::Quota;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Semaphore;
use transfer_limits::TransferPermits;

/// One registry host. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    /// Counts the HTTP requests sent through this handle and its clones.
    sent: Arc<AtomicU64>,
}

struct Shared {
    endpoint: Endpoint,
    /// What the registry's own host may be.
    allowance: Allowance,
    common: Arc<Common>,
    peers: Peers,
    auth: Auth,
    gates: HostPauses,
    quota: Quota,
    seen: BlobLocations,
    places: TransferPermits,
    own_mount: self_mount::Learned,
    /// Whether the host may speak HTTP/2; only TLS can tell.
    multiplexes: AtomicBool,
    /// Whether the host refused a TLS connection for HTTP/1.1, so that blobs go by HTTP/2 as well.
    refuses_http1: AtomicBool,
    capabilities: Capabilities,
    last_failures: LastFailures,
    counters: Counters,
    checks: CheckState,
    /// Of the requests that belong to no copy, one at a time holds a large body.
    large_body: Arc<Semaphore>,
    /// Whether a wrong digest of this host was logged.
    reported_wrong_digest: AtomicBool,
}

impl Registry {
    pub(crate) fn new(endpoint: Endpoint, allowance: Allowance, common: Arc<Common>) -> Self {
        let shared = Shared {
            multiplexes: AtomicBool::new(!endpoint.insecure),
            refuses_http1: AtomicBool::new(false),
            endpoint,
            allowance,
            common,
            peers: Peers::default(),
            auth: Auth::default(),
            gates: HostPauses::default(),
            quota: Quota::default(),
            seen: BlobLocations::default(),
            places: TransferPermits::default(),
            own_mount: self_mount::Learned::default(),
            capabilities: Capabilities::default(),
            last_failures: LastFailures::default(),
            counters: Counters::default(),
            checks: CheckState::default(),
            large_body: Arc::new(Semaphore::new(1)),
            reported_wrong_digest: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
            sent: Arc::default(),
        }
    }

    /// The host, as image references name it: `ghcr.io`, `registry.local:5000`, `docker.io`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.shared.endpoint.name
    }

    /// Returns the transient failure with which the last attempt at this operation, [`Operation::Ping`] or
    /// [`Operation::ReadManifest`], ended, if it was not longer ago than `within`. Requests are sent again after such
    /// failures; a caller that stopped waiting for one reads here what is wrong.
    #[must_use]
    pub fn last_failure(
        &self,
        operation: Operation,
        within: std::time::Duration,
    ) -> Option<LastFailure> {
        self.shared.last_failures.get(operation, within)
    }

    /// HTTP requests sent through this handle and its clones so far, those to token services and
    /// redirect targets included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// What was asked of this host so far, through whichever handle. It begins anew when the [`Registries`](crate::Registries)
    /// forgot the host, which they do only if nobody holds a handle.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.read()
    }

    /// Counts an HTTP request that is about to be sent.
    fn count_request(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.shared.counters.request();
        self.shared.common.counters.request();
    }

    /// Holds back requests of the kind of this operation for at least that long.
    fn pause(&self, operation: Operation, pause: std::time::Duration) {
        if self.shared.gates.pause(operation, pause) {
            self.shared.counters.pause();
            self.shared.common.counters.pause();
        }
    }

    /// The same registry with a request counter of its own.
    pub(crate) fn counting_from_zero(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            sent: Arc::default(),
        }
    }

    pub(crate) fn same_host(&self, other: &Self) -> bool {
        self.host() == other.host()
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

    /// Memory for one request that belongs to no copy.
    fn reservation(&self) -> Arc<Reservation> {
        let budget = &self.shared.common.options.metadata_budget;
        budget.for_request(&self.shared.large_body)
    }

    /// Memory for all that one copy keeps.
    pub(crate) fn reservation_of_copy(&self) -> Arc<Reservation> {
        self.shared.common.options.metadata_budget.for_copy()
    }

    /// Whether a mount from the repository itself tells what is there.
    pub(crate) fn own_mount(&self) -> &self_mount::Learned {
        &self.shared.own_mount
    }

    /// Returns whether this host was seen to report digests that are not those of its content.
    fn reports_wrong_digests(&self) -> bool {
        self.shared.reported_wrong_digest.load(Ordering::Relaxed)
    }

    /// Returns whether a lane uses the connections for blobs. A host without HTTP/2 has one pool for everything, so that
    /// no connection is idle while another one is opened.
    fn has_one_pool(&self, pool: Pool) -> bool {
        let flag = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        !flag(&self.shared.refuses_http1) && (pool == Pool::Bulk || !flag(&self.shared.multiplexes))
    }

    /// A TLS connection was refused because HTTP/1.1 alone was offered. The next attempt offers HTTP/2.
    fn learn_that_http1_is_refused(&self) {
        if !self.shared.refuses_http1.swap(true, Ordering::Relaxed) {
            tracing::info!(
                host = self.host(),
                "the registry speaks HTTP/2 only; sending blobs by HTTP/2"
            );
        }
    }

    fn learn_version(&self, pool: Pool, response: &reqwest::Response) {
        if pool == Pool::Small && response.version() < reqwest::Version::HTTP_2 {
            self.shared.multiplexes.store(false, Ordering::Relaxed);
        }
    }

    /// Whether this host asked for a pause that is not over, in response to a request that reads. Every request waits for
    /// its end.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.shared.gates.is_closed(false)
    }

    /// Whether this host asked for a pause that is not over, and requests that write wait for its end.
    pub(crate) fn are_writes_paused(&self) -> bool {
        self.shared.gates.is_closed(true)
    }

    /// In which repositories of this host blobs were seen.
    pub(crate) fn seen(&self) -> &BlobLocations {
        &self.shared.seen
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}
