//! What the sidecar's catalog believes about copies that lost parts, against scripted registries.

use crate::support::{anchor_of, registries};
use e2e_tests::scripted::{Fake, Image, digest_of, image, index, noise};
use mirror_contract::{Backup, ImageAnswer, ImageRef, Mode, Naming};
use mirror_sidecar::catalog::Catalog;
use mirror_sidecar::images::Images;
use mirror_sidecar::metrics::Metrics;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

struct Scene {
    upstream: Fake,
    backup: Fake,
    /// The index, and its two platforms.
    images: [Image; 3],
}

impl Scene {
    async fn new() -> Self {
        let (upstream, backup) = (Fake::start().await, Fake::start().await);
        let platforms = [1, 2].map(|seed| image(seed, &[noise(seed, 3000)]));
        let root = index(&[&platforms[0], &platforms[1]]);
        for platform in &platforms {
            upstream.put("app", platform);
        }
        upstream.put_tagged("app", "v1", &root);
        let [first, second] = platforms;
        Self {
            upstream,
            backup,
            images: [root, first, second],
        }
    }

    fn place(&self) -> Backup {
        Backup::new(&self.backup.host(), "acme", Naming::Flat).unwrap()
    }

    fn image(&self) -> ImageRef<'static> {
        let name = format!("{}/app:v1", self.upstream.host());
        name.parse().unwrap()
    }

    /// A sidecar that has just started.
    fn catalog(&self) -> Catalog {
        let registries = registries(&[&self.upstream, &self.backup]);
        let images = Images::new(self.place(), &registries, registries.clone()).unwrap();
        let parallel = NonZeroUsize::new(2).unwrap();
        Catalog::new(Arc::new(images), parallel, Metrics::new())
    }

    fn repository(&self) -> String {
        let copy = self.place().target(&self.image()).unwrap();
        copy.path().to_owned()
    }

    /// A clean-up rule removes a manifest and everything that names it.
    fn lose_manifest(&self, image: &Image) {
        let digest = image.digest().to_string();
        let mut state = self.backup.state();
        state
            .manifests
            .retain(|(_, reference), _| *reference != digest);
        state.tags.retain(|_, found| *found != digest);
    }

    fn lose_tag(&self, tag: &str) {
        let key = (self.repository(), tag.to_owned());
        self.backup.state().tags.remove(&key);
    }

    fn lose_layer(&self, image: &Image) {
        let layer = digest_of(&image.blobs[1]);
        self.backup.lose_blob(&self.repository(), &layer);
    }

    fn is_whole(&self) -> bool {
        let repository = self.repository();
        let mut images = self.images.iter();
        images.all(|image| self.backup.has(&repository, image))
    }
}

async fn is_mirrored(catalog: &Catalog, image: &ImageRef<'static>) -> bool {
    let answer = catalog.image(image, Mode::Ensure).await;
    matches!(answer, Ok(ImageAnswer::Mirrored { .. }))
}

async fn wait(catalog: &Catalog, image: &ImageRef<'static>) {
    let start = Instant::now();
    while !is_mirrored(catalog, image).await {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The tags are gone, a platform, and a layer of the other platform, which the copy believes to be complete.
#[tokio::test]
async fn what_a_copy_believes_is_checked_before_it_counts() {
    let scene = Scene::new().await;
    let image = scene.image();
    wait(&scene.catalog(), &image).await;
    let [root, first, second] = &scene.images;
    scene.lose_tag("v1");
    scene.lose_tag(&anchor_of(&root.digest()));
    scene.lose_layer(first);
    scene.lose_manifest(second);
    wait(&scene.catalog(), &image).await;
    assert!(scene.is_whole());
}

/// The tag is gone and a layer, and the anchor is there: the copy puts back the tag alone.
#[tokio::test]
async fn a_tag_that_is_put_back_does_not_count_as_a_copy() {
    let scene = Scene::new().await;
    let image = scene.image();
    wait(&scene.catalog(), &image).await;
    scene.lose_tag("v1");
    scene.lose_layer(&scene.images[1]);
    wait(&scene.catalog(), &image).await;
    assert!(scene.is_whole());
}
