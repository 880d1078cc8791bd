//! Workloads that were there before image-mirror get their copies without anybody touching them, and no others are touched.

pub mod shop;

use std::time::{Duration, Instant, SystemTime};

use e2e_tests::cluster;
use serde_json::{Value, json};
use testkit::fixtures::images_of;

use crate::manifests::{Kind, pod_spec, renamed, spec_of};
use crate::rights::events;
use crate::stage::assert_images_stay;
use shop::{MARK, Shop, figure};

/// As fast as the API server answers.
const FAST: &str = "--readmit-per-minute=1000";

#[test]
fn what_ran_before_is_rewritten_once_without_being_touched() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut shop = Shop::new(&cluster);
    let mut kinds = vec![
        Kind::Deployment,
        Kind::DaemonSet,
        Kind::StatefulSet,
        Kind::ReplicaSet,
        Kind::ReplicationController,
    ];
    // The sidecar knows no older version of it.
    if cluster.serves("batch/v1", "CronJob").unwrap() {
        kinds.push(Kind::CronJob);
    }
    let all = kinds
        .into_iter()
        .map(|kind| shop.create(kind, "web", pod_spec()));
    let all: Vec<_> = all.collect();
    let immutable = [Kind::Job, Kind::Pod].map(|kind| shop.create(kind, "web", pod_spec()));
    shop.install_policy();
    shop = shop.start_sidecar(&[FAST]);

    for (manifest, stock) in &all {
        let stored = shop.wait_until_rewritten(manifest);
        shop.assert_uses_copies(&stored, manifest, stock);
        assert_eq!(stored["metadata"]["generation"], 2, "{stored}");
        let mark = stored["metadata"]["annotations"][MARK].as_str().unwrap();
        assert!(mark.ends_with('Z'), "{mark}");
        let managers = stored["metadata"]["managedFields"].as_array().unwrap();
        let ours = managers
            .iter()
            .find(|entry| entry["manager"] == "mirror-sidecar");
        let owned = &ours.unwrap()["fieldsV1"];
        assert!(owned.to_string().contains(MARK), "{owned}");
    }
    shop.wait_until_idle();
    for (manifest, _) in &immutable {
        assert_images_stay(&shop.namespace.get(manifest).unwrap(), manifest);
    }
    let patches = shop.patches();
    assert_eq!(patches.len(), all.len() + 1, "{patches:?}");
    for (manifest, _) in &all {
        assert_eq!(shop.patches_of(manifest), 1);
    }
    shop.wait_until("all to be counted", |shop| {
        shop.count("rewritten") == patches.len()
    });
    assert_eq!(
        shop.count("unchanged") + shop.count("failed") + shop.count("outdated"),
        0
    );

    // Whoever starts later finds nothing to do.
    shop = shop.start_sidecar(&[FAST]);
    shop.wait_until_idle();
    assert_eq!(shop.patches().len(), patches.len() + 1);
}

/// An opt-out on the object or its template, a paused rollout, an owner, an excluded namespace.
#[test]
fn what_must_be_left_alone_is_never_patched() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut shop = Shop::new(&cluster);
    let excluded = cluster.namespace("excluded").unwrap();
    let (plain, _) = shop.create(Kind::Deployment, "plain", pod_spec());
    let skip = json!({ "image-mirror.dev/skip": "true" });
    let owner = json!([{
        "apiVersion": "example.com/v1", "kind": "App", "name": "app", "uid": "0b1f4a52-3a36-4a37-9a5c-6e2f3c5d7e11", "controller": true,
    }]);
    let mut left_alone = Vec::new();
    for (name, pointer, value) in [
        ("opted-out", "/metadata/annotations", skip.clone()),
        (
            "opted-out-below",
            "/spec/template/metadata/annotations",
            skip,
        ),
        ("paused", "/spec/paused", json!(true)),
        ("owned", "/metadata/ownerReferences", owner),
    ] {
        let mut manifest = renamed(&plain, name);
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        manifest.pointer_mut(parent).unwrap()[field] = value;
        shop.namespace.create(&manifest).unwrap();
        left_alone.push((shop.namespace.clone(), manifest));
    }
    excluded.create(&plain).unwrap();
    left_alone.push((excluded.clone(), plain.clone()));
    shop.install_policy();
    shop = shop.start_sidecar(&[FAST, &format!("--exclude-namespaces={}", excluded.name())]);

    shop.wait_until_rewritten(&plain);
    shop.wait_until_idle();
    for (namespace, manifest) in &left_alone {
        let stored = namespace.get(manifest).unwrap();
        assert_images_stay(&stored, manifest);
        assert_eq!(stored["metadata"]["annotations"][MARK], Value::Null);
    }
    let patches = shop.patches();
    assert_eq!(patches.len(), 2, "{patches:?}");
}

