//! The HTTP clients of a set of registries: connections that differ in what they may be made to are never shared.

use super::{RegistryOptions, SetupError, tls};
use crate::address_policy::{AddressPolicy, Allowance};
use reqwest::Client;
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;

/// Idle connections kept per host: at least what one copy uses at once.
const IDLE_PER_HOST: usize = 32;

/// How long idle connections are kept: below the 60 s after which common load balancers drop them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// What a peer may send on one HTTP/2 stream before it is read, in bytes. HTTP/2 carries metadata only.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The same of all streams of a connection together: as much as 64 of them can fill, so that streams that wait for
/// memory hold up no other. Half of it bounds what frames that carry next to nothing may cost.
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

/// One pair of clients for each [`Allowance`].
pub(crate) struct Clients {
    public: Pair,
    private: Pair,
    any: Pair,
}

/// Two clients with the same allowance.
pub(crate) struct Pair {
    /// HTTP/1.1 only: one connection per running blob, because one HTTP/2 connection's flow-control
    /// window caps the sum of all its streams.
    pub(crate) bulk: Client,
    /// HTTP/2 where the registry offers it: many small requests on one connection.
    pub(crate) small: Client,
}

impl Clients {
    /// Makes the clients. Reads the platform's root certificates once; contacts nobody.
    pub(super) fn new(
        options: &RegistryOptions,
        policy: &Arc<AddressPolicy>,
    ) -> Result<Self, SetupError> {
        let tls = tls::client_config(&options.extra_root_certificates_pem)?;
        let pair = |allowance| -> Result<Pair, SetupError> {
            let client = |http2| client(options, &tls, policy, allowance, http2);
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

    pub(crate) fn with(&self, allowance: Allowance) -> &Pair {
        match allowance {
            Allowance::Public => &self.public,
            Allowance::Private => &self.private,
            Allowance::Any => &self.any,
        }
    }
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
        // Followed by hand: only there is it known when credentials must stay behind.
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
