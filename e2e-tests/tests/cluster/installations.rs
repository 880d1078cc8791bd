//! Two installations of image-mirror over one namespace.

use std::time::{Duration, Instant};

use e2e_tests::cluster::{self, Account, Cluster, Namespace, Webhook};
use serde_json::{Value, json};
use testkit::fixtures::images_of;

use crate::manifests::{Kind, spec_of};
use crate::rights::events;
use crate::support::{self, REPOSITORY, World};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(90);

struct Installation {
    // Dropped first: nobody may call the policy when its sidecar is gone.
    _webhook: Webhook,
    world: World,
    account: Account,
}

impl Installation {
    /// With a backup of its own. Originals are in its own upstream registry, or in the one at `upstream`.
    fn start(
        cluster: &Cluster,
        shop: &Namespace,
        name: &'static str,
        upstream: Option<&str>,
    ) -> Self {
        let home = cluster.namespace(name).unwrap();
        let account = cluster.sidecar_account(&home, "mirror-sidecar").unwrap();
        let world = World::with(|sidecar| {
            let sidecar = sidecar
                .argument("--kubernetes=on")
                .argument("--readmit-per-minute=1000")
                .environment("KUBECONFIG", account.kubeconfig());
            upstream.into_iter().fold(sidecar, |sidecar, upstream| {
                sidecar.insecure_registry(upstream)
            })
        });
        let mut settings = world.settings();
        let backup = format!("{}/{REPOSITORY}", world.backup.address());
        settings["backups"] = json!([backup]);
        let builder = Webhook::builder(support::policy(&world.sidecar), settings).name(name);
        Self {
            _webhook: builder.start(shop, cluster.admin()).unwrap(),
            world,
            account,
        }
    }

    /// The copies that it made of images that look like copies.
    fn copies_of_copies(&self) -> Vec<Value> {
        let mut copied = self.world.sidecar.events();
        copied.retain(|event| {
            event["message"] == "copied image"
                && event["image"]
                    .as_str()
                    .is_some_and(|image| image.contains(REPOSITORY))
        });
        copied
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn images(shop: &Namespace, manifest: &Value) -> Vec<String> {
    images_of(spec_of(&shop.get(manifest).unwrap()))
}

#[test]
fn a_second_installation_skips_what_the_first_one_rewrote() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let shop = cluster.namespace("shop").unwrap();
    let first = Installation::start(&cluster, &shop, "first", None);
    let upstream = first.world.upstream.localhost();
    let second = Installation::start(&cluster, &shop, "second", Some(&upstream));
    let kinds = [
        Kind::Deployment,
        Kind::DaemonSet,
        Kind::StatefulSet,
        Kind::ReplicaSet,
        Kind::ReplicationController,
    ];
    let create = |kind: Kind, name: &str| {
        // Nobody has copies of them before they are used.
        let image = format!("{}-{name}", kind.name().to_lowercase());
        let spec = json!({ "containers": [
            { "name": "app", "image": format!("acme/{image}:1") },
            { "name": "proxy", "image": format!("quay.io/acme/{image}-proxy:v1") },
        ] });
        let mut manifest = kind.manifest(name, spec, "batch/v1");
        first.world.stock(&mut manifest);
        shop.create(&manifest).unwrap();
        manifest
    };
    let is_rewritten = |manifest: &Value| {
        let images = images(&shop, manifest);
        images.iter().all(|image| image.contains(REPOSITORY))
    };
    let workloads = kinds.map(|kind| create(kind, "web"));
    wait_until("all workloads to be rewritten", || {
        workloads.iter().all(is_rewritten)
    });
    wait_until("the Event", || {
        !events(&shop, "OtherInstallation").is_empty()
    });
    // Both have seen all of it by then.
    let last = create(Kind::Deployment, "last");
    wait_until("the last workload to be rewritten", || is_rewritten(&last));

    let addresses = [&first, &second].map(|installation| installation.world.backup.address());
    for manifest in &workloads {
        let before = images(&shop, manifest);
        let owner = addresses.iter().filter(|address| {
            let prefix = format!("{address}/");
            before.iter().all(|image| image.starts_with(&prefix))
        });
        assert_eq!(owner.count(), 1, "{before:?}");
        for round in 0..3 {
            let annotations = json!({ "round": round.to_string() });
            let change =
                json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
            shop.merge(manifest, &change).unwrap();
            assert_eq!(images(&shop, manifest), before);
            shop.apply(manifest).unwrap();
            assert_eq!(images(&shop, manifest), before, "applied again");
        }
    }
    let events = events(&shop, "OtherInstallation");
    assert_eq!(events.len(), 1, "{events:?}");
    let mut patches = cluster.requests();
    patches.retain(|request| {
        [&first, &second]
            .map(|it| it.account.user())
            .contains(&request.user.as_str())
            && request.verb == "patch"
            && !request.is_dry_run()
            && request.name == "web"
            && request.resource != "events"
    });
    // Both may have tried the same one at the same moment; then the second patch has changed nothing but the mark.
    let mut once: Vec<_> = patches.iter().map(|it| (&it.user, &it.resource)).collect();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), patches.len(), "{patches:?}");
    assert!(patches.len() >= workloads.len(), "{patches:?}");
    for installation in [&first, &second] {
        assert_eq!(installation.copies_of_copies(), [] as [Value; 0]);
    }
}
