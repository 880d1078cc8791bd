//! Reduces an image to the wanted platforms, on request only: the result has another digest.

use super::error::CopyError;
use super::job::Job;
use crate::hash::Hasher;
use crate::json;
use crate::manifest::{self, Contents, Descriptor, MAX_DESCRIPTORS};
use crate::reference::TagOrDigest;
use crate::registry::Manifest;
use oci_spec::image::Digest;
use std::collections::HashSet;

impl Job<'_> {
    /// Returns the image with the wanted platforms only: the one manifest that matches, or a smaller index of all that
    /// match, with the attestations about them. An image without platforms is returned unchanged.
    pub(super) async fn only_wanted(&self, root: Manifest) -> Result<Manifest, CopyError> {
        let object = self.source.object(&format!("@{}", root.digest));
        let contents = manifest::read(&root.bytes, &root.media_type);
        let contents = contents.map_err(|source| CopyError::Manifest {
            object: object.clone(),
            source,
        })?;
        if contents.children.is_empty() {
            return Ok(root);
        }
        let wanted: Vec<&Descriptor> = contents
            .children
            .iter()
            .filter(|child| self.wants(child))
            .collect();
        let missing = self.options.platforms.iter().find(|platform| {
            let mut offered = wanted.iter().filter_map(|child| child.platform.as_ref());
            !offered.any(|offered| platform.accepts(offered))
        });
        if let Some(platform) = missing {
            return Err(CopyError::NoSuchPlatform {
                object,
                platform: platform.clone(),
                offered: offered(&contents),
            });
        }
        if let [only] = wanted.as_slice() {
            let by_digest = TagOrDigest::Digest(only.digest.clone());
            let manifest = self.source.manifest(&by_digest).await;
            return manifest.map_err(CopyError::Source);
        }
        let kept: HashSet<&Digest> = wanted.iter().map(|child| &child.digest).collect();
        let about_kept = |child: &&Descriptor| {
            let describes = child.annotations.describes.as_deref();
            describes.is_some_and(|digest| kept.iter().any(|kept| kept.as_ref() == digest))
        };
        let attestations = contents.children.iter().filter(about_kept);
        let kept = kept
            .iter()
            .copied()
            .chain(attestations.map(|child| &child.digest));
        smaller(&root, &contents.media_type, &kept.collect()).ok_or(CopyError::Limit {
            object,
            limit: "its index cannot be made smaller",
        })
    }

    fn wants(&self, child: &Descriptor) -> bool {
        let offered = child.platform.as_ref();
        let mut wanted = self.options.platforms.iter();
        child.annotations.describes.is_none()
            && offered.is_some_and(|offered| wanted.any(|wanted| wanted.accepts(offered)))
    }
}

/// Returns the platforms of an image for an error, cut to what fits into a line.
fn offered(contents: &Contents) -> String {
    const SHOWN: usize = 20;
    let mut names: Vec<String> = contents
        .children
        .iter()
        .filter(|child| child.annotations.describes.is_none())
        .filter_map(|child| child.platform.as_ref())
        .map(|platform| crate::text::clean(&platform.to_string()))
        .collect();
    names.dedup();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// Returns the index with these manifests only; all other fields stay.
fn smaller(root: &Manifest, media_type: &str, kept: &HashSet<&Digest>) -> Option<Manifest> {
    let bytes = json::with_list::<MAX_DESCRIPTORS>(
        &root.bytes,
        "manifests",
        |entry| Descriptor::read(entry).is_ok_and(|entry| kept.contains(&entry.digest)),
        &[],
    )?;
    let digest = Hasher::sha256().of(&bytes).parse().ok()?;
    Some(Manifest {
        bytes: bytes.into(),
        media_type: media_type.to_owned(),
        digest,
    })
}
