//! Signatures that are attached after the copy, as CI does that pushes first and signs then.

use std::time::{Duration, Instant};

use axum::http::Method;
use e2e_tests::blocking;
use e2e_tests::cluster::{self, Cluster, Namespace};
use e2e_tests::scripted::{Fake, Image, blob, image, noise, referrer};
use e2e_tests::sidecar::Sidecar;
use mirror_contract::{Backup, ImageRef, Naming};
use serde_json::json;

use crate::manifests::Kind;
use crate::support::REPOSITORY;

/// How long anything here may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// A sidecar that re-checks every second, two scripted registries, and a Deployment whose image is copied.
struct Scene {
    _namespace: Namespace,
    upstream: Fake,
    backup: Fake,
    sidecar: Sidecar,
    /// The repository of the copy.
    copy: String,
}

impl Scene {
    fn start(cluster: &Cluster, app: &Image, has_api: bool) -> Self {
        let namespace = cluster.namespace("referrers").unwrap();
        let account = cluster
            .sidecar_account(&namespace, "mirror-sidecar")
            .unwrap();
        let (upstream, backup) =
            blocking::run(async { (Fake::start().await, Fake::start().await) });
        upstream.put_tagged("app", "1", app);
        upstream.set(|knobs| knobs.referrers = has_api);
        let sidecar = Sidecar::builder()
            .argument("--registry")
            .argument(backup.host())
            .argument("--repository")
            .argument(REPOSITORY)
            .insecure_registry(&backup.host())
            .insecure_registry(&upstream.host())
            .argument("--kubernetes=watch")
            .argument("--recheck-interval=1s")
            .environment("KUBECONFIG", account.kubeconfig())
            .start()
            .unwrap();
        let original = format!("{}/app:1", upstream.host());
        let spec = json!({ "containers": [{ "name": "app", "image": original }] });
        let manifest = Kind::Deployment.manifest("app", spec, "batch/v1");
        namespace.apply(&manifest).unwrap();
        let target = Backup::new(&backup.host(), REPOSITORY, Naming::Flat).unwrap();
        let target = target.target(&ImageRef::parse(&original).unwrap()).unwrap();
        let scene = Self {
            _namespace: namespace,
            upstream,
            backup,
            sidecar,
            copy: target.path().to_owned(),
        };
        scene.wait("the copy", || scene.backup.tag(&scene.copy, "1").is_some());
        scene
    }

    fn current(&self) -> u64 {
        let (_, text) = self.sidecar.admin_get("/metrics").unwrap();
        let name = "image_mirror_upstream_checks_total{result=\"current\"}";
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap().trim().parse().unwrap()
    }

    /// Waits until the original was checked so many times more.
    fn wait_for_checks(&self, count: u64) {
        let before = self.current();
        self.wait("the checks", || self.current() >= before + count);
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            let log = || self.sidecar.lines().join("\n");
            assert!(
                start.elapsed() < DEADLINE,
                "{what} did not come:\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_later_signature_is_copied_at_a_recheck() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let app = image(1, &[noise(1, 1000)]);
    let scene = Scene::start(&cluster, &app, true);
    for content in ["signature", "sbom"] {
        let attached = referrer(&app, "example/attached", &blob(content));
        scene.upstream.put("app", &attached);
        scene.wait(content, || scene.backup.has(&scene.copy, &attached));
    }
    // Afterwards a re-check is a look at the tag and one list.
    scene.wait_for_checks(2);
    scene.upstream.clear_log();
    scene.backup.clear_log();
    scene.wait_for_checks(3);
    let lists = scene.upstream.count(&Method::GET, "/referrers/");
    let all = scene.upstream.log().len();
    assert!((2..=5).contains(&lists), "{lists}");
    assert!(all <= 2 * lists + 1, "{all}: {:?}", scene.upstream.log());
    assert_eq!(scene.backup.count(&Method::GET, "/referrers/"), 0);
    assert_eq!(scene.backup.count(&Method::PUT, ""), 0);
}

/// What the copy found out about the host holds for an hour.
#[test]
fn a_registry_without_referrers_is_not_asked_for_them() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let app = image(2, &[noise(2, 1000)]);
    let scene = Scene::start(&cluster, &app, false);
    scene.upstream.clear_log();
    scene.wait_for_checks(3);
    assert_eq!(scene.upstream.count(&Method::GET, "/referrers/"), 0);
    assert_eq!(scene.upstream.count(&Method::GET, "/tags/"), 0);
}
