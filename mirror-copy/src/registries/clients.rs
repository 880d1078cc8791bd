//! The HTTP clients of a set of registries. Connections with different allowances or certificates are never shared.

use super::certificates::{self, HostCertificates};
use super::error::SetupError;
use super::host;
use super::options::RegistryOptions;
use super::tls::Tls;
use crate::address_policy::{AddressPolicy, Allowance};
use crate::lock::lock;
use reqwest::{Client, Url};
use rustls::ClientConfig;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Idle connections kept per host: as many as one copy uses concurrently.
const IDLE_PER_HOST: usize = 32;

/// Time that idle connections are kept: below the 60 s after which common load balancers drop them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// Flow-control window of an HTTP/2 stream, in bytes. HTTP/2 carries metadata only.
const STREAM_WINDOW: u32 = 64 * 1024;

/// Flow-control window of an HTTP/2 connection, in bytes: that of 64 streams, so that streams that wait for memory block no
/// other. Half of it bounds the cost of frames without content.
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

pub(crate) struct Clients {
    maker: ClientMaker,
    common: ClientSet,
    certificates: Option<Certificates>,
}

struct ClientMaker {
    options: RegistryOptions,
    policy: Arc<AddressPolicy>,
    tls: Tls,
}

/// The clients of one TLS configuration: one pair for each [`Allowance`].
struct ClientSet {
    public: Pair,
    private: Pair,
    any: Pair,
}

/// Two clients with the same allowance. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct Pair {
    /// HTTP/1.1 only: one connection per blob, because the flow-control window of an HTTP/2 connection limits the sum of its
    /// streams.
    pub(crate) bulk: Client,
    /// HTTP/2 if the registry offers it: many small requests on one connection.
    pub(crate) small: Client,
}

/// The folder with certificates of single registries, and its content when it was last read.
struct Certificates {
    folder: PathBuf,
    read: Mutex<ReadCertificates>,
}

struct ReadCertificates {
    at: Instant,
    hosts: HashMap<String, Arc<HostClients>>,
    /// The error that was logged last, so that it is logged once.
    last_error: Option<String>,
}

/// The clients for one host with certificates of its own.
struct HostClients {
    fingerprint: String,
    /// For requests of the registry itself; they present the client certificate, if there is one.
    authenticated: ClientSet,
    /// For requests that another registry redirects to this host: they only trust its authorities.
    anonymous: ClientSet,
}

impl Clients {
    /// Creates the clients. Reads the root certificates of the platform and the folder with certificates.
    pub(super) fn new(
        options: &RegistryOptions,
        policy: &Arc<AddressPolicy>,
    ) -> Result<Self, SetupError> {
        let maker = ClientMaker {
            options: options.clone(),
            policy: Arc::clone(policy),
            tls: Tls::new(&options.extra_root_certificates_pem)?,
        };
        let common = ClientSet::new(&maker.tls.config()?, &maker)?;
        let certificates = match &options.certificates {
            Some(folder) => Some(Certificates::new(folder, &maker)?),
            None => None,
        };
        Ok(Self {
            maker,
            common,
            certificates,
        })
    }

    /// Returns the clients for a URL. `is_own`: the request belongs to the registry of this host, so that its client
    /// certificate is presented.
    pub(crate) fn for_url(&self, url: &Url, is_own: bool, allowance: Allowance) -> Pair {
        let host = self
            .certificates
            .as_ref()
            .and_then(|certificates| Some((certificates, host_with_tls(url)?)))
            .and_then(|(certificates, host)| certificates.of(&host, &self.maker));
        let clients = match &host {
            None => &self.common,
            Some(host) if is_own => &host.authenticated,
            Some(host) => &host.anonymous,
        };
        clients.with(allowance)
    }
}

impl ClientSet {
    fn new(tls: &ClientConfig, maker: &ClientMaker) -> Result<Self, SetupError> {
        let pair = |allowance| -> Result<Pair, SetupError> {
            let client = |http2| client(&maker.options, tls, &maker.policy, allowance, http2);
            Ok(Pair {
                bulk: client(false)?,
                small: client(true)?,
            })
        };
        Ok(Self {
            public: pair(Allowance::Public)?,
            private: pair(Allowance::Private)?,
            any: pair(Allowance::Any)?,
        })
    }

