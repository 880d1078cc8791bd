//! Which workloads use which images.

use serde_json::{Value, json};

use crate::manifests::Kind;
use testkit::image::{Image, SizedLayer};

/// Layers that images of different repositories share.
const BASES: usize = 3;
/// Bytes of a shared layer, and of a layer of one image.
const BASE_LAYER: u64 = 128 << 10;
const OWN_LAYER: u64 = 24 << 10;
/// Seeds of layers and images must not meet.
const BASE_SEED: u64 = 1_000_000;

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Namespaces.
    pub namespaces: usize,
    /// Workloads that somebody wrote; those of controllers come on top.
    pub workloads: usize,
    /// Images that they use.
    pub images: usize,
}

/// What there shall be.
pub struct Plan {
    /// How many namespaces there are.
    pub namespaces: usize,
    /// The images.
    pub images: Vec<PlannedImage>,
    /// The workloads.
    pub workloads: Vec<PlannedWorkload>,
    seed: u64,
}

/// An image, and how workloads name it.
pub struct PlannedImage {
    /// What it is.
    pub content: Image,
    /// The repository upstream.
    pub path: String,
    /// The tag upstream; also of images that are named by their digest.
    pub tag: String,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Tag,
    Digest,
    Both,
}

/// A workload as somebody wrote it.
pub struct PlannedWorkload {
    /// Its kind.
    pub kind: Kind,
    /// The number of its namespace.
    pub namespace: usize,
    /// Its name, which no other one has.
    pub name: String,
    /// The numbers of its images; each container has one.
    pub images: Vec<usize>,
    has_init: bool,
}

impl Scale {
    /// The whole drill.
    pub const FULL: Self = Self {
        namespaces: 10,
        workloads: 60,
        images: 40,
    };
    /// The same in small: every kind and every form of reference.
    pub const SMALL: Self = Self {
        namespaces: 3,
        workloads: 16,
        images: 10,
    };
}

impl Plan {
    /// The same plan for the same scale and seed. Every image is used.
    ///
    /// # Panics
    /// When the scale has a zero in it.
    #[must_use]
    pub fn new(scale: Scale, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let images = (0..scale.images).map(|number| PlannedImage::new(number, seed));
        let workloads = (0..scale.workloads).map(|number| {
            let mut images = vec![number % scale.images];
            for _ in 0..random.usize(0..=2) {
                images.push(random.usize(0..scale.images));
            }
            PlannedWorkload {
                // With a step, so that a kind is not always in the same namespaces.
                kind: Kind::ALL[number % Kind::ALL.len()],
                namespace: (number + number / Kind::ALL.len()) % scale.namespaces,
                name: format!("app-{number}"),
                has_init: images.len() > 1 && random.bool(),
                images,
            }
        });
        Self {
            namespaces: scale.namespaces,
            workloads: workloads.collect(),
            images: images.collect(),
            seed,
        }
    }

    /// Plans one more workload with an image of its own; gives its number.
    pub fn add(&mut self, kind: Kind, namespace: usize) -> usize {
        let image = self.images.len();
        self.images.push(PlannedImage::new(image, self.seed));
        let number = self.workloads.len();
        self.workloads.push(PlannedWorkload {
            kind,
            namespace,
            name: format!("app-{number}"),
            images: vec![image],
            has_init: false,
        });
        number
    }
}

impl PlannedImage {
    fn new(number: usize, seed: u64) -> Self {
        let n = number as u64;
        let own = seed.wrapping_mul(10_000).wrapping_add(n);
        let content = match number % 6 {
            0 => on_shared_base(number, own, &[own, own + 5_000]),
            1 => Image::index(own),
            2 => on_shared_base(number, own, &[own]),
            3 => Image::with_attestations(own),
            4 => Image::docker_list(own),
            _ => Image::docker(own),
        };
        Self {
            content,
            path: format!("team-{}/app_{number}", number % 4),
            tag: format!("v{}.{number}", number % 3),
            form: match number % 5 {
                3 => Form::Digest,
                4 => Form::Both,
                _ => Form::Tag,
            },
        }
    }

    /// How workloads name it when it is in the registry `host:port`.
    #[must_use]
    pub fn reference(&self, host: &str) -> String {
        let Self {
            content, path, tag, ..
        } = self;
        match self.form {
            Form::Tag => format!("{host}/{path}:{tag}"),
            Form::Digest => format!("{host}/{path}@{}", content.digest()),
            Form::Both => format!("{host}/{path}:{tag}@{}", content.digest()),
        }
    }
}

impl PlannedWorkload {
    /// Its manifest. `references` are those of all images of the plan.
    #[must_use]
    pub fn manifest(&self, references: &[String], batch: &str) -> Value {
        let container = |(place, image): (usize, &usize)| {
            let image = references.get(*image);
            json!({ "name": format!("c{place}"), "image": image })
        };
        let mut containers: Vec<Value> = self.images.iter().enumerate().map(container).collect();
        let mut spec = json!({});
        if self.has_init {
            spec["initContainers"] = json!([containers.pop()]);
        }
        spec["containers"] = json!(containers);
        self.kind.manifest(&self.name, spec, batch)
    }
}

/// An index with an image of one platform for each seed, all on a layer that other images have too.
fn on_shared_base(number: usize, seed: u64, platforms: &[u64]) -> Image {
    let base = SizedLayer::new(BASE_SEED + (number % BASES) as u64, BASE_LAYER);
    let layers = |own: &u64| vec![base.clone(), SizedLayer::new(*own, OWN_LAYER)];
    match platforms {
        [_] => Image::of_layers(&layers(&seed)),
        many => Image::of_platforms(&many.iter().map(layers).collect::<Vec<_>>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_image_kind_and_namespace_is_used_and_seeds_repeat() {
        let plan = Plan::new(Scale::FULL, 7);
        let used: BTreeSet<_> = plan.workloads.iter().flat_map(|w| &w.images).collect();
        assert_eq!(used.len(), Scale::FULL.images);
        let places: BTreeSet<_> = plan.workloads.iter().map(|w| w.namespace).collect();
        assert_eq!(places.len(), Scale::FULL.namespaces);
        let kinds: BTreeSet<_> = plan.workloads.iter().map(|w| w.kind).collect();
        assert_eq!(kinds.len(), Kind::ALL.len());
        let digests: BTreeSet<_> = plan.images.iter().map(|i| i.content.digest()).collect();
        assert_eq!(digests.len(), Scale::FULL.images, "images must differ");
        assert!(plan.workloads.iter().any(|w| w.has_init));

        let references: Vec<_> = plan.images.iter().map(|i| i.reference("r:1")).collect();
        let again = Plan::new(Scale::FULL, 7);
        for (one, other) in plan.workloads.iter().zip(&again.workloads) {
            assert_eq!(
                one.manifest(&references, "batch/v1"),
                other.manifest(&references, "batch/v1")
            );
        }
    }
}
