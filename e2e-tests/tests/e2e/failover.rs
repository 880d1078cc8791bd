//! New Pods use their originals while the backup does not respond: the policy in its host, the real sidecar, real registries.

use mirror_contract::workload::ORIGINAL_IMAGES;
use serde_json::Value;
use testkit::fixtures;
use testkit::image::{Image, pull_all};

use crate::support::{COPY_DEADLINE, World, assert_untouched, warnings};

fn wait_for(world: &World, message: &str) {
    let is_wanted = |event: &Value| {
        let text = event["message"].as_str();
        text.is_some_and(|text| text.starts_with(message))
    };
    world.sidecar.wait_for(COPY_DEADLINE, is_wanted).unwrap();
    // A minute later.
    world.host.clear_cache();
}

/// The Deployment whose template is that of a Pod.
fn deployment_of(pod: &Value) -> Value {
    let mut review = fixtures::load("deployment-create");
    let pod = &pod["request"]["object"];
    let template = &mut review["request"]["object"]["spec"]["template"];
    template["metadata"]["annotations"] = pod["metadata"]["annotations"].clone();
    template["spec"] = pod["spec"].clone();
    review
}

#[test]
fn new_pods_use_their_originals_until_the_backup_responds() {
    let mut world = World::start();
    let settings = world.settings();
    let image = Image::index(1);
    let mut pod = fixtures::load("pod-create");
    let original = format!("{}/shop/app:v1", world.upstream.localhost());
    let push = |image: &Image| image.push(&world.upstream.client(), "shop/app", "v1");
    let digest = push(&image).unwrap();
    fixtures::replace_images(&mut pod, &mut |_| Some(original.clone()));
    world.admit(&pod, &settings);
    world.wait_until_copied([&original]);
    pod["request"]["object"] = world.admit(&pod, &settings).mutated.unwrap();
    // The Pods of a template run the same image, wherever its tag points meanwhile.
    push(&Image::index(2)).unwrap();

    world.backup.stop();
    wait_for(&world, "the backup registry cannot be reached or used");
    let during = world.admit(&pod, &settings);
    let mutated = during.mutated.as_ref().unwrap();
    let expected = format!("{original}@{digest}");
    assert_eq!(fixtures::images_of(mutated), [expected]);
    let pulled = pull_all(&world.upstream.client(), "shop/app", &digest).unwrap();
    assert_eq!(pulled, image.expected());
    let lines = warnings(&during);
    assert!(
        lines[0].ends_with("is replaced by its original: the backup is unavailable"),
        "{lines:?}"
    );
    assert_untouched(&world.admit(&deployment_of(&pod), &settings));

    // The author of a Pod invents a digest.
    let mut forged = pod.clone();
    let annotation = &mut forged["request"]["object"]["metadata"]["annotations"][ORIGINAL_IMAGES];
    let invented = format!("sha256:{}", "1".repeat(64));
    *annotation = annotation
        .as_str()
        .unwrap()
        .replace(&digest, &invented)
        .into();
    let kept = world.admit(&forged, &settings);
    assert_untouched(&kept);
    let requested = &kept.calls[1].argument;
    assert!(
        requested.contains("/original/digest/localhost_"),
        "{requested}"
    );
    assert!(
        requested.ends_with(&invented.replace(':', "-")),
        "{requested}"
    );

    world.backup.restart().unwrap();
    wait_for(&world, "the backup registry can be used again");
    let after = world.admit(&pod, &settings);
    assert_untouched(&after);
    assert_eq!(warnings(&after), [""; 0]);
}
