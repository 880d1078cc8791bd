//! The pull Secret gets another name.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use e2e_tests::cluster::{self, Account, Cluster, Namespace, Rights, Webhook};
use serde_json::{Value, json};
use testkit::fixtures::images_of;
use testkit::sidecar::{Sidecar, SidecarBuilder};

use crate::managed_secrets::{ROTATED_WITHIN, password_in, wait};
use crate::manifests::{Kind, spec_of};
use crate::stage::PULL_SECRET;
use crate::support::{self, REPOSITORY, World};

const PRESENT: &str = "moved";
/// A re-admission that did not help is repeated after half a minute.
const MOVED_WITHIN: Duration = Duration::from_mins(4);
const NOTE: &str = "image-mirror.dev/original-images";

/// The published rights, for Secrets of both names.
fn account(cluster: &Cluster) -> Account {
    let home = cluster.namespace("image-mirror").unwrap();
    let mut rules = Rights::published().unwrap().everywhere;
    for rule in &mut rules {
        if let Some(names) = rule
            .resource_names
            .as_mut()
            .filter(|names| !names.is_empty())
        {
            names.push(PRESENT.to_owned());
        }
    }
    cluster.account(&home, "mirror-sidecar", &rules).unwrap()
}

fn with_cluster(
    sidecar: SidecarBuilder,
    account: &Account,
    password: &Path,
    flags: &[&str],
) -> SidecarBuilder {
    let sidecar = sidecar
        .argument("--kubernetes=on")
        .environment("KUBECONFIG", account.kubeconfig())
        .argument("--pull-username=pusher")
        .argument("--pull-password-file")
        .argument(password);
    let flags = flags.iter();
    flags.fold(sidecar, |sidecar, flag| sidecar.argument(*flag))
}

/// Ends the sidecar and starts one with other flags in its place.
fn restart(mut world: World, account: &Account, password: &Path, flags: &[&str]) -> World {
    let old = &world.sidecar;
    let builder = Sidecar::builder()
        .registry(world.backup.as_ref(), REPOSITORY)
        .insecure_registry(&world.upstream.localhost())
        .listen(old.facade().replace("localhost", "127.0.0.1"))
        .tls(Arc::clone(old.tls()))
        .facade_credential(old.facade_credential().clone());
    let builder = with_cluster(builder, account, password, flags);
    // The port must be free first.
    assert!(world.sidecar.stop().unwrap().success());
    world.sidecar = builder.start().unwrap();
    world
}

/// The pull Secrets that a template lists, the one in its annotation, its images and its generation.
fn state(shop: &Namespace, manifest: &Value) -> (Value, String, Vec<String>, i64) {
    let stored = shop.get(manifest).unwrap();
    let template = &stored["spec"]["template"];
    let note = template["metadata"]["annotations"][NOTE].as_str().unwrap();
    let note: Value = serde_json::from_str(note).unwrap();
    (
        template["spec"]["imagePullSecrets"].clone(),
        note["imagePullSecret"].as_str().unwrap().to_owned(),
        images_of(spec_of(&stored)),
        stored["metadata"]["generation"].as_i64().unwrap(),
    )
}

#[test]
fn templates_are_moved_one_by_one_and_the_former_secret_is_kept_valid() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let account = account(&cluster);
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "p4ss word").unwrap();
    let mut world =
        World::with(|sidecar| with_cluster(sidecar, &account, &password, &["--readmit=off"]));
    let registry = world.backup.address();
    let shop = cluster.namespace("shop").unwrap();
    // The host of the policy remembers responses for a minute, so each sidecar gets a new one.
    let install = |world: &World| {
        let mut settings = world.settings();
        settings["backups"] = json!([format!("{}/{REPOSITORY}", world.backup.address())]);
        settings["pullSecrets"] = json!([PRESENT, PULL_SECRET]);
        let webhook = Webhook::builder(support::policy(&world.sidecar), settings);
        webhook.start(&shop, cluster.admin()).unwrap()
    };
    let webhook = install(&world);
    let spec = json!({ "containers": [{ "name": "app", "image": "nginx:1.27" }] });
    let mut manifest = Kind::Deployment.manifest("web", spec, "batch/v1");
    let stock = world.stock(&mut manifest);
    shop.create(&manifest).unwrap();
    world.wait_until_copied(stock.keys());
    shop.apply(&manifest).unwrap();
    let before = state(&shop, &manifest);
    assert_eq!(before.0, json!([{ "name": PULL_SECRET }]));

    // Whatever is applied again keeps the former Secret, which is still rotated.
    let renamed = [
        format!("--pull-secret={PRESENT}"),
        format!("--former-pull-secret={PULL_SECRET}"),
    ];
    let flags = [&*renamed[0], &*renamed[1], "--readmit=off"];
    drop(webhook);
    world = restart(world, &account, &password, &flags);
    let webhook = install(&world);
    shop.apply(&manifest).unwrap();
    assert_eq!(state(&shop, &manifest), before);
    fs::write(&password, "second").unwrap();
    let has = |name: &str, expected: &str| {
        password_in(&shop, name, &registry).as_deref() == Some(expected)
    };
    wait("the former Secret is rotated", ROTATED_WITHIN, || {
        has(PULL_SECRET, "second")
    });

    // A re-admission moves the template, and starts one rollout.
    let flags = [&*renamed[0], &*renamed[1], "--readmit-per-minute=1000"];
    drop(webhook);
    world = restart(world, &account, &password, &flags);
    let webhook = install(&world);
    // It may have been tried before the policy was there.
    wait("the template is moved", MOVED_WITHIN, || {
        state(&shop, &manifest).0 == json!([{ "name": PRESENT }])
    });
    let after = state(&shop, &manifest);
    assert_eq!(after.1, PRESENT);
    assert_eq!((&after.2, after.3), (&before.2, before.3 + 1));
    assert!(has(PRESENT, "second"));
    shop.apply(&manifest).unwrap();
    assert_eq!(state(&shop, &manifest), after);
    assert!(has(PULL_SECRET, "second"), "Pods may list it for a while");
    let (_, metrics) = world.sidecar.admin_get("/metrics").unwrap();
    assert!(
        metrics.contains("image_mirror_pull_secrets 2\n"),
        "{metrics}"
    );
    drop(webhook);
}
