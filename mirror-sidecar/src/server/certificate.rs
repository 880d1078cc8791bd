//! The certificate of the server, reloaded when its files change.

mod validity;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

pub use validity::{CertificateTrouble, CertificateTroubleKind};

/// How often the files are compared. A mounted Secret is updated within about a minute.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// A certificate and its key, reloaded when their files change.
///
/// The content is compared, because file notifications miss changes of a mounted Secret, which are made by a symbolic link.
#[derive(Clone, Debug)]
pub struct Certificates {
    files: Arc<Files>,
    current: Arc<Current>,
    trouble: watch::Sender<Option<CertificateTrouble>>,
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// The last content, so that invalid files are reported once.
    last: Mutex<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {}: {source}", file.display())]
    Read {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{} contains no certificate in PEM format", .0.display())]
    Certificate(PathBuf),
    #[error("{} contains no usable private key in PEM format", .0.display())]
    Key(PathBuf),
    #[error("the key in {} does not match the certificate in {}", key.display(), certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
}

impl Certificates {
    /// Reads the certificate chain and the key from PEM files.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let files = Files {
            certificate,
            key,
            last: Mutex::default(),
        };
        let content = files.read()?;
        let certified = files.parse(&content)?;
        *files.last.lock().unwrap_or_else(PoisonError::into_inner) = content;
        Ok(Self {
            files: Arc::new(files),
            current: Arc::new(Current(RwLock::new(Arc::new(certified)))),
            trouble: watch::Sender::new(None),
        })
    }

    /// A TLS configuration that always presents the current certificate.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder
            .unwrap_or_else(|_| ServerConfig::builder())
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Current>::clone(&self.current));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // The policy server never resumes a session.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Arc::new(config)
    }

    /// Reads the files again. Returns whether the certificate changed; invalid files leave the old one in place.
    pub fn reload(&self) -> Result<bool, CertificateError> {
        let content = self.files.read()?;
        {
            let mut last = self
                .files
                .last
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if *last == content {
                return Ok(false);
            }
            last.clone_from(&content);
        }
        let certified = Arc::new(self.files.parse(&content)?);
        *self
            .current
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(true)
    }

    /// The current problem of the certificate; follows each change.
    pub fn subscribe(&self) -> watch::Receiver<Option<CertificateTrouble>> {
        self.trouble.subscribe()
    }

    /// Checks the validity of the certificate, and logs each change.
    fn check(&self) {
        let current = Arc::clone(
            &self
                .current
                .0
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let trouble = validity::check(&current.cert, UnixTime::now());
        let file = self.files.certificate.display();
        self.trouble.send_if_modified(|last| {
            if *last == trouble {
                return false;
            }
            if let Some(CertificateTrouble { kind, reason }) = &trouble {
                tracing::warn!(%file, reason, "{kind}");
            } else {
                tracing::info!(%file, "the certificate of the facade is valid");
            }
            *last = trouble;
            true
        });
    }

    /// Checks the certificate and reloads changed files until the task is dropped.
    pub async fn watch(self) {
        loop {
            self.check();
            tokio::time::sleep(CHECK_EVERY).await;
            match self.reload() {
                Ok(false) => {}
                Ok(true) => tracing::info!("reloaded certificate"),
                Err(error) => {
                    tracing::warn!(%error, "cannot reload certificate, the old one stays in use; correct the files of --tls-cert and --tls-key");
                }
            }
        }
    }
}

impl Files {
    fn read(&self) -> Result<(Vec<u8>, Vec<u8>), CertificateError> {
        let read = |file: &Path| {
            std::fs::read(file).map_err(|source| CertificateError::Read {
                file: file.to_owned(),
                source,
            })
        };
        Ok((read(&self.certificate)?, read(&self.key)?))
    }

    fn parse(&self, (chain, key): &(Vec<u8>, Vec<u8>)) -> Result<CertifiedKey, CertificateError> {
        let no_certificate = || CertificateError::Certificate(self.certificate.clone());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| no_certificate())?;
        if chain.is_empty() {
            return Err(no_certificate());
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .ok()
            .and_then(|key| any_supported_type(&key).ok())
            .ok_or_else(|| CertificateError::Key(self.key.clone()))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // Keys without access to their public half are not compared.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(certified)
            }
            Err(_) => Err(CertificateError::Mismatch {
                key: self.key.clone(),
                certificate: self.certificate.clone(),
            }),
        }
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

#[cfg(test)]
mod tests;
