//! TLS by rustls with the ring provider, whatever provider the process installed.

use super::SetupError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use std::sync::Arc;

/// The platform's roots plus the given ones.
pub(super) fn client_config(extra_pem: &[Vec<u8>]) -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let extra = extra_roots(extra_pem)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Client(error.to_string()))?;
    let config = match Verifier::new_with_extra_roots(extra, provider) {
        Ok(verifier) => builder
            .dangerous() // rustls' name for "a verifier of one's own"; this one is the platform's
            .with_custom_certificate_verifier(Arc::new(verifier)),
        // A container without certificates can still talk to insecure hosts; for all others the
        // handshake fails and says why.
        Err(error) => {
            tracing::warn!(%error, "no root certificates: no HTTPS registry can be trusted");
            builder.with_root_certificates(RootCertStore::empty())
        }
    };
    Ok(config.with_no_client_auth())
}

fn extra_roots(pems: &[Vec<u8>]) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let mut store = RootCertStore::empty();
    let mut roots = Vec::new();
    for (index, pem) in pems.iter().enumerate() {
        let refused = |reason: String| SetupError::Certificate {
            number: index + 1,
            reason,
        };
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| refused(error.to_string()))?;
            store
                .add(certificate.clone())
                .map_err(|error| refused(error.to_string()))?;
            roots.push(certificate);
        }
        if roots.len() == before {
            return Err(refused("it holds no certificate in PEM form".to_owned()));
        }
    }
    Ok(roots)
}
