//! A backup registry that shows each copy and loses it again.

use std::time::{Duration, Instant};

use axum::http::Method;
use e2e_tests::cluster::{self, Cluster, Namespace};
use serde_json::json;
use testkit::blocking;
use testkit::scripted::{Fake, Image, image, index, noise};
use testkit::sidecar::Sidecar;

use crate::manifests::Kind;
use crate::readmission::shop::figure;
use crate::rights::events;
use crate::support::REPOSITORY;

/// Losses after which the sidecar backs off (`lookup/losses.rs`).
const PATIENCE: usize = 5;

/// How long anything may take on a busy machine; the pause is 30 seconds.
const DEADLINE: Duration = Duration::from_mins(2);

/// A Deployment of one image, and a sidecar that checks its copy every two seconds.
struct Scene {
    sidecar: Sidecar,
    upstream: Fake,
    backup: Fake,
    namespace: Namespace,
}

impl Scene {
    fn start(cluster: &Cluster) -> Self {
        Self::with(cluster, &[image(1, &[noise(1, 100)])])
    }

    /// The Deployment's image is the last of these.
    fn with(cluster: &Cluster, images: &[Image]) -> Self {
        let namespace = cluster.namespace("losing").unwrap();
        let account = cluster
            .sidecar_account(&namespace, "mirror-sidecar")
            .unwrap();
        let (upstream, backup) =
            blocking::run(async { (Fake::start().await, Fake::start().await) });
        let sidecar = Sidecar::builder()
            .argument(format!("--registry={}", backup.host()))
            .argument(format!("--repository={REPOSITORY}"))
            .insecure_registry(&backup.host())
            .insecure_registry(&upstream.host())
            .argument("--kubernetes=on")
            .argument("--readmit=off")
            .argument("--recheck-interval=2s")
            .environment("KUBECONFIG", account.kubeconfig());
        let original = format!("{}/shop/app:1", upstream.host());
        for image in images {
            upstream.put_tagged("shop/app", "1", image);
        }
        let spec = json!({ "containers": [{ "name": "app", "image": original }] });
        let deployment = Kind::Deployment.manifest("app", spec, "batch/v1");
        namespace.apply(&deployment).unwrap();
        Self {
            sidecar: sidecar.start().unwrap(),
            upstream,
            backup,
            namespace,
        }
    }

    fn count(&self, message: &str) -> usize {
        let mut events = self.sidecar.events();
        events.retain(|event| {
            let text = event["message"].as_str().unwrap_or_default();
            text.starts_with(message)
        });
        events.len()
    }

    fn copies(&self) -> usize {
        self.count("copied image")
    }

    fn uploads(&self) -> usize {
        self.backup.count(&Method::PUT, "/manifests/")
    }

    fn checks(&self, result: &str) -> usize {
        figure(
            &self.sidecar,
            &format!("backup_checks_total{{result=\"{result}\"}}"),
        )
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            let log = self.sidecar.lines();
            assert!(start.elapsed() < DEADLINE, "{what}:\n{}", log.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_rounds(&self, result: &str) {
        let checks = self.checks(result);
        self.wait("three more checks", |scene| {
            scene.checks(result) >= checks + 3
        });
    }

    /// Waits until there are so many copies, and the last one was seen.
    fn wait_for_copies(&self, copies: usize) {
        self.wait("a copy", |scene| scene.copies() == copies);
        let seen = self.checks("present");
        self.wait("a check that sees it", |scene| {
            scene.checks("present") > seen
        });
    }
}

/// A clean-up rule removes all tags and manifests.
fn lose_everything(registry: &Fake) {
    let mut state = registry.state();
    state.tags.clear();
    state.manifests.clear();
}

#[test]
fn copies_that_are_lost_again_and_again_are_one_warning_and_pauses() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let scene = Scene::start(&cluster);
    for round in 1..=PATIENCE {
        scene.wait_for_copies(round);
        lose_everything(&scene.backup);
    }
    let losses = "copy is gone from the backup and is restored; find out what deletes it there";
    scene.wait("the last loss", |scene| scene.count(losses) == PATIENCE);
    // Each manifest has two tags.
    let uploads = scene.uploads();
    assert_eq!(uploads, 2 * PATIENCE);
    scene.wait_for_rounds("missing");
    assert_eq!((scene.copies(), scene.uploads()), (PATIENCE, uploads));
    let warning = "the backup registry loses copies; check its clean-up";
    assert_eq!(scene.count(warning), 1);

    // The pause ends, and a copy that is kept stays the last one.
    scene.wait_for_copies(PATIENCE + 1);
    scene.wait_for_rounds("present");
    assert_eq!(scene.copies(), PATIENCE + 1);
    assert_eq!(scene.count(warning), 1);
}

/// The rounds after it find the same, which is not logged again.
#[test]
fn a_restored_tag_and_a_missing_part_are_one_warning_each() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let child = image(1, &[noise(1, 100)]);
    let scene = Scene::with(&cluster, &[child.clone(), index(&[&child])]);
    scene.wait_for_copies(1);

    let mut state = scene.backup.state();
    state.tags.retain(|(_, tag), _| tag != "1");
    drop(state);
    let restored = "the backup registry lost or changed this tag and it was restored";
    scene.wait("the tag", |scene| scene.checks("repaired") == 1);
    scene.wait_for_rounds("present");
    assert_eq!(scene.count(restored), 1);

    lose_everything(&scene.upstream);
    let lost = child.digest().to_string();
    let mut state = scene.backup.state();
    state.manifests.retain(|(_, digest), _| *digest != lost);
    drop(state);
    let lacks_parts = "the copy in the backup lacks parts and is restored";
    scene.wait_for_rounds("incomplete");
    assert_eq!(scene.count(lacks_parts), 1);
    assert_eq!(scene.count(restored), 1);
}

#[test]
fn an_image_without_original_and_copy_is_counted_and_reported_at_its_workload() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let scene = Scene::start(&cluster);
    scene.wait_for_copies(1);
    let stored = {
        let state = scene.backup.state();
        (state.tags.clone(), state.manifests.clone())
    };
    lose_everything(&scene.upstream);
    lose_everything(&scene.backup);
    scene.wait("the Event", |scene| {
        !events(&scene.namespace, "ImageLost").is_empty()
    });
    let lost = events(&scene.namespace, "ImageLost");
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0]["type"], "Warning");
    let regarding = &lost[0]["regarding"];
    assert_eq!(
        (&regarding["kind"], &regarding["name"]),
        (&json!("Deployment"), &json!("app"))
    );
    let note = lost[0]["note"].as_str().unwrap();
    assert!(
        note.contains("the next Pod that has to pull it cannot start"),
        "{note}"
    );
    scene.wait("the figure", |scene| {
        figure(&scene.sidecar, "last_copies") == 1
    });
    // Somebody restores the backup.
    {
        let mut state = scene.backup.state();
        (state.tags, state.manifests) = stored;
    }
    scene.wait("the end of the alarm", |scene| {
        figure(&scene.sidecar, "last_copies") == 0
    });
}
