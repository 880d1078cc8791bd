//! What becomes of the copies of images in use, when copies, tags, originals and registries come and go.

use std::time::{Duration, Instant};

use e2e_tests::cluster::{self, Cluster, Namespace};
use mirror_contract::naming::anchor_tag;
use mirror_contract::{Backup, Digest, ImageRef, Naming};
use rstest::rstest;
use serde_json::json;
use testkit::image::{Image, pull_all};

use crate::manifests::Kind;
use crate::support::{REPOSITORY, World};

/// How long anything here may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// A sidecar that looks at everything every two seconds, beside a cluster and between two registries.
struct Scene {
    world: World,
    namespace: Namespace,
    backup: Backup,
}

impl Scene {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Self {
        let namespace = cluster.namespace("reconciler").unwrap();
        let account = cluster
            .sidecar_account(&namespace, "mirror-sidecar")
            .unwrap();
        let world = World::with(|mut sidecar| {
            for argument in ["--kubernetes=watch", "--recheck-interval=2s"]
                .iter()
                .chain(arguments)
            {
                sidecar = sidecar.argument(argument);
            }
            sidecar.environment("KUBECONFIG", account.kubeconfig())
        });
        let backup = Backup::new(&world.backup.address(), REPOSITORY, Naming::Flat).unwrap();
        Self {
            world,
            namespace,
            backup,
        }
    }

    /// The reference of an original in `shop/<name>`.
    fn original(&self, name: &str) -> String {
        format!("{}/shop/{name}:1", self.world.upstream.localhost())
    }

    fn copy_of(&self, name: &str) -> ImageRef<'static> {
        let original = ImageRef::parse(&self.original(name)).unwrap().into_owned();
        self.backup.target(&original).unwrap()
    }

    fn push(&self, name: &str, image: &Image) {
        let upstream = self.world.upstream.client();
        image.push(&upstream, &format!("shop/{name}"), "1").unwrap();
    }

    /// Runs a Deployment of an image, which may not be there.
    fn deploy(&self, name: &str, image: &str) {
        let spec = json!({ "containers": [{ "name": "app", "image": image }] });
        let manifest = Kind::Deployment.manifest(name, spec, "batch/v1");
        self.namespace.apply(&manifest).unwrap();
    }

    /// Runs a Deployment of an image that is put upstream, and waits for the copy.
    fn run(&self, name: &str, image: &Image) {
        self.push(name, image);
        self.deploy(name, &self.original(name));
        self.wait_for_copy(name, image);
    }

    /// Waits until the copy is this image, byte for byte, by its tag and by its anchor.
    fn wait_for_copy(&self, name: &str, image: &Image) {
        self.wait(&format!("the copy of {name}"), || {
            self.tagged(name, "1").as_deref() == Some(&image.digest())
                && self.tagged(name, &anchor_of(image)).as_deref() == Some(&image.digest())
        });
        let client = self.world.backup.client();
        let copy = self.copy_of(name);
        for reference in ["1", &anchor_of(image)] {
            let pulled = pull_all(&client, copy.path(), reference).unwrap();
            assert_eq!(pulled, image.expected(), "{reference}");
        }
    }

    /// The digest that a tag in the backup stands for.
    fn tagged(&self, name: &str, tag: &str) -> Option<String> {
        let client = self.world.backup.client();
        let found = client.manifest(self.copy_of(name).path(), tag).unwrap();
        found.map(|document| document.digest())
    }

    /// The value of a metric.
    fn metric(&self, line: &str) -> u64 {
        let (_, text) = self.world.sidecar.admin_get("/metrics").unwrap();
        let value = text.lines().find_map(|found| found.strip_prefix(line));
        let value = value.unwrap_or_else(|| panic!("no {line}: {text}"));
        value.trim().parse().unwrap()
    }

    fn backup_checks(&self, result: &str) -> u64 {
        self.metric(&format!(
            "image_mirror_backup_checks_total{{result=\"{result}\"}}"
        ))
    }

    fn upstream_checks(&self, result: &str) -> u64 {
        self.metric(&format!(
            "image_mirror_upstream_checks_total{{result=\"{result}\"}}"
        ))
    }

    fn wait_for_log(&self, message: &str, image: &str) -> serde_json::Value {
        let canonical = ImageRef::parse(image).unwrap().to_string();
        let wanted = |event: &serde_json::Value| {
            event["message"] == message && event["image"] == canonical.as_str()
        };
        self.world.sidecar.wait_for(DEADLINE, wanted).unwrap()
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            let log = || self.world.sidecar.lines().join("\n");
            assert!(
                start.elapsed() < DEADLINE,
                "{what} did not come:\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn anchor_of(image: &Image) -> String {
    let digest = image.digest();
    anchor_tag(&Digest::parse(&digest).unwrap())
}

/// After a rewrite workloads name copies only, and the original must be known all the same.
#[rstest]
#[case::original(false)]
#[case::copy(true)]
fn a_copy_that_is_deleted_comes_back(#[case] is_rewritten: bool) {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let scene = Scene::start(&cluster, &[]);
    let image = Image::index(1);
    scene.run("app", &image);
    if is_rewritten {
        scene.deploy("app", &scene.copy_of("app").to_string());
    }
    let client = scene.world.backup.client();
    let path = scene.copy_of("app").path().to_owned();
    client.delete_manifest(&path, &image.digest()).unwrap();
    scene.wait_for_log(
        "copy is gone from the backup and is restored; find out what deletes it there",
        &scene.original("app"),
    );
    scene.wait_for_copy("app", &image);
    // What the policy would be told was right the whole time, but for what it may remember.
    assert_eq!(scene.backup_checks("unavailable"), 0);
}

#[test]
fn a_lost_anchor_is_put_back_without_the_original() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let mut scene = Scene::start(&cluster, &[]);
    let image = Image::index(1);
    scene.run("app", &image);
    scene.world.upstream.stop();
    let path = scene.copy_of("app").path().to_owned();
    let client = scene.world.backup.client();
    Image::single(2)
        .push(&client, &path, &anchor_of(&image))
        .unwrap();
    scene.wait_for_copy("app", &image);
    scene.wait("the count", || scene.backup_checks("repaired") >= 1);
    assert_eq!(scene.metric("image_mirror_last_copies"), 0);
}

