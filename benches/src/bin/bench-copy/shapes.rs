//! What is copied: the rows of the tables.

use clap::ValueEnum;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use testkit::image::{Image, SizedLayer};
use testkit::registry::{Document, RegistryClient};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Shape {
    /// One large layer
    Big,
    /// Some large layers
    Layers,
    /// Many small layers
    Tiny,
    /// An index of platforms that share layers
    Platforms,
    /// The many small layers once more
    Recopy,
    /// Images on shared bases, as tags of one repository
    OneRepo,
    /// The same images, each in a repository of its own
    ManyRepos,
    /// An image with signatures and the like that refer to it
    Referrers,
}

/// How large the shapes are.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    big: u64,
    layers: u64,
    layer: u64,
    tiny: u64,
    platforms: usize,
    platform_layer: u64,
    images: u64,
    base_layer: u64,
    referrers: u64,
}

impl Scale {
    /// What the figures are published for.
    pub const FULL: Self = Self {
        big: 1024 * MIB,
        layers: 20,
        layer: 50 * MIB,
        tiny: 200,
        platforms: Image::MOST_PLATFORMS,
        platform_layer: 10 * MIB,
        images: 500,
        base_layer: 2 * MIB,
        referrers: 20,
    };
    /// Enough to see that the bench works.
    pub const QUICK: Self = Self {
        big: 32 * MIB,
        layers: 4,
        layer: 4 * MIB,
        tiny: 20,
        platforms: 3,
        platform_layer: MIB,
        images: 5,
        base_layer: 256 * KIB,
        referrers: 3,
    };
}

/// Size of each of the many small layers.
const TINY_LAYER: u64 = 100 * KIB;
/// Layers of a platform that all platforms share (half as large as the others), and those that it has alone.
const PLATFORM_LAYERS: (u64, u64) = (2, 4);
/// Layers that all images on a base share.
const BASE_LAYERS: u64 = 5;
/// The layer of an image on a base that it has alone.
const OWN_LAYER: u64 = 64 * KIB;
/// Size of each artifact that refers to an image: about that of a signature.
const REFERRER: usize = 4 << 10;
const REFERRER_TYPE: &str = "application/vnd.example.signature";

/// An image with its name in the source registry.
pub struct Named {
    pub repository: String,
    pub tag: String,
    pub image: Image,
    /// Artifacts that have the image as their subject.
    pub referrers: Vec<Image>,
}

impl Shape {
    /// All rows, in the order of the tables.
    pub const ALL: [Self; 8] = [
        Self::Big,
        Self::Layers,
        Self::Tiny,
        Self::Platforms,
        Self::Recopy,
        Self::OneRepo,
        Self::ManyRepos,
        Self::Referrers,
    ];

    /// The name of the row.
    pub fn title(self, scale: &Scale) -> String {
        let images = scale.images;
        match self {
            Self::Big => format!("1 × {}", size(scale.big)),
            Self::Layers => format!("{} × {}", scale.layers, size(scale.layer)),
            Self::Tiny => format!("{} × {}", scale.tiny, size(TINY_LAYER)),
            Self::Platforms => format!("index of {} platforms", scale.platforms),
            Self::Recopy => format!("re-copy of {} × {}", scale.tiny, size(TINY_LAYER)),
            Self::OneRepo => format!("{images} images, one repository"),
            Self::ManyRepos => format!("{images} images, {images} repositories"),
            Self::Referrers => format!("image with {} referrers", scale.referrers),
        }
    }

    /// What exactly is copied.
    pub fn description(self, scale: &Scale) -> String {
        let (shared, own) = PLATFORM_LAYERS;
        match self {
            Self::Big | Self::Layers | Self::Tiny => "an image of that many layers".to_owned(),
            Self::Platforms => format!(
                "each with {shared} shared layers of {} and {own} of its own of {}",
                size(scale.platform_layer / 2),
                size(scale.platform_layer)
            ),
            Self::Recopy => "the destination has all of it already, from the same tool".to_owned(),
            Self::OneRepo | Self::ManyRepos => format!(
                "each with {BASE_LAYERS} base layers of {} that all share, and one of its own of {}",
                size(scale.base_layer),
                size(OWN_LAYER)
            ),
            Self::Referrers => {
                "an image of 3 layers of 1 MiB; the registry has no referrers API, so the fallback tag lists them"
                    .to_owned()
            }
        }
    }

    /// Makes the images.
    pub fn images(self, scale: &Scale) -> Vec<Named> {
        let layers = |count, bytes| {
            (1..=count)
                .map(|seed| SizedLayer::new(seed, bytes))
                .collect()
        };
        let single = |layers: Vec<_>| vec![named("bench/image", "1.0", Image::of_layers(&layers))];
        match self {
            Self::Big => single(layers(1, scale.big)),
            Self::Layers => single(layers(scale.layers, scale.layer)),
            Self::Tiny | Self::Recopy => single(layers(scale.tiny, TINY_LAYER)),
            Self::Platforms => vec![named("bench/image", "1.0", platforms(scale))],
            Self::OneRepo => many(scale, |number| {
                ("bench/image".into(), format!("1.{number}"))
            }),
            Self::ManyRepos => many(scale, |number| {
                (format!("bench/image-{number}"), "1.0".into())
            }),
            Self::Referrers => vec![with_referrers(scale)],
        }
    }
}

