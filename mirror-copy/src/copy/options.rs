//! What a caller may choose about one copy.

/// How one copy is done.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions {
    /// How much is in flight at once.
    pub concurrency: Concurrency,
    /// Whether a manifest that the target has under the right digest is taken as complete, with
    /// everything below it. Registries check that when a manifest is pushed. `false` looks at every
    /// blob again and pushes every manifest again: for a target that may have lost something.
    pub trust_present: bool,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            concurrency: Concurrency::default(),
            trust_present: true,
        }
    }
}

/// How much of one copy is in flight at once; 0 counts as 1.
#[derive(Clone, Copy, Debug)]
pub struct Concurrency {
    /// Blobs. Memory grows by some hundred KiB with each.
    pub blobs: usize,
    /// Manifests.
    pub manifests: usize,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            blobs: 8,
            manifests: 8,
        }
    }
}
