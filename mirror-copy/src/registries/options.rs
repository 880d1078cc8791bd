//! What the operator may choose about talking to registries.

use super::metadata_budget::MetadataBudget;
use crate::address_policy::{PrivateHosts, Resolver, SystemResolver};
use crate::credentials::Credentials;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How registries are spoken to.
#[derive(Clone)]
pub struct RegistryOptions {
    /// Where credentials come from.
    pub credentials: Credentials,
    /// Hosts (`host` or `host:port`, exactly as in image references) spoken to by plain HTTP. Every
    /// other host, `localhost` included, is spoken to by HTTPS only.
    pub insecure_hosts: BTreeSet<String>,
    /// PEM files with root certificates trusted in addition to the platform's.
    pub extra_root_certificates_pem: Vec<Vec<u8>>,
    /// A folder with certificates of single registries, as docker's `certs.d`: in `<host>` or `<host>:<port>` (or
    /// `<host>_<port>`) every `*.crt` is an authority that is trusted for that registry too, and every `*.cert` with its
    /// `*.key`, or `tls.crt` with `tls.key`, a client certificate. Read again every [`Self::credential_life`].
    pub certificates: Option<PathBuf>,
    /// Hosts to which no client certificate is presented.
    pub hosts_without_client_certificate: BTreeSet<String>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// When to give up waiting.
    pub timeouts: Timeouts,
    /// When and how often to try again.
    pub retry: RetryPolicy,
    /// How long a looked-up credential is used before the docker configuration is read again, so
    /// that rotated files are seen.
    pub credential_life: Duration,
    /// Lets every registry send us on to private addresses: by redirects, upload locations and token services. Without
    /// this only a registry may that has a private address itself, and that [`PrivateHosts`] allows. Link-local
    /// addresses and metadata services stay out of reach.
    pub allow_private_redirects: bool,
    /// The registries that may have private addresses.
    pub private_hosts: PrivateHosts,
    /// Networks whose addresses count as public: for registries, and for where those send us on to. A link-local address
    /// or a metadata service must be named alone, as `169.254.20.10/32`.
    pub private_networks: Vec<IpNet>,
    /// Resolves the names of hosts. Not asked for what goes through a proxy, nor for literal addresses.
    pub resolver: Arc<dyn Resolver>,
    /// Memory for manifests, lists and other answers. The default is shared by the whole process.
    pub metadata_budget: MetadataBudget,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            credentials: Credentials::anonymous(),
            insecure_hosts: BTreeSet::new(),
            extra_root_certificates_pem: Vec::new(),
            certificates: None,
            hosts_without_client_certificate: BTreeSet::new(),
            user_agent: concat!("image-mirror/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            credential_life: Duration::from_mins(1),
            allow_private_redirects: false,
            private_hosts: PrivateHosts::default(),
            private_networks: Vec::new(),
            resolver: Arc::new(SystemResolver),
            metadata_budget: MetadataBudget::default(),
        }
    }
}

impl std::fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryOptions")
            .field("credentials", &self.credentials)
            .field("insecure_hosts", &self.insecure_hosts)
            .field(
                "extra_root_certificates",
                &self.extra_root_certificates_pem.len(),
            )
            .field("certificates", &self.certificates)
            .field("user_agent", &self.user_agent)
            .field("timeouts", &self.timeouts)
            .field("retry", &self.retry)
            .field("credential_life", &self.credential_life)
            .field("allow_private_redirects", &self.allow_private_redirects)
            .field("private_hosts", &self.private_hosts)
            .field("private_networks", &self.private_networks)
            .finish_non_exhaustive()
    }
}

/// When to give up waiting. There is no limit on a whole transfer, only on standing still.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the next byte of an answer, and for an upload to accept more.
    pub idle: Duration,
    /// For the first byte of a blob: proxies that scan a blob hold it back until they have seen all of it.
    pub first_byte: Duration,
    /// For the beginning of a list that an image can do without: referrers, and tags made of digests.
    pub list: Duration,
    /// For the answer after the last byte of an upload: some storage backends copy the whole blob
    /// before they answer.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_mins(1),
            first_byte: Duration::from_mins(10),
            list: Duration::from_secs(10),
            commit: Duration::from_mins(5),
        }
    }
}

/// When and how often a failed call is made again. Waits grow by two, with jitter.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Attempts in all; 1 means no retry.
    pub attempts: usize,
    /// Wait before the second attempt.
    pub first_delay: Duration,
    /// Longest wait that grows by itself.
    pub max_delay: Duration,
    /// Longest wait that a registry can ask for with `Retry-After`.
    pub max_retry_after: Duration,
    /// Longest time that one call takes with all its attempts and the waits between them: after this, no
    /// further attempt begins. A blob's transfer takes as long as it takes; there it limits the waits alone.
    pub total: Duration,
    /// How long a registry may take to show a manifest that it accepted, or a blob that was just sent. Registries with
    /// replicated storage need some seconds.
    pub visible_within: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(10),
            max_retry_after: Duration::from_mins(1),
            total: Duration::from_mins(5),
            visible_within: Duration::from_secs(16),
        }
    }
}

impl RetryPolicy {
    /// The waits between attempts.
    pub(crate) fn backoff(&self) -> backon::ExponentialBuilder {
        backon::ExponentialBuilder::default()
            .with_min_delay(self.first_delay)
            .with_max_delay(self.max_delay)
            .with_factor(2.0)
            .with_max_times(self.attempts.saturating_sub(1))
            .with_total_delay(Some(self.total))
            .with_jitter()
    }
}
