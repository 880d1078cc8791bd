//! What the sidecar reports about images in the targets of rewrites, against scripted registries.

use crate::support::registries;
use axum::http::Method;
use mirror_contract::{Backup, ImageRef, ImageStatus, Mode, Naming, Refusal, RefusalKind};
use mirror_sidecar::cluster::Policies;
use mirror_sidecar::cluster::policies::Policy;
use mirror_sidecar::locations::Locations;
use mirror_sidecar::target_lookup::{TargetLookup, TargetRegistries};
use rstest::rstest;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::scripted::{Action, Fake, Image, Latch, image, noise};

const DEADLINE: Duration = Duration::from_mins(1);

struct Scene {
    target: Fake,
    backup: Fake,
    image: Image,
    policies: Policies,
    lookup: TargetLookup,
}

impl Scene {
    /// The target has `hub/library/nginx:1`, and a policy names `hub`.
    async fn new() -> Self {
        let (target, backup) = (Fake::start().await, Fake::start().await);
        let image = image(1, &[noise(1, 3000)]);
        target.put_tagged("hub/library/nginx", "1", &image);
        let registries = registries(&[&target, &backup]);
        let place = Backup::new(&backup.host(), "acme", Naming::Flat).unwrap();
        let images = Locations::new(place, &registries, registries.clone()).unwrap();
        let policies = Policies::default();
        let rule = json!({
            "images": ["docker.io/*"], "action": "rewrite", "target": format!("{}/hub", target.host()),
        });
        let settings = json!({"sidecar": "mirror-sidecar.svc:5000", "rules": [rule]});
        let policy = Policy::of_settings(&settings).unwrap();
        policies.publish(vec![Arc::new(policy)]);
        let lookup = TargetLookup::new(
            TargetRegistries::new(registries, []),
            Arc::new(images),
            policies.clone(),
        );
        Self {
            target,
            backup,
            image,
            policies,
            lookup,
        }
    }