fn named(repository: impl Into<String>, tag: impl Into<String>, image: Image) -> Named {
    Named {
        repository: repository.into(),
        tag: tag.into(),
        image,
        referrers: Vec::new(),
    }
}

fn platforms(scale: &Scale) -> Image {
    let (shared, own) = PLATFORM_LAYERS;
    let shared: Vec<_> = (1..=shared)
        .map(|seed| SizedLayer::new(seed, scale.platform_layer / 2))
        .collect();
    let platforms: Vec<_> = (1..=scale.platforms as u64)
        .map(|platform| {
            let own =
                (1..=own).map(|seed| SizedLayer::new(100 * platform + seed, scale.platform_layer));
            shared.iter().cloned().chain(own).collect()
        })
        .collect();
    Image::of_platforms(&platforms)
}

/// Images on one base, each named by its number.
fn many(scale: &Scale, name: impl Fn(u64) -> (String, String)) -> Vec<Named> {
    let base: Vec<_> = (1..=BASE_LAYERS)
        .map(|seed| SizedLayer::new(seed, scale.base_layer))
        .collect();
    (1..=scale.images)
        .map(|number| {
            let mut layers = base.clone();
            layers.push(SizedLayer::new(1000 + number, OWN_LAYER));
            let (repository, tag) = name(number);
            named(repository, tag, Image::of_layers(&layers))
        })
        .collect()
}

fn with_referrers(scale: &Scale) -> Named {
    let layers: Vec<_> = (1..=3).map(|seed| SizedLayer::new(seed, MIB)).collect();
    let mut image = named("bench/image", "1.0", Image::of_layers(&layers));
    image.referrers = (0..scale.referrers)
        .map(|number| {
            let content = format!("{number:04}").repeat(REFERRER / 4);
            Image::referrer(image.image.root(), REFERRER_TYPE, content.as_bytes())
        })
        .collect();
    image
}

impl Named {
    /// Puts the image into the source registry. Blobs that repository `first` has are mounted from there.
    pub fn push(&self, registry: &RegistryClient, first: &str) -> anyhow::Result<()> {
        if self.repository != first {
            self.mount(registry, first)?;
        }
        self.image.push(registry, &self.repository, &self.tag)?;
        for referrer in &self.referrers {
            referrer.push(registry, &self.repository, &referrer.digest())?;
        }
        if let Some(index) = self.referrers_index() {
            registry.push_manifest(&self.repository, &self.fallback_tag(), &index)?;
        }
        Ok(())
    }

    /// The tag under which a registry without a referrers API lists what refers to the image
    /// (OCI distribution specification 1.1, "Referrers Tag Schema").
    pub fn fallback_tag(&self) -> String {
        self.image.digest().replace(':', "-")
    }

    /// The list of what refers to the image, if there is anything.
    pub fn referrers_index(&self) -> Option<Document> {
        let entries: Vec<_> = self
            .referrers
            .iter()
            .map(|referrer| {
                let document = referrer.root();
                json!({
                    "mediaType": document.media_type,
                    "digest": document.digest(),
                    "size": document.bytes.len(),
                    "artifactType": REFERRER_TYPE,
                })
            })
            .collect();
        let media_type = testkit::image::media_type::OCI_INDEX;
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
        (!entries.is_empty()).then(|| Document {
            media_type: media_type.to_owned(),
            bytes: index.to_string().into(),
        })
    }

    /// Spares the upload of what the registry has. Whatever it answers, the push that follows finds out.
    fn mount(&self, registry: &RegistryClient, from: &str) -> anyhow::Result<()> {
        testkit::blocking::run(async {
            for (digest, _) in self.image.blobs() {
                let path = format!(
                    "/v2/{}/blobs/uploads/?mount={digest}&from={from}",
                    self.repository
                );
                registry.request(Method::POST, &path).send().await?;
            }
            Ok(())
        })
    }
}

/// A size in the largest unit that needs no fraction.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    UNITS
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes} B"),
            |(unit, name)| format!("{} {name}", bytes / unit),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_by_their_sizes() {
        let titles = Shape::ALL.map(|shape| shape.title(&Scale::FULL));
        assert_eq!(titles[0], "1 × 1 GiB");
        assert_eq!(titles[1], "20 × 50 MiB");
        assert_eq!(titles[4], "re-copy of 200 × 100 KiB");
    }

    #[test]
    fn images_on_a_base_share_it() {
        let images = Shape::ManyRepos.images(&Scale::QUICK);
        let layers = |named: &Named| {
            named
                .image
                .blobs()
                .map(|(digest, _)| digest.to_owned())
                .collect::<Vec<_>>()
        };
        let (first, second) = (layers(&images[0]), layers(&images[1]));
        let shared = first
            .iter()
            .filter(|digest| second.contains(digest))
            .count();
        assert_eq!(shared as u64, BASE_LAYERS);
        assert_ne!(images[0].repository, images[1].repository);
    }
}
