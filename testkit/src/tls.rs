//! A certificate authority and a server certificate for loopback, made on the fly.
//!
//! The server certificate is a leaf (not `CA:TRUE`): clients that follow webpki refuse a CA as an end entity.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// Makes ring the process's crypto provider, unless there is one already.
pub fn install_crypto_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error only says that somebody else was first, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A CA with one server certificate for `localhost`, `127.0.0.1` and perhaps more, as PEM files in a folder of their own.
pub struct Tls {
    folder: TempDir,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    names: Vec<String>,
    requires_client_certificate: bool,
}

impl Tls {
    /// Makes a fresh CA and a certificate signed by it.
    pub fn generate() -> anyhow::Result<Self> {
        Self::generate_for(&[])
    }

    /// The same with a certificate that is also for these names or addresses.
    pub fn generate_for(names: &[String]) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "image-mirror test CA");
        let key = KeyPair::generate()?;
        let ca_pem = params.self_signed(&key)?.pem();
        let tls = Self {
            folder: TempDir::new()?,
            ca_pem,
            issuer: Issuer::new(params, key),
            names: ["localhost", "127.0.0.1"]
                .map(str::to_owned)
                .into_iter()
                .chain(names.iter().cloned())
                .collect(),
            requires_client_certificate: false,
        };
        std::fs::write(tls.ca_path(), &tls.ca_pem)?;
        tls.renew()?;
        Ok(tls)
    }

    /// Servers with this configuration accept only clients that have a certificate of this CA.
    #[must_use]
    pub fn requiring_client_certificates(mut self) -> Self {
        self.requires_client_certificate = true;
        self
    }

    /// Makes a client certificate of this CA; answers with it and its key as PEM.
    pub fn client_certificate(&self) -> anyhow::Result<(String, String)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
            .distinguished_name
            .push(DnType::CommonName, "image-mirror test client");
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Replaces the server certificate and its key by new ones of the same CA, in the same files.
    pub fn renew(&self) -> anyhow::Result<()> {
        self.issue(CertificateParams::new(self.names.clone())?)
    }

    /// The same with a certificate that has expired.
    pub fn expire(&self) -> anyhow::Result<()> {
        let mut params = CertificateParams::new(self.names.clone())?;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> anyhow::Result<()> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params
            .distinguished_name
            .push(DnType::CommonName, "localhost");
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        std::fs::write(self.key_path(), key.serialize_pem())?;
        std::fs::write(self.cert_path(), certificate.pem())?;
        Ok(())
    }

    /// The CA's certificate as PEM: what a client must trust.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// File with the CA's certificate.
    #[must_use]
    pub fn ca_path(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// File with the server's certificate.
    #[must_use]
    pub fn cert_path(&self) -> PathBuf {
        self.folder().join("cert.pem")
    }

    /// File with the server's private key.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.folder().join("key.pem")
    }

    /// The folder that holds the files; it goes away with this value.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A configuration for a TLS server (HTTP/1.1) with the present certificate.
    pub fn server_config(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        install_crypto_provider();
        let certificate = CertificateDer::from_pem_file(self.cert_path())
            .context("the server certificate cannot be read")?;
        let key = PrivateKeyDer::from_pem_file(self.key_path())
            .context("the server key cannot be read")?;
        let builder = rustls::ServerConfig::builder();
        let builder = if self.requires_client_certificate {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes())?)?;
            let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots));
            builder.with_client_cert_verifier(verifier.build()?)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
