//! TLS configurations: rustls with the ring provider, independent of the provider that the process installed.

use super::certificates::ClientCertificates;
use super::error::SetupError;
use super::p521;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_platform_verifier::Verifier;
use std::sync::Arc;

pub(super) struct Tls {
    pub(super) provider: Arc<CryptoProvider>,
    /// Trusts the roots of the platform and those for all registries; `None` if there are none at all.
    common: Option<Arc<dyn ServerCertVerifier>>,
    /// The additional roots for all registries.
    trusted: Vec<CertificateDer<'static>>,
}

impl Tls {
    /// Reads the root certificates of the platform.
    pub(super) fn new(extra_pem: &[Vec<u8>]) -> Result<Self, SetupError> {
        let provider = Arc::new(provider());
        let trusted = extra_roots(extra_pem)?;
        let platform = Verifier::new_with_extra_roots(trusted.clone(), Arc::clone(&provider));
        let common: Option<Arc<dyn ServerCertVerifier>> = match platform {
            Ok(platform) => Some(Arc::new(platform)),
            // A container without certificates can still use insecure hosts; for all others the handshake fails.
            Err(error) => {
                tracing::warn!(%error, "no root certificates, so no HTTPS registry is trusted; install ca-certificates");
                None
            }
        };
        Ok(Self {
            provider,
            common,
            trusted,
        })
    }

    /// Returns the configuration for registries without certificates of their own.
    pub(super) fn config(&self) -> Result<ClientConfig, SetupError> {
        self.config_with(&[], None)
    }

    /// Returns the configuration for a registry that also trusts these authorities. Each configuration has its own session
    /// cache, so that no session is resumed with a client certificate that must not be presented.
    pub(super) fn config_with(
        &self,
        roots: &[CertificateDer<'static>],
        client: Option<Arc<ClientCertificates>>,
    ) -> Result<ClientConfig, SetupError> {
        let failed = |error: Error| SetupError::Client(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let mut verifiers = Vec::new();
        if !roots.is_empty() {
            let mut store = RootCertStore::empty();
            for root in roots {
                store.add(root.clone()).map_err(failed)?;
            }
            let provider = Arc::clone(&self.provider);
            let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), provider)
                .build()
                .map_err(|error| SetupError::Client(error.to_string()))?;
            verifiers.push(verifier as Arc<dyn ServerCertVerifier>);
        }
        verifiers.extend(self.common.clone());
        let builder = if verifiers.is_empty() {
            builder.with_root_certificates(RootCertStore::empty())
        } else {
            builder
                .dangerous() // the name in rustls for a custom verifier
                .with_custom_certificate_verifier(Arc::new(RegistryVerifier {
                    verifiers,
                    trusted: [roots, &self.trusted].concat(),
                    provider: Arc::clone(&self.provider),
                }))
        };
        Ok(match client {
            Some(client) => builder.with_client_cert_resolver(client),
            None => builder.with_no_client_auth(),
        })
    }
}

/// Returns ring with P-521 signatures, which it cannot verify.
fn provider() -> CryptoProvider {
    CryptoProvider {
        signature_verification_algorithms: p521::algorithms(),
        ..rustls::crypto::ring::default_provider()
    }
}

/// Accepts certificates that one of several verifiers accepts, and server certificates that are themselves trusted.
///
/// `openssl req -x509` creates certificates with CA:TRUE, which RFC 5280 allows for a server and webpki refuses. All other
/// rules apply to them: the name, the time, and the proof that the server has the key.
#[derive(Debug)]
struct RegistryVerifier {
    /// Not empty.
    verifiers: Vec<Arc<dyn ServerCertVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl RegistryVerifier {
    /// Returns whether a refusal is only about the use of a certificate. The verifier checks the time before that.
    fn is_about_use(error: &Error) -> bool {
        let Error::InvalidCertificate(CertificateError::Other(error)) = error else {
            return false;
        };
        error.0.to_string() == crate::error::advice::CA_AS_SERVER
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }

    /// Returns the error of the verifier that knows the issuer, else that of the last one.
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut result = Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        for verifier in &self.verifiers {
            result = verifier.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
            if !matches!(
                result,
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
            ) {
                break;
            }
        }
        result
    }
}

impl ServerCertVerifier for RegistryVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.verify_chain(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(error) if Self::is_about_use(&error) && self.trusted.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What `openssl req -x509` makes, for `registry.test` and a hundred years from 2026: its own authority.
    const SELF_SIGNED: &[u8] = include_bytes!("tls/self-signed.pem");

    /// Seconds from 1970 to 2030 and to 2200.
    const IN_2030: u64 = 1_893_456_000;
    const IN_2200: u64 = 7_258_118_400;

    fn verify(trusted: &[CertificateDer<'static>], name: &'static str, now: u64) -> String {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // Some root must be there, as on every machine with certificates.
        let certificate = CertificateDer::from_pem_slice(SELF_SIGNED).unwrap();
        let platform =
            Verifier::new_with_extra_roots([certificate.clone()], Arc::clone(&provider)).unwrap();
        let verifier = RegistryVerifier {
            verifiers: vec![Arc::new(platform)],
            trusted: trusted.to_vec(),
            provider,
        };
        let name = ServerName::try_from(name).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        match verifier.verify_server_cert(&certificate, &[], &name, &[], now) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn a_self_signed_certificate_is_accepted_where_it_is_itself_trusted() {
        let own = extra_roots(&[SELF_SIGNED.to_vec()]).unwrap();
        assert_eq!(verify(&own, "registry.test", IN_2030), "accepted");
        let another = extra_roots(&[include_bytes!("p521/root.pem").to_vec()]).unwrap();
        for (trusted, name, now, reason) in [
            (&own[..], "other.test", IN_2030, "NotValidForName"),
            (&own[..], "registry.test", IN_2200, "Expired"),
            (
                &another[..],
                "registry.test",
                IN_2030,
                crate::error::advice::CA_AS_SERVER,
            ),
            (
                &[][..],
                "registry.test",
                IN_2030,
                crate::error::advice::CA_AS_SERVER,
            ),
        ] {
            let refusal = verify(trusted, name, now);
            assert!(refusal.contains(reason), "{refusal}");
        }
    }
}