/// Nothing is changed, it is said once, and all is made up for when the policy is there.
#[test]
fn the_policy_may_come_later() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut shop = Shop::new(&cluster);
    let (first, _) = shop.create(Kind::Deployment, "web-00", pod_spec());
    let all: Vec<_> = (0..11)
        .map(|number| renamed(&first, &format!("web-{number:02}")))
        .collect();
    for manifest in &all[1..] {
        shop.namespace.create(manifest).unwrap();
    }
    let stored = |shop: &Shop<'_>| -> Vec<Value> {
        let all = all.iter();
        all.map(|manifest| shop.namespace.get(manifest).unwrap())
            .collect()
    };
    let before = stored(&shop);
    shop = shop.start_sidecar(&[FAST]);
    shop.wait_for_log("policy rewrites no workload");
    assert_eq!(shop.count("unchanged"), 10);
    // It is about none of them.
    assert_eq!(shop.events("policy does not rewrite the workload"), 0);
    assert_eq!(shop.patches(), []);
    assert_eq!(stored(&shop), before);

    shop.install_policy();
    for manifest in &all {
        shop.wait_until_rewritten(manifest);
        assert_eq!(shop.patches_of(manifest), 1);
    }
}

/// Something changes the workload after each try, as another webhook may do, and nothing ever replaces its images.
#[test]
fn something_else_that_changes_it_each_time_makes_no_loop() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut shop = Shop::new(&cluster);
    let (web, _) = shop.create(Kind::Deployment, "web", pod_spec());
    shop = shop.start_sidecar(&[FAST]);
    shop.wait_for_log("policy does not rewrite the workload");
    for replicas in 2..5 {
        let spec = json!({ "spec": { "replicas": replicas } });
        shop.namespace.merge(&web, &spec).unwrap();
    }
    // What comes afterwards was seen, so the change was seen too.
    let later = renamed(&web, "later");
    shop.namespace.create(&later).unwrap();
    shop.wait_until("the other one's try", |shop| shop.dry_runs_of(&later) == 1);
    // The second one made sure that the first did not meet an outage.
    assert_eq!(shop.dry_runs_of(&web), 2);
    assert_eq!(shop.patches(), []);

    shop.wait_until("the Event", |shop| {
        !events(&shop.namespace, "NotRewritten").is_empty()
    });
    let told = events(&shop.namespace, "NotRewritten");
    let [event] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(event["type"], "Warning", "{event}");
    let about = &shop.namespace.get(&web).unwrap()["metadata"];
    assert_eq!(event["regarding"]["kind"], "Deployment", "{event}");
    for field in ["name", "uid"] {
        assert_eq!(event["regarding"][field], about[field], "{event}");
    }
    // Once.
    assert_eq!(event["series"], Value::Null, "{event}");
}

#[test]
fn off_patches_nothing() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut shop = Shop::new(&cluster);
    let (web, stock) = shop.create(Kind::Deployment, "web", pod_spec());
    shop.install_policy();
    shop = shop.start_sidecar(&[FAST, "--readmit=off", "--recheck-interval=2s"]);
    shop.world.wait_until_copied(stock.keys());
    // Whoever re-admits does it when a copy is seen to be there; here each of them is seen twice.
    let seen = |shop: &Shop<'_>| {
        figure(
            &shop.world.sidecar,
            "backup_checks_total{result=\"present\"}",
        )
    };
    let before = seen(&shop);
    shop.wait_until("two more looks at the copies", |shop| {
        seen(shop) >= before + 2 * stock.len()
    });
    assert_images_stay(&shop.namespace.get(&web).unwrap(), &web);
    assert_eq!(shop.tries_and_patches(), []);
    // Another sidecar does: all that it needs is there.
    shop = shop.start_sidecar(&[FAST]);
    shop.wait_until_rewritten(&web);
}

/// Two replicas see the same workloads, and each of these is the work of one of them.
#[test]
fn of_two_replicas_one_patches() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut shop = Shop::new(&cluster);
    let home = format!("--own-namespace={}", shop.namespace.name());
    shop = shop.start_sidecar(&[FAST, "--replica=a", &home]);
    let other = shop.with_cluster(&[FAST, "--replica=b", &home]);
    let other = other.start().unwrap();
    shop.wait_until("the replicas to find each other", |shop| {
        [&shop.world.sidecar, &other].map(|sidecar| figure(sidecar, "replicas")) == [2, 2]
    });
    shop.install_policy();
    let rewritten = |shop: &Shop<'_>| {
        [&shop.world.sidecar, &other]
            .map(|sidecar| figure(sidecar, "readmissions_total{result=\"rewritten\"}"))
    };
    let mut all = Vec::new();
    // Whose work a workload is depends on its uid.
    while rewritten(&shop).contains(&0) {
        assert!(all.len() < 30, "one of them does nothing");
        for _ in 0..4 {
            // There is no copy yet when it is created.
            let name = format!("web-{}", all.len());
            let spec =
                json!({ "containers": [{ "name": "app", "image": format!("acme/{name}:1") }] });
            all.push(shop.create(Kind::Deployment, &name, spec).0);
        }
        for manifest in &all {
            shop.wait_until_rewritten(manifest);
        }
        shop.wait_until("all to be counted", |shop| {
            rewritten(shop).iter().sum::<usize>() == all.len()
        });
    }
    for manifest in &all {
        assert_eq!(shop.patches_of(manifest), 1);
        assert_eq!(shop.dry_runs_of(manifest), 1);
    }
}

