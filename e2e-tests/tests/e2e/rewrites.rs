//! Rewrites to a real pull-through cache: the real policy and the real sidecar, without a cluster.

use std::io::Write as _;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::fixtures;
use testkit::host::PolicyHost;
use testkit::image::{Image, pull_all};
use testkit::registry::{
    Credential, DebianOptions, DebianRegistry, Registry, start_registry, start_registry_with,
};
use testkit::sidecar::Sidecar;

use crate::support::{COPY_DEADLINE, REPOSITORY, policy, warnings};

struct Scene {
    upstream: Box<dyn Registry>,
    backup: Box<dyn Registry>,
    cache: DebianRegistry,
    sidecar: Sidecar,
    host: PolicyHost,
    /// With the settings that the sidecar reads.
    _folder: TempDir,
}

impl Scene {
    /// `None` without Debian's registry: the embedded one is no cache.
    fn start() -> Option<Self> {
        if !DebianRegistry::is_installed() {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: docker-registry is not installed, so there is no pull-through cache"
            );
            return None;
        }
        let upstream = start_registry().unwrap();
        let backup = start_registry_with(Some(Credential::new("pusher", "p4ss word"))).unwrap();
        let cache = DebianRegistry::start_with(DebianOptions {
            cache_of: Some(format!("http://{}", upstream.address())),
            ..DebianOptions::default()
        });
        let cache = cache.unwrap();
        let folder = testkit::scratch::folder("image-mirror-rewrites-").unwrap();
        let file = folder.path().join("settings.json");
        let rules = rules(upstream.as_ref(), &cache);
        let settings = json!({ "sidecar": "mirror-sidecar.svc:5000", "rules": rules });
        std::fs::write(&file, settings.to_string()).unwrap();
        let sidecar = Sidecar::builder()
            .registry(backup.as_ref(), REPOSITORY)
            .insecure_registry(&upstream.localhost())
            .insecure_registry(&cache.localhost())
            .argument(format!("--policy-settings={}", file.display()))
            .argument("--pull-secret=image-mirror-pull");
        let sidecar = sidecar.start().unwrap();
        let host = policy(&sidecar);
        Some(Self {
            upstream,
            backup,
            cache,
            sidecar,
            host,
            _folder: folder,
        })
    }

    fn settings(&self) -> Value {
        let rules = rules(self.upstream.as_ref(), &self.cache);
        json!({ "sidecar": self.sidecar.facade(), "timeBudgetMs": 20_000, "rules": rules })
    }

    /// A Pod that uses an image of the upstream registry.
    fn review(&self, image: &str) -> Value {
        let mut review = fixtures::load("pod-create");
        let image = format!("{}/{image}", self.upstream.localhost());
        fixtures::replace_images(&mut review, &mut |_| Some(image.clone()));
        review
    }
}

fn rules(upstream: &dyn Registry, cache: &DebianRegistry) -> Value {
    let images = format!("{}/*", upstream.localhost());
    json!([{ "images": [images], "action": "rewrite", "target": cache.localhost() }])
}

#[test]
fn workloads_use_the_cache_and_nothing_is_copied() {
    let Some(scene) = Scene::start() else {
        return;
    };
    let image = Image::index(1);
    image
        .push(&scene.upstream.client(), "team/app", "v1")
        .unwrap();
    let review = scene.review("team/app:v1");
    let start = Instant::now();
    let mutated = loop {
        let evaluation = scene.host.evaluate(&review, &scene.settings()).unwrap();
        if let Some(mutated) = evaluation.mutated {
            break mutated;
        }
        // The cache is slow.
        let warnings = warnings(&evaluation);
        assert!(warnings[0].contains("is not mirrored yet"), "{warnings:?}");
        assert!(start.elapsed() < COPY_DEADLINE, "{warnings:?}");
    };
    let expected = format!("{}/team/app:v1", scene.cache.localhost());
    assert_eq!(fixtures::images_of(&mutated), [expected]);
    assert_eq!(mutated["spec"]["imagePullSecrets"], Value::Null);

    // As a node would.
    let pulled = pull_all(&scene.cache.client(), "team/app", "v1").unwrap();
    assert_eq!(pulled, image.expected());
    let of_backup = scene.backup.requests().into_iter();
    let of_images: Vec<_> = of_backup.filter(|request| request.path != "/v2/").collect();
    assert!(of_images.is_empty(), "{of_images:?}");
    let cached = scene.cache.requests();
    let reads = ["GET", "HEAD"];
    assert!(
        cached
            .iter()
            .all(|request| reads.contains(&request.method.as_str())),
        "{cached:?}"
    );
}

#[test]
fn an_image_that_the_cache_cannot_get_stays() {
    let Some(scene) = Scene::start() else {
        return;
    };
    let review = scene.review("team/missing:v1");
    let start = Instant::now();
    loop {
        let evaluation = scene.host.evaluate(&review, &scene.settings()).unwrap();
        assert!(evaluation.response.allowed && evaluation.mutated.is_none());
        let warnings = warnings(&evaluation);
        if warnings[0].ends_with("has no such image (rules[0])") {
            return;
        }
        assert!(start.elapsed() < COPY_DEADLINE, "{warnings:?}");
    }
}
