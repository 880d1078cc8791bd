//! Certificates of single registries, in the layout of docker: `<folder>/<host>[:<port>]/{ca.crt,client.cert,client.key}`
//! (docs.docker.com, "Verify repository client with certificates").

use super::error::SetupError;
use super::host;
use crate::hash::Hasher;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Maximum number of registries with certificates of their own. Each has HTTP clients of its own, with idle connections.
const MAX_HOSTS: usize = 64;

/// Maximum size of a file in bytes. A chain of certificates has a few KiB.
const MAX_FILE: u64 = 1024 * 1024;

/// The certificate and key of a Secret of type `kubernetes.io/tls`. Docker does not accept this pair: its certificate would
/// have to be called `tls.cert`.
const SECRET_CERTIFICATE: &str = "tls.crt";
const SECRET_KEY: &str = "tls.key";

#[derive(Debug)]
pub(super) struct HostCertificates {
    /// Trusted for this registry in addition to the roots for all.
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// Presented to this registry if it requests a certificate.
    pub(super) client: Option<Arc<ClientCertificates>>,
    /// Hash of the names and contents of the files.
    pub(super) fingerprint: String,
}

/// Client certificates. The first one that the registry can verify is presented.
#[derive(Debug)]
pub(super) struct ClientCertificates(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for ClientCertificates {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        self.0.iter().find(fits).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Reads the folders of all registries, by canonical host name. `:` in the name of a folder may be written as
/// `_`, since a volume of Kubernetes cannot be mounted at a path with `:`.
///
/// # Errors
/// [`SetupError::HostCertificates`] for the first file that cannot be used.
pub(super) fn read_all(
    folder: &Path,
    provider: &CryptoProvider,
) -> Result<BTreeMap<String, HostCertificates>, SetupError> {
    let mut hosts = BTreeMap::new();
    for path in entries(folder)? {
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let host = host_of(&name).ok_or_else(|| {
            refused(
                &path,
                "the name of the folder is no registry host; it must be host or host:port",
            )
        })?;
        let certificates = read_host(&path, provider)?;
        if hosts.insert(host, certificates).is_some() {
            return Err(refused(&path, "there is another folder for this registry"));
        }
        if hosts.len() > MAX_HOSTS {
            let reason = format!("it contains folders for more than {MAX_HOSTS} registries");
            return Err(refused(folder, &reason));
        }
    }
    Ok(hosts)
}

fn host_of(name: &str) -> Option<String> {
    let with_port = match name.rsplit_once('_') {
        Some((host, port)) if is_number(port) => format!("{host}:{port}"),
        _ => name.to_owned(),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let is_host = !with_port.is_empty() && with_port.chars().all(allowed);
    is_host.then(|| host::canonical(&with_port))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn read_host(folder: &Path, provider: &CryptoProvider) -> Result<HostCertificates, SetupError> {
    let files: Vec<PathBuf> = entries(folder)?
        .into_iter()
        .filter(|path| path.is_file())
        .collect();
    let has = |name: &str| {
        files
            .iter()
            .any(|path| path.file_name() == Some(name.as_ref()))
    };
    let is_secret = has(SECRET_CERTIFICATE) && has(SECRET_KEY);
    let mut hasher = Hasher::sha256();
    let mut read = |path: &Path| -> Result<Vec<u8>, SetupError> {
        let content = read_file(path)?;
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update(&(content.len() as u64).to_le_bytes());
        hasher.update(&content);
        Ok(content)
    };
    let (mut roots, mut pairs) = (Vec::new(), Vec::new());
    for path in &files {
        let name = path.file_name().unwrap_or_default();
        let is_pair = is_secret && name == SECRET_CERTIFICATE;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") if !is_pair => roots.extend(read_roots(path, &read(path)?)?),
            Some("crt" | "cert") => {
                let key = path.with_extension("key");
                if !key.is_file() {
                    let name = key.file_name().unwrap_or_default().display();
                    let reason = format!(
                        "there is no {name} beside it: a client certificate needs its key, and the certificate of an authority \
                         the ending .crt"
                    );
                    return Err(refused(path, &reason));
                }
                let (chain, secret) = (read(path)?, read(&key)?);
                pairs.push(read_pair(path, &chain, &key, &secret, provider)?);
            }
            Some("key") if !(is_secret && name == SECRET_KEY) => {
                let certificate = path.with_extension("cert");
                if !certificate.is_file() {
                    let name = certificate.file_name().unwrap_or_default().display();
                    let reason = format!(
                        "there is no {name} beside it: a key needs its client certificate, with the ending .cert"
                    );
                    return Err(refused(path, &reason));
                }
            }
            _ => {}
        }
    }
    let client = (!pairs.is_empty()).then(|| Arc::new(ClientCertificates(pairs)));
    Ok(HostCertificates {
        roots,
        client,
        fingerprint: hasher.finish(),
    })
}

fn read_roots(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let roots = read_chain(path, pem)?;
    let mut store = RootCertStore::empty();
    for root in &roots {
        store
            .add(root.clone())
            .map_err(|error| refused(path, &error.to_string()))?;
    }
    Ok(roots)
}

fn read_chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(refused(path, "it holds no certificate in PEM form")),
    }
}

/// Reads a client certificate. The errors contain nothing of the key file.
fn read_pair(
    path: &Path,
    chain: &[u8],
    key_path: &Path,
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, SetupError> {
    let chain = read_chain(path, chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        let reason = if key.windows(9).any(|window| window == b"ENCRYPTED") {
            "the key is encrypted, which is not supported; store it without a password"
        } else {
            "it holds no private key in PEM form"
        };
        refused(key_path, reason)
    })?;
    let key = provider.key_provider.load_private_key(key).map_err(|_| {
        refused(
            key_path,
            "the key cannot be used; it must be RSA (2048 bits or more), P-256, P-384 or Ed25519",
        )
    })?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Arc::new(pair))
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            let name = path.file_name().unwrap_or_default().display();
            let reason = format!("it is not the key of the certificate in {name}");
            Err(refused(key_path, &reason))
        }
        Err(error) => Err(refused(path, &error.to_string())),
    }
}

/// Returns the entries of a folder in order, without hidden ones: Kubernetes keeps the versions of a Secret in `..<time>`.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, SetupError> {
    let failed = |error: std::io::Error| refused(folder, &error.to_string());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_file(path: &Path) -> Result<Vec<u8>, SetupError> {
    let failed = |error: std::io::Error| refused(path, &error.to_string());
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut content = Vec::new();
    let length = file
        .take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if length as u64 > MAX_FILE {
        return Err(refused(path, "it is larger than 1 MiB"));
    }
    Ok(content)
}

fn refused(path: &Path, reason: &str) -> SetupError {
    SetupError::HostCertificates {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
