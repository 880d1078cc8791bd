//! Digests as registries send them.

use crate::hash::Hasher;
use oci_spec::image::Digest;

/// Longest digest, in bytes. A sha512 has 135.
pub(super) const MAX_DIGEST: usize = 256;

/// Reads a digest that a registry sent, of any algorithm. Its characters are those of the OCI image specification
/// (descriptor.md, "Digests"), so that it can be part of addresses and messages.
pub(crate) fn parse_digest(text: &str) -> Option<Digest> {
    if text.len() > MAX_DIGEST {
        return None;
    }
    text.parse().ok()
}

/// Whether content can be checked against this digest. The grammar of digests alone allows for much:
/// `1.27:alpine` is one. With a known algorithm the rest has that algorithm's length.
pub(crate) fn is_verifiable(digest: &Digest) -> bool {
    Hasher::for_digest(digest).is_some()
}