/// A garbage collection that went wrong: the anchor went, and with it an image that only the index names.
#[test]
fn a_copy_with_a_hole_is_made_whole_again() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let scene = Scene::start(&cluster, &[]);
    let image = Image::index(1);
    scene.run("app", &image);
    let path = scene.copy_of("app").path().to_owned();
    let client = scene.world.backup.client();
    let child = image.manifests()[0].digest();
    assert_ne!(child, image.digest());
    client.delete_manifest(&path, &child).unwrap();
    Image::single(2)
        .push(&client, &path, &anchor_of(&image))
        .unwrap();
    scene.wait_for_copy("app", &image);
}

#[test]
fn a_copy_follows_its_tag_and_the_old_one_stays() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let scene = Scene::start(&cluster, &[]);
    let (old, new) = (Image::index(1), Image::index(2));
    scene.run("app", &old);
    scene.push("app", &new);
    scene.wait_for_copy("app", &new);
    let client = scene.world.backup.client();
    let pulled = pull_all(&client, scene.copy_of("app").path(), &anchor_of(&old)).unwrap();
    assert_eq!(pulled, old.expected());
    assert_eq!(scene.upstream_checks("updated"), 1);
    // It is quiet afterwards.
    let before = scene.upstream_checks("current");
    scene.wait("two more looks", || {
        scene.upstream_checks("current") >= before + 2
    });
    assert_eq!(scene.upstream_checks("updated"), 1);
}

#[test]
fn a_copy_can_be_kept_when_its_tag_moves() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let scene = Scene::start(&cluster, &["--on-moved-tag=keep"]);
    let old = Image::index(1);
    scene.run("app", &old);
    scene.push("app", &Image::index(2));
    scene.wait("the notice of the move", || {
        scene.metric("image_mirror_kept_tags") == 1
    });
    let before = scene.upstream_checks("kept");
    scene.wait("two more looks", || {
        scene.upstream_checks("kept") >= before + 2
    });
    assert_eq!(scene.tagged("app", "1"), Some(old.digest()));
    assert_eq!(scene.upstream_checks("updated"), 0);
}

#[test]
fn the_last_copy_is_told_until_the_original_is_back() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let scene = Scene::start(&cluster, &[]);
    let image = Image::index(1);
    scene.run("app", &image);
    let upstream = scene.world.upstream.client();
    upstream
        .delete_manifest("shop/app", &image.digest())
        .unwrap();
    scene.wait_for_log(
        "the original of an image in use is gone; the copy is the last one",
        &scene.original("app"),
    );
    scene.wait("the figure", || {
        scene.metric("image_mirror_last_copies") == 1
    });
    assert!(scene.upstream_checks("gone") >= 2);
    scene.wait_for_copy("app", &image);
    scene.push("app", &image);
    scene.wait("the end of the alarm", || {
        scene.metric("image_mirror_last_copies") == 0
    });
}

