//! Digests: parsing those of registries, and computing them.

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::Digest as _;
use std::fmt::Write as _;

/// A running hash in one of the algorithms registered by the OCI image specification
/// (descriptor.md, "Registered Algorithms"); sha384 is not registered there but has a fixed meaning.
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Returns the hasher for the algorithm of a digest, or `None` if it is not supported.
    pub(crate) fn for_digest(digest: &Digest) -> Option<Self> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Some(Self::sha256()),
            DigestAlgorithm::Sha384 => Some(Self::Sha384(sha2::Sha384::new())),
            DigestAlgorithm::Sha512 => Some(Self::Sha512(sha2::Sha512::new())),
            _ => None,
        }
    }

    pub(crate) fn sha256() -> Self {
        Self::Sha256(sha2::Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest as `algorithm:hex`.
    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => written("sha256", &hasher.finalize()),
            Self::Sha384(hasher) => written("sha384", &hasher.finalize()),
            Self::Sha512(hasher) => written("sha512", &hasher.finalize()),
        }
    }

    /// Returns the digest of these bytes as `algorithm:hex`.
    pub(crate) fn of(mut self, bytes: &[u8]) -> String {
        self.update(bytes);
        self.finish()
    }
}

/// Returns the sha256 digest of these bytes as `sha256:hex`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Hasher::sha256().of(bytes)
}

fn written(algorithm: &str, sum: &[u8]) -> String {
    let mut text = String::with_capacity(algorithm.len() + 1 + 2 * sum.len());
    text.push_str(algorithm);
    text.push(':');
    for byte in sum {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Maximum length of a digest, in bytes. A sha512 has 135.
pub(crate) const MAX_DIGEST: usize = 256;

/// Parses a digest of a registry, with any algorithm. Its characters are those of the OCI image specification
/// (descriptor.md, "Digests"), so that it can be part of URLs and messages.
pub(crate) fn parse_digest(text: &str) -> Option<Digest> {
    if text.len() > MAX_DIGEST {
        return None;
    }
    text.parse().ok()
}

/// Returns whether content can be verified with this digest. The grammar alone allows `1.27:alpine`; with a known algorithm
/// the rest has the length of that algorithm.
pub(crate) fn is_verifiable(digest: &Digest) -> bool {
    Hasher::for_digest(digest).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    #[case(
        "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
    )]
    fn the_empty_input_has_its_published_digest(#[case] digest: Digest) {
        let hasher = Hasher::for_digest(&digest).unwrap();
        assert_eq!(hasher.of(b""), digest.as_ref());
    }

    #[test]
    fn an_unknown_algorithm_cannot_be_verified() {
        assert!(Hasher::for_digest(&"blake3:abcd".parse().unwrap()).is_none());
    }
}
