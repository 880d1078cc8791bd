//! Certificates with P-521 keys. ring cannot verify their signatures; OpenSSL, Go and browsers can, so private authorities
//! issue them.

use p521::ecdsa::signature::hazmat::PrehashVerifier as _;
use p521::ecdsa::{Signature, VerifyingKey};
use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use sha2::Digest as _;
use std::sync::LazyLock;

/// Size of a field element (521 bits), in bytes.
const FIELD: usize = 66;

type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

/// For certificates. `openssl req` signs with SHA-256 by default, also with a P-521 key.
static CERTIFICATES: Algorithms = &[
    &P521(Hash::Sha512),
    &P521(Hash::Sha384),
    &P521(Hash::Sha256),
];

/// For handshakes (RFC 8446, 4.2.3).
static HANDSHAKES: &[(SignatureScheme, Algorithms)] = &[(
    SignatureScheme::ECDSA_NISTP521_SHA512,
    &[&P521(Hash::Sha512)],
)];

/// Created once, because rustls requires lists of static lifetime.
static WITH_P521: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| {
    let ring = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    WebPkiSupportedAlgorithms {
        all: [ring.all, CERTIFICATES].concat().leak(),
        mapping: [ring.mapping, HANDSHAKES].concat().leak(),
    }
});

/// Returns the algorithms of ring and those with P-521.
pub(super) fn algorithms() -> WebPkiSupportedAlgorithms {
    *WITH_P521
}

/// ECDSA with P-521 and this hash (RFC 5758).
#[derive(Debug)]
struct P521(Hash);

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl SignatureVerificationAlgorithm for P521 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        let hash = match self.0 {
            Hash::Sha256 => sha2::Sha256::digest(message).to_vec(),
            Hash::Sha384 => sha2::Sha384::digest(message).to_vec(),
            Hash::Sha512 => sha2::Sha512::digest(message).to_vec(),
        };
        // The crate refuses hashes of less than half the field. A hash is a number (SEC 1, 4.1.4), which leading zeros do
        // not change.
        let mut number = vec![0; FIELD.saturating_sub(hash.len())];
        number.extend(hash);
        key.verify_prehash(&number, &signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self.0 {
            Hash::Sha256 => alg_id::ECDSA_SHA256,
            Hash::Sha384 => alg_id::ECDSA_SHA384,
            Hash::Sha512 => alg_id::ECDSA_SHA512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{CertificateError, Error, RootCertStore};
    use std::sync::Arc;
    use std::time::Duration;

    /// An authority with a P-521 key, as `openssl req -x509` makes it, and three certificates for `registry.test` that it
    /// signed with SHA-256, SHA-384 and SHA-512. All are valid for a hundred years from 2026.
    const ROOT: &[u8] = include_bytes!("p521/root.pem");
    const LEAVES: &[u8] = include_bytes!("p521/leaves.pem");

    /// Seconds from 1970 to 2030.
    const IN_2030: u64 = 1_893_456_000;

    fn verify(leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let provider = Arc::new(CryptoProvider {
            signature_verification_algorithms: algorithms(),
            ..rustls::crypto::ring::default_provider()
        });
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(ROOT).unwrap();
        roots.add(root).unwrap();
        let by_root = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap();
        let name = ServerName::try_from("registry.test").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(IN_2030));
        let verified = by_root.verify_server_cert(leaf, &[], &name, &[], now);
        verified.map(|_| ())
    }

    #[test]
    fn signatures_of_all_hashes_are_verified() {
        let leaves = CertificateDer::pem_slice_iter(LEAVES).collect::<Result<Vec<_>, _>>();
        let leaves = leaves.unwrap();
        assert_eq!(leaves.len(), 3);
        for leaf in leaves {
            verify(&leaf).unwrap();
            // The signature comes last.
            let mut changed = leaf.to_vec();
            *changed.last_mut().unwrap() ^= 1;
            let error = verify(&changed.into()).unwrap_err();
            assert_eq!(
                error,
                Error::InvalidCertificate(CertificateError::BadSignature)
            );
        }
    }

    #[test]
    fn handshakes_may_be_signed_with_p521() {
        let schemes = algorithms().supported_schemes();
        assert!(schemes.contains(&SignatureScheme::ECDSA_NISTP521_SHA512));
    }
}
