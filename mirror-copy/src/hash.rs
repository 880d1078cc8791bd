//! Digests computed on the fly, with the algorithm that a descriptor names.

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
    /// The hasher for a digest's algorithm, or `None` for one that cannot be verified here.
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

    /// The digest of everything seen, written as `algorithm:hex`.
    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => written("sha256", &hasher.finalize()),
            Self::Sha384(hasher) => written("sha384", &hasher.finalize()),
            Self::Sha512(hasher) => written("sha512", &hasher.finalize()),
        }
    }

    /// The written digest of these bytes.
    pub(crate) fn of(mut self, bytes: &[u8]) -> String {
        self.update(bytes);
        self.finish()
    }
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
