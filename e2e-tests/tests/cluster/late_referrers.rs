//! Signatures that are attached after the copy, as CI does that pushes first and signs then.

use std::time::{Duration, Instant};

use axum::http::Method;
use e2e_tests::cluster::{self, Cluster, Namespace};
use mirror_contract::{Backup, ImageRef, Naming};
use serde_json::json;
use testkit::blocking;
use testkit::scripted::{Action, Fake, Image, blob, image, index, noise, referrer};
use testkit::sidecar::Sidecar;

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

    /// Counts the requests of re-checks that find nothing new: one for the tag, and at most one list and two tags of the
    /// digest. The backup is not asked for referrers, and nothing is copied. Returns the number of lists.
    fn lists_of_checks(&self) -> usize {
        self.wait_for_checks(4);
        self.upstream.clear_log();
        self.backup.clear_log();
        self.wait_for_checks(4);
        let log = self.upstream.log();
        let count = |part: &str| log.iter().filter(|entry| entry.path.contains(part)).count();
        let (checks, lists) = (count("/manifests/1"), count("/referrers/"));
        let tags = count("/manifests/sha256-");
        // A re-check may be under way at either end.
        assert!(lists <= checks + 1, "{log:?}");
        assert!((checks..=2 * checks + 2).contains(&(tags + 1)), "{log:?}");
        assert_eq!(log.len(), checks + lists + tags, "{log:?}");
        let reads = log.iter().filter(|entry| entry.method == Method::GET);
        assert_eq!(reads.count(), lists, "{log:?}");
        let backup = self.backup.log();
        let is_more = |path: &str| path.contains("/referrers/") || path.contains("/tags/");
        assert!(
            !backup.iter().any(|entry| is_more(&entry.path)),
            "{backup:?}"
        );
        assert_eq!(self.backup.count(&Method::PUT, ""), 0);
        lists
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

/// The tag that clients make of the digest of an image.
fn tag_of(image: &Image, suffix: &str) -> String {
    image.digest().to_string().replace(':', "-") + suffix
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
    // Afterwards a re-check is a HEAD for the tag, one list and two HEADs for tags of the digest.
    let lists = scene.lists_of_checks();
    assert!((3..=5).contains(&lists), "{lists}");
}

/// What the copy found out about the host holds for an hour.
#[test]
fn a_registry_without_referrers_is_not_asked_for_them() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let app = image(2, &[noise(2, 1000)]);
    let scene = Scene::start(&cluster, &app, false);
    assert_eq!(scene.lists_of_checks(), 0);
}

#[test]
fn a_later_fallback_tag_is_followed_at_a_recheck() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let app = image(3, &[noise(3, 1000)]);
    let scene = Scene::start(&cluster, &app, false);
    let attached = ["signature", "sbom"];
    let attached = attached.map(|content| referrer(&app, "example/attached", &blob(content)));
    let lists = [index(&[&attached[0]]), index(&[&attached[0], &attached[1]])];
    for (attached, list) in attached.iter().zip(&lists) {
        scene.upstream.put("app", attached);
        scene.upstream.put_tagged("app", &tag_of(&app, ""), list);
        scene.wait("the referrer", || scene.backup.has(&scene.copy, attached));
    }
    assert_eq!(scene.lists_of_checks(), 0);
}

#[test]
fn later_cosign_tags_are_followed_at_a_recheck() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let app = image(4, &[noise(4, 1000)]);
    let scene = Scene::start(&cluster, &app, false);
    // The second signature replaces the manifest of the first one, as cosign does.
    let suffixes = [".sig", ".sig", ".att", ".sbom"];
    for (seed, suffix) in (5..).zip(suffixes) {
        let attached = image(seed, &[noise(seed, 100)]);
        let tag = tag_of(&app, suffix);
        scene.upstream.put_tagged("app", &tag, &attached);
        let digest = attached.digest().to_string();
        let is_there = || scene.backup.tag(&scene.copy, &tag).as_ref() == Some(&digest);
        scene.wait(suffix, is_there);
    }
    assert_eq!(scene.lists_of_checks(), 0);
}

/// Requests for tags of the digest that fail or hang keep no re-check, and no other referrer, from ending.
#[test]
fn tags_of_a_digest_that_cannot_be_read_hold_nothing_back() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let app = image(9, &[noise(9, 1000)]);
    let scene = Scene::start(&cluster, &app, true);
    let fails = |suffix, action: Action| {
        let (tag, forever) = (tag_of(&app, suffix), usize::MAX);
        for method in [Method::HEAD, Method::GET] {
            scene.upstream.fault(method, &tag, forever, action.clone());
        }
    };
    fails(".sig", Action::Status(500, Vec::new(), ""));
    scene.wait_for_checks(3);
    let attached = referrer(&app, "example/attached", &blob("signature"));
    scene.upstream.put("app", &attached);
    scene.wait("the list", || scene.backup.has(&scene.copy, &attached));
    scene.upstream.forget_faults();
    fails("", Action::Hang);
    scene.wait_for_checks(2);
    // The host is known not to respond to them, so none is waited for any more.
    scene.upstream.clear_log();
    scene.wait_for_checks(3);
    let tags = scene.upstream.count(&Method::HEAD, &tag_of(&app, ""));
    assert_eq!(tags, 0, "{:?}", scene.upstream.log());
}