    fn named(&self, path_and_version: &str) -> ImageRef<'static> {
        let name = format!("{}/{path_and_version}", self.target.host());
        name.parse().unwrap()
    }

    fn nginx(&self) -> ImageRef<'static> {
        self.named("hub/library/nginx:1")
    }

    async fn ask(&self, image: &ImageRef<'static>) -> Result<String, RefusalKind> {
        self.ask_as(image, Mode::Ensure).await
    }

    async fn ask_as(&self, image: &ImageRef<'static>, mode: Mode) -> Result<String, RefusalKind> {
        match self.lookup.image(image, mode).await {
            Ok(ImageStatus::Mirrored {
                image: found,
                digest,
                secret: None,
            }) => {
                assert_eq!(found, *image);
                Ok(digest.to_string())
            }
            Ok(other) => panic!("{other:?}"),
            Err(Refusal { kind, reason }) => {
                assert!(!reason.contains("backup registry"), "{reason}");
                Err(kind)
            }
        }
    }

    async fn wait(&self, image: &ImageRef<'static>) -> String {
        let start = Instant::now();
        loop {
            if let Ok(digest) = self.ask(image).await {
                return digest;
            }
            assert!(start.elapsed() < DEADLINE);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The methods of all requests to manifests, in order. There are no others, but those for `/v2/`.
    fn requests(&self) -> Vec<String> {
        assert!(self.backup.log().is_empty(), "{:?}", self.backup.log());
        let log = self.target.log().into_iter();
        let log = log.filter(|entry| entry.path != "/v2/");
        log.inspect(|entry| assert!(entry.path.contains("/manifests/"), "{entry:?}"))
            .map(|entry| entry.method.to_string())
            .collect()
    }
}

#[tokio::test]
async fn an_image_of_the_target_is_seen_and_nothing_is_written() {
    let scene = Scene::new().await;
    let digest = scene.image.digest().to_string();
    let expected = Ok(digest.clone());
    assert_eq!(scene.wait(&scene.nginx()).await, digest);
    // The manifest was read, so that a cache has it. It is read once.
    assert_eq!(scene.requests(), ["HEAD", "GET"]);
    assert_eq!(scene.ask(&scene.nginx()).await, expected);
    assert_eq!(scene.ask_as(&scene.nginx(), Mode::Peek).await, expected);
    assert_eq!(scene.requests().len(), 2);
    let by_digest = scene.named(&format!("hub/library/nginx@{digest}"));
    assert_eq!(scene.wait(&by_digest).await, digest);
    let other = format!("hub/library/nginx@sha256:{}", "0".repeat(64));
    assert_eq!(
        scene.ask(&scene.named(&other)).await,
        Err(RefusalKind::Failed)
    );
    assert!(
        scene
            .requests()
            .iter()
            .all(|method| method == "HEAD" || method == "GET")
    );
}

/// A pull-through cache that has to get the image first.
#[rstest]
#[case::of_the_reference(Method::HEAD)]
#[case::of_the_manifest(Method::GET)]
#[tokio::test]
async fn a_slow_target_is_pending_and_its_response_counts(#[case] slow: Method) {
    let scene = Scene::new().await;
    let latch = Latch::closed();
    let late = Action::Late(latch.clone(), None);
    scene.target.fault(slow.clone(), "nginx", 1, late);
    for _ in 0..2 {
        assert_eq!(scene.ask(&scene.nginx()).await, Err(RefusalKind::Pending));
        let dry_run = scene.ask_as(&scene.nginx(), Mode::Peek).await;
        assert_eq!(dry_run, Err(RefusalKind::Pending));
    }
    assert_eq!(scene.target.count(&slow, "nginx"), 1);
    latch.open();
    scene.wait(&scene.nginx()).await;
    assert_eq!(scene.requests(), ["HEAD", "GET"]);
}

#[rstest]
#[case::missing(404, RefusalKind::Failed)]
#[case::needs_a_login(401, RefusalKind::Unavailable)]
#[case::denied(403, RefusalKind::Unavailable)]
#[case::broken(503, RefusalKind::Unavailable)]
#[tokio::test]
async fn a_target_without_the_image_is_not_asked_again_at_once(
    #[case] status: u16,
    #[case] expected: RefusalKind,
) {
    // Those of one lookup, which repeats a request that failed.
    const MOST_REQUESTS: usize = 10;
    let scene = Scene::new().await;
    for method in [Method::HEAD, Method::GET] {
        let challenge = ("www-authenticate", "Basic realm=\"test\"".to_owned());
        let headers = (status == 401).then_some(challenge).into_iter().collect();
        let action = Action::Status(status, headers, "");
        scene.target.fault(method, "nginx", usize::MAX, action);
    }
    let start = Instant::now();
    while scene.ask(&scene.nginx()).await != Err(expected) {
        assert!(start.elapsed() < DEADLINE);
    }
    for mode in [Mode::Ensure, Mode::Peek].repeat(10) {
        assert_eq!(scene.ask_as(&scene.nginx(), mode).await, Err(expected));
    }
    assert!(scene.requests().len() <= MOST_REQUESTS);
}

#[tokio::test]
async fn a_dry_run_makes_no_cache_read_an_image() {
    let scene = Scene::new().await;
    let start = Instant::now();
    while scene.ask_as(&scene.nginx(), Mode::Peek).await.is_err() {
        assert!(start.elapsed() < DEADLINE);
    }
    assert!(scene.requests().iter().all(|method| method == "HEAD"));
}

/// Otherwise anybody who reaches the facade could have any registry probed.
#[tokio::test]
async fn only_targets_of_policies_are_asked() {
    let scene = Scene::new().await;
    let digest = scene.image.digest().to_string();
    scene.target.put_tagged("other/nginx", "1", &scene.image);
    let other = scene.named("other/nginx:1");
    let in_backup: ImageRef<'static> = format!("{}/acme/x:1", scene.backup.host()).parse().unwrap();
    for mode in [Mode::Ensure, Mode::Peek] {
        assert_eq!(scene.ask_as(&other, mode).await, Err(RefusalKind::Failed));
        let reply = scene.ask_as(&in_backup, mode).await;
        assert_eq!(reply, Err(RefusalKind::Failed));
    }
    assert_eq!(scene.requests(), [""; 0]);
    // Without policies in force the sidecar cannot know the targets.
    scene.policies.publish(Vec::new());
    assert_eq!(scene.ask(&in_backup).await, Err(RefusalKind::Failed));
    assert_eq!(scene.wait(&other).await, digest);
}
