//! How a user reaches the API server: as a client, or as a kubeconfig.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::config::{AuthInfo, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use testkit::blocking;
use testkit::tls::install_crypto_provider;

/// No request of a test takes longer, not even one that waits for a webhook.
const REQUEST_DEADLINE: Duration = Duration::from_mins(1);

/// Where the API server is, what it must show, and what it is shown.
#[derive(Clone)]
pub(super) struct Access {
    /// `https://host:port`, perhaps with a path.
    pub url: String,
    pub ca_pem: String,
    pub token: String,
}

impl Access {
    /// A client. It works for whoever polls it, but is born in a runtime.
    pub fn client(&self) -> anyhow::Result<Client> {
        install_crypto_provider();
        let mut config = Config::new(self.url.parse()?);
        let authority = CertificateDer::from_pem_slice(self.ca_pem.as_bytes())?;
        config.root_cert = Some(vec![authority.to_vec()]);
        // A test wants to see what the server says, not the answer to another attempt.
        config.default_retry = false;
        config.auth_info = AuthInfo {
            token: Some(self.token.clone().into()),
            ..AuthInfo::default()
        };
        Ok(blocking::run(async { Client::try_from(config) })?)
    }

    /// The same as a kubeconfig; as JSON, which is YAML.
    pub fn kubeconfig(&self, namespace: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [
                { "name": "test", "context": { "cluster": "test", "user": "test", "namespace": namespace } },
            ],
            "clusters": [{ "name": "test", "cluster": {
                "server": self.url,
                "certificate-authority-data": STANDARD.encode(&self.ca_pem),
            } }],
            "users": [{ "name": "test", "user": { "token": self.token } }],
        })
    }
}

/// Runs a request to its end, but not for ever.
pub(super) fn call<T: Send>(
    request: impl Future<Output = Result<T, kube::Error>> + Send,
) -> Result<T, kube::Error> {
    blocking::run(async {
        match tokio::time::timeout(REQUEST_DEADLINE, request).await {
            Ok(result) => result,
            Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
        }
    })
}

/// Only our server knows our token and has our certificate, so another process on the port is not mistaken for it.
pub(super) fn is_ready(admin: &Client) -> bool {
    let Ok(request) = axum::http::Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    call(admin.request_text(request)).is_ok_and(|text| text == "ok")
}
