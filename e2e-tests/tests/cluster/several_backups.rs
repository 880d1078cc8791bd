//! Rules send the images of namespaces to different backups.

use std::time::{Duration, Instant};

use e2e_tests::cluster::{self, GlobalObject, Namespace};
use serde_json::{Value, json};
use testkit::image::Image;
use testkit::registry::{Credential, Registry, start_registry_with};

use crate::manifests::Kind;
use crate::support::{COPY_DEADLINE, World};

const SIDECAR: &str = "mirror-sidecar.image-mirror.svc:5000";

/// Puts an image upstream and runs it.
fn run(world: &World, namespace: &Namespace, name: &str, content: u64) -> String {
    let upstream = world.upstream.client();
    Image::index(content).push(&upstream, name, "1").unwrap();
    let image = format!("{}/{name}:1", world.upstream.localhost());
    let manifest = Kind::Deployment.manifest(
        &name.replace('/', "-"),
        json!({ "containers": [{ "name": "c", "image": image }] }),
        "batch/v1",
    );
    namespace.create(&manifest).unwrap();
    image
}

/// Waits until an image is copied to a backup; `Value::Null` is the default one.
fn wait_until_copied(world: &World, image: &str, backup: &Value) {
    let is_copied = |event: &Value| {
        event["message"] == "copied image" && event["image"] == *image && event["backup"] == *backup
    };
    world.sidecar.wait_for(COPY_DEADLINE, is_copied).unwrap();
}

/// The requests to a registry that name a part of an image.
fn requests(registry: &dyn Registry, part: &str) -> Vec<String> {
    let requests = registry.requests().into_iter();
    let requests = requests.map(|request| format!("{request:?}"));
    requests.filter(|request| request.contains(part)).collect()
}

#[test]
fn each_image_is_copied_to_the_backup_of_its_rule_only() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let _kind = cluster.define_policies().unwrap();
    let [home, shop, team] =
        ["home", "shop", "team-a"].map(|name| cluster.namespace(name).unwrap());
    let rules = json!([{ "namespaces": [team.name()], "action": "mirror", "backup": "team-a" }]);
    let invalid = json!([{ "action": "drop" }]);
    let settings = json!({ "sidecar": SIDECAR, "rules": invalid });
    let manifest = cluster::policy("image-mirror", &settings);
    let set_rules = |rules: &Value| {
        let fields = json!({ "spec": { "settings": { "rules": rules } } });
        cluster.merge_global(&manifest, &fields).unwrap();
    };
    let _policy = GlobalObject::create(&cluster, manifest.clone()).unwrap();
    let account = cluster.sidecar_account(&home, "mirror-sidecar").unwrap();

    let registry = start_registry_with(Some(Credential::new("team", "s3cret"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (config, password) = (
        folder.path().join("config.yaml"),
        folder.path().join("password"),
    );
    std::fs::write(&password, "s3cret").unwrap();
    let configure = |parallel: usize| {
        let backups = json!({ "backups": { "team-a": {
            "registry": registry.address(), "repository": "team-a", "parallelCopies": parallel,
            "push": { "username": "team", "passwordFile": password },
        } } });
        let next = folder.path().join("next");
        std::fs::write(&next, backups.to_string()).unwrap();
        std::fs::rename(&next, &config).unwrap();
    };
    configure(2);
    let world = World::with(|sidecar| {
        sidecar
            .insecure_registry(&registry.address())
            .environment("KUBECONFIG", account.kubeconfig())
            .environment("POD_NAME", "mirror-sidecar-0")
            .environment("POD_NAMESPACE", home.name())
            .argument("--kubernetes=on")
            .argument("--recheck-interval=1s")
            .argument(format!("--config={}", config.display()))
            .argument(format!("--facade-address={SIDECAR}"))
    });

    let ours = run(&world, &shop, "ours/app", 1);
    let theirs = run(&world, &team, "theirs/app", 2);
    // Nobody knows where the images belong.
    let is_invalid = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with(
            "cannot parse the policy, so its images are copied only when it requests them",
        )
    };
    world.sidecar.wait_for(COPY_DEADLINE, is_invalid).unwrap();
    set_rules(&rules);
    wait_until_copied(&world, &ours, &Value::Null);
    wait_until_copied(&world, &theirs, &"team-a".into());
    assert_eq!(requests(world.backup.as_ref(), "theirs"), [] as [&str; 0]);
    assert_eq!(requests(registry.as_ref(), "ours"), [] as [&str; 0]);

    let start = Instant::now();
    let of_team = "image_mirror_images_in_use{state=\"mirrored\",backup=\"team-a\"} 1";
    loop {
        let (_, metrics) = world.sidecar.admin_get("/metrics").unwrap();
        if metrics.lines().any(|line| line == of_team) {
            break;
        }
        assert!(start.elapsed() < COPY_DEADLINE, "{metrics}");
        std::thread::sleep(Duration::from_millis(50));
    }

    // The last valid rules survive a new configuration.
    set_rules(&invalid);
    let keeps = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with("cannot parse the policy, its last valid rules stay in force")
    };
    world.sidecar.wait_for(COPY_DEADLINE, keeps).unwrap();
    configure(1);
    let start = Instant::now();
    let is_using = |line: &&String| line.contains("using backup");
    while world.sidecar.lines().iter().filter(is_using).count() < 2 {
        assert!(start.elapsed() < COPY_DEADLINE);
        std::thread::sleep(Duration::from_millis(50));
    }
    let later = run(&world, &team, "theirs/later", 3);
    wait_until_copied(&world, &later, &"team-a".into());
    assert_eq!(requests(world.backup.as_ref(), "theirs"), [] as [&str; 0]);

    // With another rule, the image is copied there, too.
    set_rules(&json!([]));
    wait_until_copied(&world, &theirs, &Value::Null);
    assert_eq!(requests(registry.as_ref(), "ours"), [] as [&str; 0]);
}
