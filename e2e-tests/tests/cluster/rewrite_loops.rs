//! Operators that compare the images of Pods with their own: a loop ends by itself, and known operators never begin one.

use std::time::{Duration, Instant};

use e2e_tests::cluster::{self, Webhook};
use serde_json::{Value, json};
use testkit::fixtures::images_of;

use crate::manifests::{Kind, spec_of};
use crate::rights::events;
use crate::support::{self, World};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// How long the host uses a response; a policy server does so for a minute.
const CACHED_FOR: Duration = Duration::from_secs(1);

/// Between two checks of the operator. Pods of the same second count once.
const RESYNC: Duration = Duration::from_millis(1100);

fn owned(mut manifest: Value, api_version: &str, kind: &str, name: &str, uid: &Value) -> Value {
    manifest["metadata"]["ownerReferences"] = json!([{
        "apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true,
    }]);
    manifest
}

#[test]
fn a_workload_whose_pods_are_replaced_again_and_again_is_left_alone() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let (home, shop) = (
        cluster.namespace("home").unwrap(),
        cluster.namespace("shop").unwrap(),
    );
    let account = cluster.sidecar_account(&home, "mirror-sidecar").unwrap();
    let world = World::with(|sidecar| {
        sidecar
            .argument("--kubernetes=on")
            .argument("--skip-owner=example.com/Known")
            .environment("KUBECONFIG", account.kubeconfig())
    });
    let host = support::policy_builder()
        .epoch_ticks(60)
        .cache_ttl(CACHED_FOR);
    let host = world.sidecar.trusted_by(host).build().unwrap();
    let builder = Webhook::builder(host, world.settings());
    let _webhook = builder.start(&shop, cluster.admin()).unwrap();

    let spec = || json!({ "containers": [{ "name": "app", "image": "acme/db:1" }] });
    let uid: Value = "11111111-2222-3333-4444-555555555555".into();
    // A StatefulSet of an operator, and a Pod of it, as its controller makes it; there is none here.
    let set_of = |operator: &str, name: &str| {
        let mut set = Kind::StatefulSet.manifest(name, spec(), "batch/v1");
        let stock = world.stock(&mut set);
        let set = shop
            .create(&owned(set, "example.com/v1", operator, "o", &uid))
            .unwrap();
        world.wait_until_copied(stock.keys());
        let mut pod = Kind::Pod.manifest(&format!("{name}-0"), spec(), "batch/v1");
        world.stock(&mut pod);
        let pod = owned(pod, "apps/v1", "StatefulSet", name, &set["metadata"]["uid"]);
        (set, pod)
    };
    let is_rewritten =
        |pod: &Value, stored: &Value| images_of(spec_of(stored)) != images_of(spec_of(pod));

    let (_, known) = set_of("Known", "known");
    let stored = shop.create(&known).unwrap();
    assert!(!is_rewritten(&known, &stored), "{stored}");

    let (set, pod) = set_of("Unknown", "db");
    let start = Instant::now();
    let mut replaced = 0;
    while is_rewritten(&pod, &shop.create(&pod).unwrap()) {
        replaced += 1;
        let log = || world.sidecar.lines().join("\n");
        assert!(start.elapsed() < DEADLINE, "{replaced} times:\n{}", log());
        std::thread::sleep(RESYNC);
        shop.delete(&pod).unwrap();
    }
    assert!(replaced >= 5, "{replaced}");
    let found = loop {
        if let Some(event) = events(&shop, "RewriteLoop").pop() {
            break event;
        }
        assert!(start.elapsed() < DEADLINE, "no Event");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(found["regarding"]["uid"], set["metadata"]["uid"]);
    let note = found["note"].as_str().unwrap();
    assert!(note.contains("image-mirror.dev/skip"), "{note}");
    assert_eq!(events(&shop, "RewriteLoop").len(), 1);
}