#[test]
fn a_registry_that_is_down_has_lost_nothing() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let mut scene = Scene::start(&cluster, &[]);
    let image = Image::index(1);
    scene.run("app", &image);
    scene.world.upstream.stop();
    scene.wait("a look in vain", || scene.upstream_checks("unknown") >= 1);
    // It is left alone then, and the copy is looked at all the same.
    scene.wait("one that is spared", || {
        scene.upstream_checks("throttled") >= 1
    });
    let before = scene.backup_checks("present");
    scene.wait("two more looks", || {
        scene.backup_checks("present") >= before + 2
    });
    assert_eq!(scene.upstream_checks("gone"), 0);
    assert_eq!(scene.metric("image_mirror_last_copies"), 0);
    scene.wait_for_copy("app", &image);
}

#[test]
fn an_outage_of_the_backup_is_waited_for() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let mut scene = Scene::start(&cluster, &[]);
    let (first, second) = (Image::index(1), Image::index(2));
    scene.run("first", &first);
    scene.world.backup.stop();
    scene.wait("a look in vain", || scene.backup_checks("unavailable") >= 1);
    scene.push("second", &second);
    scene.deploy("second", &scene.original("second"));
    let missing = scene.backup_checks("missing");
    scene.world.backup.restart().unwrap();
    scene.wait_for_copy("second", &second);
    let before = scene.backup_checks("present");
    scene.wait("two more looks", || {
        scene.backup_checks("present") >= before + 2
    });
    // Only the new one was ever missing; other tests' images are not copied from here, and are never there.
    assert!(scene.backup_checks("missing") > missing);
    let events = scene.world.sidecar.events();
    let is_gone = |event: &&serde_json::Value| {
        event["message"]
            == "copy is gone from the backup and is restored; find out what deletes it there"
    };
    assert_eq!(events.iter().find(is_gone), None);
    scene.wait_for_copy("first", &first);
}

#[test]
fn an_image_that_cannot_be_copied_stops_no_other() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let scene = Scene::start(&cluster, &["--parallel-copies=1"]);
    scene.deploy("absent", &scene.original("absent"));
    let told = scene.wait_for_log("copy failed", &scene.original("absent"));
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("the source does not have it"), "{reason}");
    scene.run("app", &Image::index(1));
    for state in ["failed", "mirrored"] {
        let figure = format!("image_mirror_images_in_use{{state=\"{state}\"}}");
        scene.wait(&figure, || scene.metric(&figure) >= 1);
    }
    // An image of the backup that nobody can make is reported as well.
    let foreign = format!("{}/{REPOSITORY}/own:1", scene.world.backup.address());
    scene.deploy("own", &foreign);
    let told = scene.wait_for_log("image in use is not mirrored", &foreign);
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("not in the backup"), "{reason}");
}

/// Whoever may write to the backup cannot put something else into the cluster for long.
#[rstest]
#[case::the_original_is_there(false)]
#[case::the_original_is_gone(true)]
fn a_copy_that_somebody_changed_is_what_it_was_again(#[case] is_gone: bool) {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let scene = Scene::start(&cluster, &[]);
    let image = Image::index(1);
    scene.run("app", &image);
    if is_gone {
        let upstream = scene.world.upstream.client();
        upstream
            .delete_manifest("shop/app", &image.digest())
            .unwrap();
    }
    let before = scene.backup_checks("present");
    scene.wait("a look", || scene.backup_checks("present") > before);
    let client = scene.world.backup.client();
    let path = scene.copy_of("app").path().to_owned();
    Image::single(7).push(&client, &path, "1").unwrap();
    scene.wait_for_log(
        "copy in the backup was changed by somebody else; find out who pushes there",
        &scene.original("app"),
    );
    scene.wait_for_copy("app", &image);
    assert_eq!(scene.backup_checks("changed"), 1);
    let (by_copy, by_tag) = (
        scene.upstream_checks("updated"),
        scene.backup_checks("repaired"),
    );
    assert_eq!((by_copy, by_tag), if is_gone { (0, 1) } else { (1, 0) });
}
