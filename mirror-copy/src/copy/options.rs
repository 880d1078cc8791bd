//! What the caller of a copy chooses: source, target and options.

use crate::platform::Platform;
use crate::reference::TagOrDigest;
use crate::registry::Registry;
use oci_spec::image::Digest;
use std::collections::HashSet;

/// The image to copy.
#[derive(Clone, Debug)]
pub struct Source {
    /// The registry that has it.
    pub registry: Registry,
    /// The repository in it, such as `library/nginx`.
    pub repository: String,
    /// The tag or digest to copy. A tag is resolved once, at the beginning.
    pub reference: TagOrDigest,
}

/// Where an image is copied to. With neither tag nor anchor it is pushed by digest only, and the registry's garbage
/// collection may delete it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The registry that is written to.
    pub registry: Registry,
    /// The repository in it.
    pub repository: String,
    /// The tag of the copy, written last of all.
    pub tag: Option<String>,
    /// Derives a second tag from the digest of the copy, written just before `tag`. It protects the digest from garbage
    /// collection when `tag` moves on.
    pub anchor: Option<fn(&Digest) -> String>,
}

/// How one copy is done. Concurrency is no option: it adapts to the registries.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a choice of its own, as flags of a command are"
)]
pub struct CopyOptions {
    /// Trust a manifest that the target has under the right digest to be complete, with everything below it and about
    /// it. Registries check that when a manifest is pushed. `false` checks every blob, pushes every manifest and looks
    /// for new signatures: for a target that may have lost something, or a source that may have got more.
    pub trust_present: bool,
    /// Copy referrers (signatures, SBOMs, attestations) and the digest tags of cosign as well.
    pub referrers: bool,
    /// A digest tag that is no statement about the image and is not copied: the [`Target::anchor`] of this program's own
    /// copies.
    pub ignored_digest_tag: Option<fn(&Digest) -> String>,
    /// Copy these platforms only; all of them if empty. The copy of an image with several platforms then has **another
    /// digest** than the original.
    pub platforms: Vec<Platform>,
    /// Fetch foreign layers from the addresses in their manifest, without credentials, and push them too. Otherwise they
    /// are left where they are.
    pub foreign_layers: bool,
    /// Accept an index that names manifests which the source does not have. They are left out, and the index is pushed
    /// unchanged; not every registry accepts that.
    pub allow_sparse: bool,
    /// Maximum size in bytes of the blobs of all platforms and referrers together. Each blob counts once, also if the target
    /// may have it already. Nothing of a larger image is sent. Referrers that do not fit into the rest are left out.
    pub max_bytes: Option<u64>,
    /// Blobs that the target serves with wrong content, or claims to have and does not have. They are sent without asking
    /// whether it has them. A registry may still skip such an upload.
    pub resend: HashSet<Digest>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            trust_present: true,
            referrers: true,
            ignored_digest_tag: None,
            platforms: Vec::new(),
            foreign_layers: false,
            allow_sparse: false,
            max_bytes: None,
            resend: HashSet::new(),
        }
    }
}
