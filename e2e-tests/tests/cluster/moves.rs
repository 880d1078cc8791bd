//! The naming, the repository or the host of the backup changes. Copies in use stay until there are others, and are replaced
//! one by one.

use e2e_tests::cluster;
use serde_json::{Value, json};
use testkit::fixtures::images_of;
use testkit::registry::{Credential, start_registry_with};

use crate::manifests::{Kind, pod_spec, renamed, spec_of};
use crate::readmission::shop::Shop;
use crate::stage::PULL_SECRET;
use crate::support::REPOSITORY;

const FAST: &str = "--readmit-per-minute=1000";
const NESTED: &str = "--naming=nested";

/// Workloads that use copies with flat names.
fn rewritten<'a>(cluster: &'a cluster::Cluster, backups: &[&str]) -> (Shop<'a>, Vec<Value>) {
    let mut shop = Shop::new(cluster);
    let (first, _) = shop.create(Kind::Deployment, "web-0", pod_spec());
    let mut manifests = vec![first];
    for name in ["web-1", "web-2"] {
        let manifest = renamed(&manifests[0], name);
        shop.namespace.create(&manifest).unwrap();
        manifests.push(manifest);
    }
    let mut all = vec![format!("{}/{REPOSITORY}", shop.world.backup.address())];
    all.extend(backups.iter().map(ToString::to_string));
    shop.install_policy_with(json!({ "backups": all }));
    let shop = shop.start_sidecar(&[FAST]);
    for manifest in &manifests {
        shop.wait_until_rewritten(manifest);
    }
    (shop, manifests)
}

fn is_nested(image: &str) -> bool {
    let name = image.split_once(REPOSITORY).map(|(_, name)| name);
    name.is_some_and(|name| name.matches('/').count() > 1)
}

fn stored(shop: &Shop<'_>, manifests: &[Value]) -> Vec<Value> {
    let manifests = manifests.iter();
    manifests
        .map(|manifest| shop.namespace.get(manifest).unwrap())
        .collect()
}

/// Applies all manifests once more, which name the originals, and asserts that no template changes.
fn assert_nothing_restarts(shop: &Shop<'_>, manifests: &[Value]) {
    let before = stored(shop, manifests);
    for manifest in manifests {
        shop.namespace.apply(manifest).unwrap();
    }
    for (before, after) in before.iter().zip(stored(shop, manifests)) {
        assert_eq!(spec_of(&after), spec_of(before));
        assert_eq!(after["spec"]["template"], before["spec"]["template"]);
        assert_eq!(
            after["metadata"]["generation"],
            before["metadata"]["generation"]
        );
    }
}

/// Waits until all images are copies that are named like this, and asserts that this took one change.
fn assert_moved(shop: &Shop<'_>, manifests: &[Value], is_present: impl Fn(&str) -> bool) {
    let before = stored(shop, manifests);
    shop.wait_until("the copies of another name to be used", |shop| {
        let stored = stored(shop, manifests);
        let images = stored.iter().flat_map(|object| images_of(spec_of(object)));
        images.into_iter().all(|image| is_present(&image))
    });
    for (before, after) in before.iter().zip(stored(shop, manifests)) {
        let generation = before["metadata"]["generation"].as_u64().unwrap();
        assert_eq!(after["metadata"]["generation"], generation + 1);
        assert_eq!(
            spec_of(&after)["imagePullSecrets"],
            json!([{ "name": PULL_SECRET }])
        );
    }
}

#[test]
fn after_a_change_of_naming_copies_are_replaced_at_the_usual_pace() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let (mut shop, manifests) = rewritten(&cluster, &[]);
    shop = shop.start_sidecar(&[NESTED, "--readmit=off"]);
    // Whether there are copies of the other name already or not.
    assert_nothing_restarts(&shop, &manifests);
    let original = images_of(spec_of(&manifests[0]));
    shop.world.wait_until_copied(&original);
    assert_nothing_restarts(&shop, &manifests);
    let before = shop.patches().len();
    shop = shop.start_sidecar(&[NESTED, FAST]);
    assert_moved(&shop, &manifests, is_nested);
    assert_eq!(shop.patches().len(), before + manifests.len());
    assert_nothing_restarts(&shop, &manifests);
}

#[test]
fn after_a_change_of_naming_nobody_is_sent_to_an_upstream_that_is_gone() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let (mut shop, manifests) = rewritten(&cluster, &[]);
    let copies: Vec<_> = images_of(spec_of(&stored(&shop, &manifests)[0]));
    let content: Vec<_> = copies
        .iter()
        .map(|copy| shop.world.pull_copy(copy))
        .collect();
    shop.world.upstream.stop();
    shop = shop.start_sidecar(&[NESTED, "--readmit=off"]);
    assert_nothing_restarts(&shop, &manifests);
    // The copies of the other name are made from those that there are.
    shop = shop.start_sidecar(&[NESTED, FAST]);
    assert_moved(&shop, &manifests, is_nested);
    let moved = images_of(spec_of(&stored(&shop, &manifests)[0]));
    for (copy, content) in moved.iter().zip(&content) {
        assert_eq!(&shop.world.pull_copy(copy), content, "{copy}");
    }
    assert_nothing_restarts(&shop, &manifests);
}

#[test]
fn after_a_change_of_host_copies_are_made_from_the_former_backup() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    // They are told apart by their ports, and have the same login.
    let credential = Credential::new("pusher", "p4ss word");
    let next = start_registry_with(Some(credential)).unwrap();
    let next_place = format!("{}/{REPOSITORY}", next.address());
    let (mut shop, manifests) = rewritten(&cluster, &[&next_place]);
    shop.world.upstream.stop();
    let former = std::mem::replace(&mut shop.world.backup, next);
    let flag = format!("--former-backup={}/{REPOSITORY}", former.address());
    let insecure = format!("--insecure-registry={}", former.address());
    let folder = tempfile::tempdir().unwrap();
    let login = json!({ "auth": "cHVzaGVyOnA0c3Mgd29yZA==" });
    let config = json!({ "auths": { former.address(): login } });
    let file = folder.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let config = format!("--docker-config={}", file.display());
    shop = shop.start_sidecar(&[&flag, &insecure, &config, "--readmit=off"]);
    assert_nothing_restarts(&shop, &manifests);
    shop = shop.start_sidecar(&[&flag, &insecure, &config, FAST]);
    let host = shop.world.backup.address();
    assert_moved(&shop, &manifests, |image| image.starts_with(&host));
    // Nothing is left of the former one.
    drop(former);
    for copy in images_of(spec_of(&stored(&shop, &manifests)[0])) {
        shop.world.pull_copy(&copy);
    }
}
