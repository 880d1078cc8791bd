//! The sidecar follows `ClusterAdmissionPolicies`: which images it copies, and for whom.

use std::time::{Duration, Instant};

use e2e_tests::cluster::{self, GlobalObject, Namespace};
use serde_json::{Value, json};
use testkit::image::Image;

use crate::manifests::Kind;
use crate::support::{REPOSITORY, World};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

const SIDECAR: &str = "mirror-sidecar.image-mirror.svc:5000";

/// Puts an image upstream and returns its reference.
fn push(world: &World, repository: &str, content: u64) -> String {
    let upstream = world.upstream.client();
    Image::index(content)
        .push(&upstream, repository, "1")
        .unwrap();
    format!("{}/{repository}:1", world.upstream.localhost())
}

/// Creates a Deployment that uses these images.
fn run(namespace: &Namespace, name: &str, images: &[&String]) {
    let containers = images.iter().enumerate();
    let containers: Vec<_> = containers
        .map(|(index, image)| json!({ "name": format!("c{index}"), "image": image }))
        .collect();
    let manifest = Kind::Deployment.manifest(name, json!({ "containers": containers }), "batch/v1");
    namespace.create(&manifest).unwrap();
}

/// The requests to the upstream registry that name a repository, from this number on.
fn requests(world: &World, from: usize, repository: &str) -> Vec<String> {
    let requests = world.upstream.requests().into_iter().skip(from);
    let requests = requests.map(|request| format!("{request:?}"));
    requests
        .filter(|request| request.contains(repository))
        .collect()
}

fn rules(images: &str) -> Value {
    json!([{ "images": [images], "action": "keep" }])
}

#[test]
fn an_edited_policy_changes_what_is_copied() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let _kind = cluster.define_policies().unwrap();
    let (home, shop) = (
        cluster.namespace("home").unwrap(),
        cluster.namespace("shop").unwrap(),
    );
    let settings = json!({ "sidecar": SIDECAR, "rules": rules("*/kept/*") });
    let manifest = cluster::policy("image-mirror", &settings);
    let policy = GlobalObject::create(&cluster, manifest.clone()).unwrap();
    let edit = |rules: Value| {
        let fields = json!({ "spec": { "settings": { "rules": rules } } });
        cluster.merge_global(&manifest, &fields).unwrap();
    };
    let account = cluster.sidecar_account(&home, "mirror-sidecar").unwrap();
    let world = World::with(|sidecar| {
        sidecar
            .environment("KUBECONFIG", account.kubeconfig())
            .environment("POD_NAME", "mirror-sidecar-0")
            .environment("POD_NAMESPACE", home.name())
            .argument("--kubernetes=on")
            .argument("--recheck-interval=1s")
            .argument(format!("--facade-address={SIDECAR}"))
    });
    let kept = push(&world, "kept/app", 1);
    let mirrored = push(&world, "mirrored/app", 2);
    let from = world.upstream.requests().len();
    run(&shop, "web", &[&kept, &mirrored]);
    world.wait_until_copied([&mirrored]);
    assert_eq!(requests(&world, from, "kept/app"), [] as [&str; 0]);

    // The other way round.
    edit(rules("*/mirrored/*"));
    world.wait_until_copied([&kept]);

    // The last valid rules stay in force.
    edit(json!([{ "images": ["*/kept/*"], "action": "drop" }]));
    let is_warning = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with("cannot parse the policy") && event["policy"] == "image-mirror"
    };
    world.sidecar.wait_for(DEADLINE, is_warning).unwrap();
    let kept = push(&world, "mirrored/later", 3);
    let mirrored = push(&world, "kept/later", 4);
    let from = world.upstream.requests().len();
    run(&shop, "later", &[&kept, &mirrored]);
    world.wait_until_copied([&mirrored]);
    assert_eq!(requests(&world, from, "mirrored/later"), [] as [&str; 0]);

    let wait_for_event = |reason: &str, words: &str| {
        let deadline = Instant::now() + DEADLINE;
        let event = loop {
            let events = cluster.list("events.k8s.io/v1", "Event").unwrap();
            let mut events = events.into_iter();
            if let Some(event) = events.find(|event| event["reason"] == reason) {
                break event;
            }
            assert!(
                Instant::now() < deadline,
                "there is no Event {reason}: {}",
                world.sidecar.lines().join("\n")
            );
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(event["regarding"]["kind"], "ClusterAdmissionPolicy");
        assert_eq!(event["regarding"]["name"], "image-mirror");
        assert_eq!(event["type"], "Warning");
        let note = event["note"].as_str().unwrap();
        assert!(note.contains(words), "{note}");
    };
    wait_for_event("PolicyInvalid", "`rules[0].action`");

    // Rules that are valid, and that the backups of this service do not fit.
    edit(json!([{ "images": ["*/mirrored/*"], "action": "mirror", "backup": "team-b" }]));
    wait_for_event(
        "BackupUnknown",
        "`rules[0].backup` is team-b, and mirror-sidecar defines only default; add team-b",
    );
    let backup = format!("{}/{REPOSITORY}", world.backup.address());
    edit(json!([
        { "images": ["quay.io/*"], "action": "rewrite", "target": format!("{backup}/quay") },
        { "images": ["*/mirrored/*"], "action": "keep" },
    ]));
    wait_for_event(
        "RuleConflict",
        &format!("`rules[0].target` overlaps backup default ({backup})"),
    );

    // Without a policy the flags decide.
    drop(policy);
    world.wait_until_copied([&kept]);
}
