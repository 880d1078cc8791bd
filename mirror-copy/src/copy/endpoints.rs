//! Where an image is copied from, and where to.

use crate::reference::TagOrDigest;
use crate::registry::Registry;
use oci_spec::image::Digest;

/// Where an image is copied from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The registry.
    pub registry: Registry,
    /// The repository in it, such as `library/nginx`.
    pub repository: String,
    /// What to copy. A tag is resolved once, at the beginning.
    pub reference: TagOrDigest,
}

/// Where an image is copied to. With neither tag nor anchor it is pushed by digest only, and the
/// registry's garbage collection may take it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The registry.
    pub registry: Registry,
    /// The repository in it.
    pub repository: String,
    /// The tag to give to the copy; written last of all.
    pub tag: Option<String>,
    /// Makes one more tag from the copy's digest; written just before `tag`. It holds the digest
    /// when `tag` moves on.
    pub anchor: Option<fn(&Digest) -> String>,
}
