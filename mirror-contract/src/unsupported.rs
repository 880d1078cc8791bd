//! Why a legal image reference cannot be asked about, or cannot be given a copy.

use core::fmt;

/// A legal image reference that the contract has no words for. The image is then not mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// The registry is an IPv6 literal, which cannot become part of a repository name.
    Ipv6Host,
    /// The name would be longer than a repository may be ([`crate::MAX_REPOSITORY`]).
    TooLong,
    /// The digest is longer than a tag may be ([`crate::MAX_TAG`]), as every SHA-512 digest is.
    LongDigest,
    /// The tag is of the form that anchors a digest in the backup registry; a copy of it would displace the anchor.
    ReservedTag,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv6Host => {
                "a registry that is an IPv6 address cannot be mirrored; give it a name"
            }
            Self::TooLong => {
                "the name is too long to be mirrored (255 characters with its registry)"
            }
            Self::LongDigest => {
                "only sha256 and sha384 digests can be mirrored, others do not fit into a tag"
            }
            Self::ReservedTag => {
                "tags like sha256-….mirror are reserved for image-mirror's own tags"
            }
        })
    }
}

impl core::error::Error for Unsupported {}
