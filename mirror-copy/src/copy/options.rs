//! What a caller may choose about one copy.

use crate::platform::Platform;

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a choice of its own, as flags of a command are"
)]
/// How one copy is done. How much is in flight at once is no choice: the engine finds out.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Whether a manifest that the target has under the right digest is taken as complete, with
    /// everything below it and about it. Registries check that when a manifest is pushed. `false` looks
    /// at every blob again, pushes every manifest again and looks for new signatures: for a target that
    /// may have lost something, or a source that may have got more.
    pub trust_present: bool,
    /// Whether what refers to the image comes along: referrers (signatures, SBOMs, attestations), and
    /// what is found under cosign's digest tags.
    pub referrers: bool,
    /// Copy these platforms only; all of them if empty. The copy of an image with several platforms then
    /// has **another digest** than the original.
    pub platforms: Vec<Platform>,
    /// Whether foreign layers are fetched from the addresses that their manifest gives, without
    /// credentials, and sent to the target as well. Otherwise they stay where they are.
    pub foreign_layers: bool,
    /// Whether an index may name manifests that the source does not have. They are then left out, and
    /// the index is pushed as it is; not every registry takes that.
    pub allow_sparse: bool,
    /// The most that the blobs of all platforms, and of all that refers to the image, may have together, in bytes; each
    /// counts once, and so do those that the target may already have. Nothing of a larger image is sent. What refers to
    /// the image is left out if it does not fit into the rest.
    pub max_bytes: Option<u64>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            trust_present: true,
            referrers: true,
            platforms: Vec::new(),
            foreign_layers: false,
            allow_sparse: false,
            max_bytes: None,
        }
    }
}
