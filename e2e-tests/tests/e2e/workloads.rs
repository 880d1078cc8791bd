//! The main job: workloads of every kind are admitted while the sidecar copies, then use the copies.

use crate::support::{self, World, assert_untouched, warnings};
use rstest::rstest;
use serde_json::{Value, json};
use testkit::fixtures::{self, images_of};

/// A Pod with every field that can name an image.
fn pod_with_everything() -> Value {
    let mut review = fixtures::load("pod-create");
    let spec = &mut review["request"]["object"]["spec"];
    spec["initContainers"] = json!([{ "name": "init", "image": "ghcr.io/acme/init:v1" }]);
    spec["ephemeralContainers"] = json!([{ "name": "debug", "image": "busybox:1.36" }]);
    let volume = json!({ "name": "model", "image": { "reference": "quay.io/acme/model:v3", "pullPolicy": "Always" } });
    match spec["volumes"].as_array_mut() {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
    review
}

#[rstest]
#[case::deployment(fixtures::load("deployment-create"))]
#[case::daemon_set(fixtures::load("daemonset-create"))]
#[case::stateful_set(fixtures::load("statefulset-create"))]
#[case::job(fixtures::load("job-create"))]
#[case::cron_job(fixtures::load("cronjob-create"))]
#[case::pod(pod_with_everything())]
fn a_workload_keeps_its_images_until_they_are_mirrored(#[case] mut review: Value) {
    let mut world = World::start();
    let stock = world.stock(&mut review);
    let before = images_of(&review["request"]["object"]);
    assert!(!before.is_empty());

    let first = world.admit(&review, &world.settings());
    assert_untouched(&first);
    assert!(!warnings(&first).is_empty());
    assert!(
        warnings(&first)
            .iter()
            .all(|line| line.len() <= 120 && !line.contains('\n')),
        "{:?}",
        warnings(&first)
    );

    world.wait_until_copied(stock.keys());
    let second = world.admit(&review, &world.settings());
    assert!(second.response.allowed);
    assert_eq!(warnings(&second), [] as [String; 0]);
    let object = second.mutated.clone().expect("the images are rewritten");
    let after = images_of(&object);

    // The original is gone; its copy is the same, byte for byte, for every platform.
    world.upstream.stop();
    assert_eq!(after.len(), before.len());
    for (original, copy) in before.iter().zip(&after) {
        assert!(
            copy.contains(support::REPOSITORY),
            "{original} became {copy}"
        );
        assert_eq!(&world.pull_copy(copy), &stock[original], "{original}");
    }

    // Admitting the result again changes nothing: it already is in the backup.
    let mut again = review.clone();
    again["request"]["object"] = object;
    assert_untouched(&world.admit(&again, &world.settings()));
}

/// Only what is meant to change changes, in an object with fields that no API version knows.
#[test]
fn unknown_fields_survive() {
    let world = World::start();
    let mut review = fixtures::load("deployment-create");
    let object = &mut review["request"]["object"];
    object["spec"]["template"]["spec"]["fieldOfTheFuture"] = json!({ "a": [1, 2.5, null, "x"] });
    object["spec"]["template"]["spec"]["containers"][0]["quantum"] = json!(true);
    object["topLevel"] = json!({ "big": 18_446_744_073_709_551_615_u64, "float": 1.0 });
    let stock = world.stock(&mut review);
    world.admit(&review, &world.settings());
    world.wait_until_copied(stock.keys());
    let mut mutated = world.admit(&review, &world.settings()).mutated.unwrap();

    let original = &review["request"]["object"];
    let copies: Vec<_> = images_of(&mutated);
    let mut originals = images_of(original).into_iter();
    fixtures::replace_images(&mut mutated, &mut |_| originals.next());
    let metadata = mutated["spec"]["template"]["metadata"].as_object_mut();
    let annotations = metadata.unwrap().remove("annotations").unwrap();
    let noted = &annotations["image-mirror.dev/original-images"];
    for copy in copies {
        assert!(
            noted.as_str().unwrap().contains(&copy),
            "{noted} lacks {copy}"
        );
    }
    assert_eq!(&mutated, original);
}

#[test]
fn the_pull_secret_joins_those_that_are_there() {
    let world = World::with(|sidecar| {
        sidecar
            .argument("--pull-secret")
            .argument("image-mirror-pull")
    });
    let mut review = fixtures::load("deployment-create");
    let stock = world.stock(&mut review);
    world.admit(&review, &world.settings());
    world.wait_until_copied(stock.keys());
    let mutated = world.admit(&review, &world.settings()).mutated.unwrap();
    assert_eq!(
        mutated["spec"]["template"]["spec"]["imagePullSecrets"],
        json!([{ "name": "team-registry" }, { "name": "image-mirror-pull" }])
    );
}

#[test]
fn digests_stay_and_can_be_added() {
    let world = World::start();
    let mut review = fixtures::load("deployment-create");
    let stock = world.stock(&mut review);
    world.admit(&review, &world.settings());
    world.wait_until_copied(stock.keys());

    let originals = images_of(&review["request"]["object"]);
    let plain = images_of(&world.admit(&review, &world.settings()).mutated.unwrap());
    for (original, copy) in originals.iter().zip(&plain) {
        assert_eq!(
            copy.contains('@'),
            original.contains('@'),
            "{original} became {copy}"
        );
    }

    let mut settings = world.settings();
    settings["pinDigest"] = json!(true);
    let pinned = images_of(&world.admit(&review, &settings).mutated.unwrap());
    for (original, copy) in originals.iter().zip(&pinned) {
        assert!(
            copy.ends_with(&format!("@{}", stock[original].root)),
            "{original} became {copy}"
        );
    }
}

#[test]
fn an_update_of_a_template_is_rewritten() {
    let world = World::start();
    let mut review = fixtures::load("deployment-update-image");
    let stock = world.stock(&mut review);
    let before = images_of(&review["request"]["object"]);
    world.admit(&review, &world.settings());
    world.wait_until_copied(before.iter().filter(|image| stock.contains_key(*image)));
    let mutated = world.admit(&review, &world.settings()).mutated.unwrap();
    for copy in images_of(&mutated["spec"]) {
        assert!(copy.contains(support::REPOSITORY), "{copy}");
    }
}

#[test]
fn rejecting_lasts_until_the_copies_are_there() {
    let world = World::start();
    let mut review = fixtures::load("deployment-create");
    let stock = world.stock(&mut review);
    let mut settings = world.settings();
    settings["whenNotMirrored"] = json!("reject");

    let first = world.admit(&review, &settings);
    assert!(!first.response.allowed);
    let message = first.response.status.unwrap().message.unwrap();
    for image in stock.keys() {
        assert!(
            message.contains(image.as_str()),
            "{message} does not name {image}"
        );
    }

    world.wait_until_copied(stock.keys());
    let second = world.admit(&review, &settings);
    assert!(second.response.allowed, "{:?}", second.response);
    assert!(second.mutated.is_some());
}

#[rstest]
#[case::deleted("pod-delete")]
#[case::scaled("deployment-scale-update")]
#[case::static_pod("pod-create-static-mirror")]
#[case::owned_by_a_deployment("replicaset-create-owned-by-deployment")]
fn some_requests_are_none_of_its_business(#[case] fixture: &str) {
    let world = World::start();
    let evaluation = world.admit(&fixtures::load(fixture), &world.settings());
    assert_untouched(&evaluation);
    assert_eq!(evaluation.calls, []);
    assert_eq!(warnings(&evaluation), [] as [String; 0]);
}

#[test]
fn excluded_and_opted_out_workloads_are_left_alone() {
    let world = World::start();
    let mut review = fixtures::load("deployment-create");
    let mut settings = world.settings();
    settings["excludedNamespaces"] = json!(["sho*"]);
    let excluded = world.admit(&review, &settings);
    assert_untouched(&excluded);
    assert_eq!(excluded.calls, []);

    let annotations = &mut review["request"]["object"]["metadata"]["annotations"];
    annotations["image-mirror.dev/skip"] = json!("true");
    let opted_out = world.admit(&review, &world.settings());
    assert_untouched(&opted_out);
    assert_eq!(opted_out.calls, []);
}

/// A dry run must neither start a copy nor show another object than the real request would.
#[test]
fn a_dry_run_starts_nothing_and_shows_the_same() {
    let world = World::with(|sidecar| sidecar.environment("LOG_LEVEL", "debug"));
    let mut review = fixtures::load("pod-create-dry-run");
    let stock = world.stock(&mut review);
    assert_untouched(&world.admit(&review, &world.settings()));
    let mut real = review.clone();
    real["request"]["dryRun"] = json!(false);
    assert_untouched(&world.admit(&real, &world.settings()));
    // Had the dry run started copies, there would be two for each image.
    world.wait_until_copied(stock.keys());
    let started = world.sidecar.events();
    let started = started
        .iter()
        .filter(|event| event["message"] == "copying image");
    assert_eq!(started.count(), stock.len());

    let dry = world.admit(&review, &world.settings());
    let real = world.admit(&real, &world.settings());
    assert_eq!(dry.mutated, real.mutated);
    assert!(real.mutated.is_some());
}
