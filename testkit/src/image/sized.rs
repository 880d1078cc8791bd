//! Images of layers whose number and sizes the caller chooses: shapes to measure with.

use serde_json::json;

use super::build::{OCI, descriptor, platform_json};
use super::layer::BigLayer;
use super::{Blob, Content, Image};

/// Platforms for images of many: what the official images on public registries are built for.
const PLATFORMS: [(&str, Option<&str>); 8] = [
    ("amd64", None),
    ("arm64", Some("v8")),
    ("arm", Some("v7")),
    ("arm", Some("v5")),
    ("386", None),
    ("ppc64le", None),
    ("riscv64", None),
    ("s390x", None),
];

/// A genuine gzip layer of a chosen size, made anew each time it is read. It can be shared by images.
#[derive(Debug, Clone)]
pub struct SizedLayer {
    blob: Blob,
    diff_id: String,
}

impl SizedLayer {
    /// A layer with `bytes` of incompressible data (and less than 1 % around them), the same for the same seed.
    #[must_use]
    pub fn new(seed: u64, bytes: u64) -> Self {
        let layer = BigLayer {
            seed,
            length: bytes,
        };
        let (digest, size) = layer.measure();
        Self {
            blob: Blob {
                digest,
                size,
                content: Content::Big(layer),
            },
            diff_id: layer.diff_id(),
        }
    }
}

impl Image {
    /// The greatest number of platforms of [`Image::of_platforms`].
    pub const MOST_PLATFORMS: usize = PLATFORMS.len();

    /// A single OCI image of these layers.
    #[must_use]
    pub fn of_layers(layers: &[SizedLayer]) -> Self {
        let mut image = Self::empty();
        image.manifest(OCI, PLATFORMS[0], parts(layers));
        image
    }

    /// An OCI index with an image for each list of layers; lists beyond [`Image::MOST_PLATFORMS`] are left out.
    #[must_use]
    pub fn of_platforms(platforms: &[Vec<SizedLayer>]) -> Self {
        let mut image = Self::empty();
        let mut entries = Vec::new();
        for (layers, platform) in platforms.iter().zip(PLATFORMS) {
            let mut entry = descriptor(&image.manifest(OCI, platform, parts(layers)));
            entry["platform"] = platform_json(platform);
            entries.push(entry);
        }
        image.document(
            OCI.list,
            &json!({"schemaVersion": 2, "mediaType": OCI.list, "manifests": entries}),
        );
        image
    }
}

fn parts(layers: &[SizedLayer]) -> Vec<(Blob, String)> {
    layers
        .iter()
        .map(|layer| (layer.blob.clone(), layer.diff_id.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_layers_are_there_once_and_sizes_are_kept() {
        let shared = SizedLayer::new(1, 5000);
        let own = |seed| vec![shared.clone(), SizedLayer::new(seed, 3000)];
        let image = Image::of_platforms(&[own(2), own(3)]);
        // Two configs, one shared layer, two layers of their own; two manifests and the index.
        assert_eq!(image.blobs().count(), 5);
        assert_eq!(image.manifests().len(), 3);
        let layers = image.blobs().filter(|(_, size)| *size > 3000).count();
        assert_eq!(layers, 3);
    }
}