#[test]
fn new_leaves_alone_what_ran_before() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut shop = Shop::new(&cluster);
    let (old, _) = shop.create(Kind::Deployment, "old", pod_spec());
    shop.install_policy();
    shop = shop.start_sidecar(&[FAST, "--readmit=new"]);
    // Times of creation are kept to the second: what is created in the second of the start is as good as before.
    let second = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let start = second(SystemTime::now());
    while second(SystemTime::now()) == start {
        std::thread::sleep(Duration::from_millis(10));
    }
    let image = json!({ "containers": [{ "name": "app", "image": "redis:7" }] });
    let (new, _) = shop.create(Kind::Deployment, "new", image);
    assert_images_stay(&shop.namespace.get(&new).unwrap(), &new);
    shop.wait_until_rewritten(&new);
    assert_eq!(shop.patches_of(&old), 0);
    assert_images_stay(&shop.namespace.get(&old).unwrap(), &old);
    assert_eq!(shop.patches().len(), 1);
}

#[test]
fn the_rate_is_kept() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut shop = Shop::new(&cluster);
    let (first, _) = shop.create(Kind::Deployment, "web-0", pod_spec());
    let all: Vec<_> = (0..5)
        .map(|number| renamed(&first, &format!("web-{number}")))
        .collect();
    for manifest in &all[1..] {
        shop.namespace.create(manifest).unwrap();
    }
    shop.install_policy();
    let start = Instant::now();
    shop = shop.start_sidecar(&["--readmit-per-minute=12"]);
    for manifest in &all {
        shop.wait_until_rewritten(manifest);
    }
    // Three at once, then one every five seconds.
    assert!(
        start.elapsed() >= Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(shop.patches().len(), 5);
}

/// What a patch relies on: a wrong uid is refused (with 422 in version 1.20, 409 is as good), and a specification that just
/// changed is no obstacle.
#[test]
fn the_api_server_patches_the_object_that_is_meant() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let namespace = cluster.namespace("patches").unwrap();
    let web = Kind::Deployment.manifest("web", pod_spec(), "batch/v1");
    let first = namespace.create(&web).unwrap();
    let patch =
        |uid: &Value| json!({ "metadata": { "uid": uid, "annotations": { MARK: "1-aa" } } });
    namespace.delete(&web).unwrap();
    let error = namespace
        .merge(&web, &patch(&first["metadata"]["uid"]))
        .unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if status.code == 404),
        "{error}"
    );

    let second = namespace.create(&web).unwrap();
    let error = namespace
        .merge(&web, &patch(&first["metadata"]["uid"]))
        .unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if matches!(status.code, 409 | 422)),
        "{error}"
    );
    assert_eq!(namespace.get(&web).unwrap(), second);

    namespace
        .merge(&web, &json!({ "spec": { "replicas": 2 } }))
        .unwrap();
    let patched = namespace
        .merge(&web, &patch(&second["metadata"]["uid"]))
        .unwrap();
    // The annotation counts as a change of a Deployment, but starts no rollout.
    assert_eq!(patched["metadata"]["generation"], 3);
    assert_eq!(images_of(spec_of(&patched)), images_of(spec_of(&web)));
    let again = namespace
        .merge(&web, &patch(&second["metadata"]["uid"]))
        .unwrap();
    assert_eq!(
        again["metadata"]["resourceVersion"],
        patched["metadata"]["resourceVersion"]
    );

    for kind in [
        Kind::StatefulSet,
        Kind::DaemonSet,
        Kind::ReplicaSet,
        Kind::ReplicationController,
    ] {
        let web = kind.manifest("web", pod_spec(), "batch/v1");
        let stored = namespace.create(&web).unwrap();
        let patched = namespace
            .merge(&web, &patch(&stored["metadata"]["uid"]))
            .unwrap();
        assert_eq!(patched["metadata"]["generation"], 1, "{kind:?}");
    }
}
