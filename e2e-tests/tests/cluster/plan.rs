//! `plan` for a real API server: exactly what it says is then copied.

use std::collections::BTreeSet;
use std::process::Command;

use e2e_tests::cluster::{self, GlobalObject};
use serde_json::{Value, json};
use testkit::artifacts;
use testkit::image::Image;
use testkit::sidecar::Sidecar;

use crate::manifests::Kind;
use crate::support::{COPY_DEADLINE, REPOSITORY, World};

const SIDECAR: &str = "mirror-sidecar.image-mirror.svc:5000";

#[test]
fn the_plan_for_a_cluster_is_what_is_then_copied() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let _kind = cluster.define_policies().unwrap();
    let (home, shop, excluded) = (
        cluster.namespace("home").unwrap(),
        cluster.namespace("shop").unwrap(),
        cluster.namespace("excluded").unwrap(),
    );
    let settings = json!({
        "sidecar": SIDECAR,
        "excludedNamespaces": [excluded.name()],
        "rules": [{ "images": ["*/kept/*"], "action": "keep" }],
    });
    let policy = cluster::policy("image-mirror", &settings);
    let _policy = GlobalObject::create(&cluster, policy).unwrap();
    let account = cluster.sidecar_account(&home, "mirror-sidecar").unwrap();
    // This one copies nothing by itself.
    let world = World::start();
    let push = |repository: &str, content: u64| {
        let upstream = world.upstream.client();
        Image::index(content)
            .push(&upstream, repository, "1")
            .unwrap();
        format!("{}/{repository}:1", world.upstream.localhost())
    };
    let deployed = push("team/web", 1);
    let scheduled = push("team/report", 2);
    let stateful = push("team/db", 3);
    let kept = push("kept/app", 4);
    let unused = push("excluded/app", 5);
    let create = |namespace: &cluster::Namespace, kind: Kind, name: &str, images: &[&str]| {
        let containers = images.iter().enumerate();
        let containers: Vec<_> = containers
            .map(|(index, image)| json!({ "name": format!("c{index}"), "image": image }))
            .collect();
        let spec = json!({ "containers": containers });
        namespace
            .create(&kind.manifest(name, spec, "batch/v1"))
            .unwrap();
    };
    create(&shop, Kind::Deployment, "web", &[&deployed, &kept]);
    create(&shop, Kind::DaemonSet, "report", &[&scheduled]);
    create(&shop, Kind::StatefulSet, "db", &[&stateful, &deployed]);
    create(&excluded, Kind::Deployment, "other", &[&unused]);

    let plan = plan(&world, account.kubeconfig());
    let with_status = |status: &str| -> BTreeSet<String> {
        let images = plan["images"].as_array().unwrap().iter();
        images
            .filter(|image| image["status"] == status)
            .map(|image| image["image"].as_str().unwrap().to_owned())
            .collect()
    };
    let planned = with_status("would_copy");
    assert_eq!(
        planned,
        BTreeSet::from([deployed.clone(), scheduled, stateful]),
        "{plan:#}"
    );
    assert!(
        with_status("not_protected").is_superset(&BTreeSet::from([kept, unused])),
        "{plan:#}"
    );
    let images = plan["images"].as_array().unwrap();
    let web = images
        .iter()
        .find(|image| image["image"] == deployed)
        .unwrap();
    assert_eq!(
        (&web["user_count"], &web["rule"]),
        (&json!(2), &json!("default of policy image-mirror"))
    );

    let sidecar = Sidecar::builder()
        .registry(world.backup.as_ref(), REPOSITORY)
        .insecure_registry(&world.upstream.localhost())
        .argument("--kubernetes=watch")
        .argument(format!("--facade-address={SIDECAR}"))
        .environment("KUBECONFIG", account.kubeconfig())
        .start()
        .unwrap();
    let is_copy = |event: &Value| event["message"] == "copied image";
    for image in &planned {
        let is_it = |event: &Value| is_copy(event) && event["image"] == **image;
        sidecar.wait_for(COPY_DEADLINE, is_it).unwrap();
    }
    let events = sidecar.events();
    let copies = events.iter().filter(|event| is_copy(event));
    let copies: BTreeSet<_> = copies
        .map(|event| event["image"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(copies, planned);
    let after = self::plan(&world, account.kubeconfig());
    assert_eq!(after["totals"]["would_copy"], 0, "{after:#}");
    assert_eq!(after["totals"]["present"], 3, "{after:#}");
}

fn plan(world: &World, kubeconfig: &std::path::Path) -> Value {
    let credential = world.backup.credential().unwrap();
    let output = Command::new(artifacts::sidecar_program().unwrap())
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .args([
            "plan",
            "--output=json",
            &format!("--facade-address={SIDECAR}"),
        ])
        .args([
            format!("--registry={}", world.backup.address()),
            format!("--repository={REPOSITORY}"),
            format!("--registry-username={}", credential.user),
            format!("--registry-password={}", credential.password),
            format!("--insecure-registry={}", world.backup.address()),
            format!("--insecure-registry={}", world.upstream.localhost()),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
