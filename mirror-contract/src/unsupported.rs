//! Images that cannot be mirrored.

use core::fmt;

/// Why a valid image reference cannot be looked up or mirrored. Displayed as a sentence for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// The registry is an IPv6 address, which cannot be part of a repository name.
    Ipv6Host,
    /// The name of the copy would be longer than [`crate::MAX_REPOSITORY`].
    TooLong,
    /// The digest is longer than [`crate::MAX_TAG`], as every SHA-512 digest is.
    LongDigest,
    /// The tag has the form of an anchor tag ([`crate::naming::anchor_tag`]); a copy would overwrite the anchor.
    ReservedTag,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv6Host => "registries with an IPv6 address are not supported; use a host name",
            Self::TooLong => "the name is too long (at most 255 characters with the registry)",
            Self::LongDigest => "sha512 digests are not supported, they do not fit into a tag",
            Self::ReservedTag => "tags of the form sha256-….mirror are reserved for image-mirror",
        })
    }
}

impl core::error::Error for Unsupported {}
