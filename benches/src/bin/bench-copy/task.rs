//! The images that a contender copies, and between which registries.

use std::path::PathBuf;

/// An image to copy, as references that name the registry.
pub struct Pair {
    pub source: String,
    pub target: String,
}

/// The work of a contender.
pub struct Task {
    pub pairs: Vec<Pair>,
    /// `host:port` of both registries.
    pub source: String,
    pub target: String,
    /// The certificate authority of both registries if they use HTTPS.
    pub ca: Option<PathBuf>,
    /// Copy signatures and other referrers, too.
    pub referrers: bool,
    /// A new folder for caches and configuration.
    pub folder: PathBuf,
    /// The blobs of the images, for the limit, which knows no images.
    pub blobs: Vec<Blob>,
}

/// A blob to move.
pub struct Blob {
    pub source_repository: String,
    pub target_repository: String,
    pub digest: String,
    pub size: u64,
}