    fn with(&self, allowance: Allowance) -> Pair {
        let pair = match allowance {
            Allowance::Public => &self.public,
            Allowance::Private => &self.private,
            Allowance::Any => &self.any,
        };
        pair.clone()
    }
}

impl Certificates {
    fn new(folder: &Path, maker: &ClientMaker) -> Result<Self, SetupError> {
        let mut read = ReadCertificates {
            at: Instant::now(),
            hosts: HashMap::new(),
            last_error: None,
        };
        read.hosts = read.read(folder, maker)?;
        Ok(Self {
            folder: folder.to_owned(),
            read: Mutex::new(read),
        })
    }

    /// Returns the clients of a host that has a folder. The files are read again as often as credentials, since certificates
    /// are renewed; while they cannot be used, the previous ones stay in use.
    fn of(&self, host: &str, maker: &ClientMaker) -> Option<Arc<HostClients>> {
        let mut read = lock(&self.read);
        if read.at.elapsed() >= maker.options.credential_life {
            read.at = Instant::now();
            match read.read(&self.folder, maker) {
                Ok(hosts) => {
                    read.hosts = hosts;
                    read.last_error = None;
                }
                Err(error) => {
                    let error = error.to_string();
                    if read.last_error.as_ref() != Some(&error) {
                        tracing::warn!(
                            %error,
                            "cannot reload the certificates of registries; the previous ones stay in use until this is corrected"
                        );
                    }
                    read.last_error = Some(error);
                }
            }
        }
        read.hosts.get(host).cloned()
    }
}

impl ReadCertificates {
    /// Reads the folder. Hosts with unchanged files keep their clients and connections.
    fn read(
        &self,
        folder: &Path,
        maker: &ClientMaker,
    ) -> Result<HashMap<String, Arc<HostClients>>, SetupError> {
        let mut hosts = HashMap::new();
        for (host, certificates) in certificates::read_all(folder, &maker.tls.provider)? {
            let known = self.hosts.get(&host);
            let clients = match known {
                Some(known) if known.fingerprint == certificates.fingerprint => Arc::clone(known),
                _ => Arc::new(HostClients::new(certificates, maker)?),
            };
            hosts.insert(host, clients);
        }
        Ok(hosts)
    }
}

impl HostClients {
    fn new(certificates: HostCertificates, maker: &ClientMaker) -> Result<Self, SetupError> {
        let HostCertificates {
            roots,
            client,
            fingerprint,
        } = certificates;
        Ok(Self {
            fingerprint,
            authenticated: ClientSet::new(&maker.tls.config_with(&roots, client)?, maker)?,
            anonymous: ClientSet::new(&maker.tls.config_with(&roots, None)?, maker)?,
        })
    }
}

/// Returns the canonical name of the host of an `https` URL.
fn host_with_tls(url: &Url) -> Option<String> {
    if url.scheme() != "https" {
        return None;
    }
    let (host, port) = (url.host_str()?, url.port_or_known_default()?);
    Some(host::canonical(&format!("{host}:{port}")))
}

fn client(
    options: &RegistryOptions,
    tls: &ClientConfig,
    policy: &Arc<AddressPolicy>,
    allowance: Allowance,
    http2: bool,
) -> Result<Client, SetupError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = if http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(&options.user_agent)
        .connect_timeout(options.timeouts.connect)
        .dns_resolver(policy.resolver(allowance))
        .proxy(policy.proxy())
        // Redirects are followed by this crate, which knows where credentials may go.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW);
    if !http2 {
        builder = builder.http1_only();
    }
    builder
        .build()
        .map_err(|error| SetupError::Client(error.to_string()))
}

/// The connections that a request uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    /// For metadata: HTTP/2 where possible.
    Small,
    /// For blobs: HTTP/1.1, a connection each.
    Bulk,
}
