//! Workloads that were there before their images were in the target of a rewrite are sent through admission again.

use e2e_tests::cluster;
use serde_json::{Value, json};
use testkit::fixtures::images_of;
use testkit::image::Image;
use testkit::registry::start_registry;

use crate::manifests::{Kind, spec_of};
use crate::readmission::shop::Shop;

#[test]
fn workloads_follow_when_the_target_has_their_images() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut shop = Shop::new(&cluster);
    let target = start_registry().unwrap();
    let (upstream, host) = (shop.world.upstream.localhost(), target.localhost());
    let run = |shop: &Shop<'_>, name: &str| {
        let containers = json!([{ "name": "app", "image": format!("{upstream}/team/{name}:v1") }]);
        let spec = json!({ "containers": containers });
        let manifest = Kind::Deployment.manifest(name, spec, "batch/v1");
        shop.namespace.create(&manifest).unwrap();
        manifest
    };
    let push = |name: &str| {
        let image = Image::index(1);
        image
            .push(&target.client(), &format!("team/{name}"), "v1")
            .unwrap();
    };
    push("early");
    let (early, late) = (run(&shop, "early"), run(&shop, "late"));
    let rules =
        json!([{ "images": [format!("{upstream}/*")], "action": "rewrite", "target": host }]);
    let settings = json!({ "sidecar": "mirror-sidecar.svc:5000", "rules": rules });
    let folder = testkit::scratch::folder("image-mirror-rewrites-").unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, settings.to_string()).unwrap();
    shop.install_policy_with(json!({ "rules": rules }));
    shop = shop.start_sidecar(&[
        "--readmit-per-minute=1000",
        &format!("--policy-settings={}", file.display()),
        &format!("--insecure-registry={host}"),
    ]);

    let images = |shop: &Shop<'_>, manifest: &Value| {
        let stored = shop.namespace.get(manifest).unwrap();
        assert_eq!(spec_of(&stored)["imagePullSecrets"], Value::Null);
        images_of(spec_of(&stored))
    };
    let wait = |shop: &Shop<'_>, name: &str, manifest: &Value| {
        let expected = [format!("{host}/team/{name}:v1")];
        shop.wait_until("the image of the target", |shop| {
            images(shop, manifest) == expected
        });
    };
    wait(&shop, "early", &early);
    assert_eq!(images(&shop, &late), images_of(spec_of(&late)));
    push("late");
    wait(&shop, "late", &late);
    assert_eq!((shop.patches_of(&early), shop.patches_of(&late)), (1, 1));

    let of_backup = shop.world.backup.requests().into_iter();
    let of_images: Vec<_> = of_backup.filter(|request| request.path != "/v2/").collect();
    assert!(of_images.is_empty(), "{of_images:?}");
    let of_upstream = shop.world.upstream.requests();
    assert!(of_upstream.is_empty(), "{of_upstream:?}");
}
