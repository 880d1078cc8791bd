//! Options of the connections to registries.

use super::metadata_budget::MetadataBudget;
use crate::address_policy::{PrivateHosts, Resolver, SystemResolver};
use crate::credentials::Credentials;
use crate::error::Remedy;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Options for all registries of a [`Registries`](crate::Registries) set.
#[derive(Clone)]
pub struct RegistryOptions {
    /// Sources of credentials.
    pub credentials: Credentials,
    /// Hosts (`host` or `host:port`, exactly as in image references) that are accessed by plain HTTP. All others, including
    /// `localhost`, are accessed by HTTPS only.
    pub insecure_hosts: BTreeSet<String>,
    /// Contents of PEM files with root certificates that are trusted in addition to those of the platform.
    pub extra_root_certificates_pem: Vec<Vec<u8>>,
    /// A folder with certificates of single registries, as `certs.d` of docker: in `<host>` or `<host>:<port>` (or
    /// `<host>_<port>`) every `*.crt` is an authority that is also trusted for that registry, and every `*.cert` with its
    /// `*.key`, or `tls.crt` with `tls.key`, is a client certificate. It is read again after [`Self::credential_life`].
    pub certificates: Option<PathBuf>,
    /// Hosts to which no client certificate is presented.
    pub hosts_without_client_certificate: BTreeSet<String>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Timeouts of requests.
    pub timeouts: Timeouts,
    /// Retries of failed requests.
    pub retry: RetryPolicy,
    /// Time that a credential is cached before its files are read again, so that rotated files are used.
    pub credential_life: Duration,
    /// Allow every registry to refer to private addresses: by redirects, upload locations and token services. Otherwise
    /// only a registry with a private address of its own may, if [`PrivateHosts`] allows it. Link-local addresses and
    /// metadata services are never allowed.
    pub allow_private_redirects: bool,
    /// The registries that may have private addresses.
    pub private_hosts: PrivateHosts,
    /// Networks whose addresses count as public, for registries and the addresses that they refer to. A link-local address
    /// or a metadata service must be a network of its own, such as `169.254.20.10/32`.
    pub private_networks: Vec<IpNet>,
    /// Resolves host names. It is not used for literal addresses, nor for hosts behind a proxy.
    pub resolver: Arc<dyn Resolver>,
    /// Memory for manifests, lists and other responses. The default is shared by the whole process.
    pub metadata_budget: MetadataBudget,
    /// Words a [`Remedy`] at the end of an error text, with the setting as the operator knows it: `add the CA to ca.pem`.
    pub advice: fn(&Remedy<'_>) -> String,
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
            advice: |remedy| remedy.to_string(),
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

/// Timeouts of requests. A transfer has no total limit; it fails only when it makes no progress.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until a connection is established, including TLS.
    pub connect: Duration,
    /// Until the next byte of a response, and until an upload accepts more.
    pub idle: Duration,
    /// Until the first byte of a blob: scanning proxies hold it back until they have read the whole blob.
    pub first_byte: Duration,
    /// Until the beginning of a list that is optional: referrers and digest tags.
    pub list: Duration,
    /// Until the response after the last byte of an upload: some storage backends copy the whole blob before they respond.
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

/// Retries of failed requests, with exponential backoff (factor 2) and jitter.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Maximum number of attempts; 1 means no retry.
    pub attempts: usize,
    /// Delay before the second attempt.
    pub first_delay: Duration,
    /// Maximum delay of the backoff.
    pub max_delay: Duration,
    /// Maximum delay that a registry can request with `Retry-After`.
    pub max_retry_after: Duration,
    /// Maximum time of one request with all attempts and delays: no attempt starts after it. The transfer of a blob has no
    /// total limit; there it limits only the delays.
    pub total: Duration,
    /// Time that a registry has to show a manifest or a blob that it accepted. Registries with replicated storage need a few
    /// seconds.
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
