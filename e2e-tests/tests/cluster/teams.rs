//! Rules for two teams with a backup each: which image comes from where, with which login, and how workloads follow edited
//! rules.

mod scene;

use std::time::Duration;

use e2e_tests::cluster;
use mirror_contract::Naming::{Flat, Nested};
use serde_json::{Value, json};
use testkit::fixtures::images_of;
use testkit::registry::Registry;

use crate::failover::pod_of;
use crate::manifests::spec_of;
use scene::{KEPT, Scene, content};

/// Rules that send the images of each team to its backup.
fn of_teams(scene: &Scene<'_>) -> Vec<Value> {
    vec![
        json!({ "namespaces": [scene.team_a.name()], "action": "mirror", "backup": "team-a" }),
        json!({ "namespaces": [scene.team_b.name()], "action": "mirror", "backup": "team-b" }),
    ]
}

/// A rule that rewrites images of the upstream registry in the namespace of team B.
fn to_hub(scene: &Scene<'_>, images: &str) -> Value {
    let images = format!("{}/{images}", scene.upstream.localhost());
    let target = scene.hub.localhost();
    json!({ "namespaces": [scene.team_b.name()], "images": [images], "action": "rewrite", "target": target })
}

#[test]
fn every_image_comes_from_where_its_rule_says_with_the_login_of_its_namespace() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let Some(scene) = Scene::start(&cluster) else {
        return;
    };
    let Scene {
        shop,
        team_a,
        team_b,
        preview,
        ..
    } = &scene;
    let pushes = scene.upstream.requests().len();
    let mut rules = vec![
        json!({ "images": [format!("{}/*", scene.kept.host())], "action": "keep" }),
        json!({ "namespaces": [preview.name()], "action": "keep" }),
        to_hub(&scene, "hub/*"),
    ];
    rules.extend(of_teams(&scene));
    scene.set_rules(&json!(rules));

    // Anyone may name the images of others.
    for (namespace, registry, repository) in [
        (team_a, &scene.of_b, "team-b"),
        (team_b, &scene.of_a, "team-a"),
    ] {
        let foreign = format!("{}/{repository}/tool:1", registry.address());
        let pod = scene.create_pod(namespace, "curious", &foreign);
        assert_eq!(images_of(spec_of(&pod)), [foreign]);
    }
    let from_hub = format!("{}/hub/redis:1", scene.hub.localhost());
    let workloads = [
        (shop, KEPT, scene.original(KEPT)),
        (team_a, KEPT, scene.original(KEPT)),
        (preview, "preview/demo", scene.original("preview/demo")),
        (
            shop,
            "shop/frontend",
            scene.copy("shop/frontend", "default", Flat),
        ),
        (team_a, "a/billing", scene.copy("a/billing", "team-a", Flat)),
        (team_b, "b/payroll", scene.copy("b/payroll", "team-b", Flat)),
        (team_b, "hub/redis", from_hub),
    ];
    for (namespace, name, _) in &workloads {
        scene.deploy(namespace, name);
    }
    for (namespace, name, expected) in &workloads {
        scene.wait_for_image(namespace, name, expected);
    }
    scene.wait_for_secrets(&[
        (shop, &["shared-pull"]),
        (team_a, &["team-a-pull"]),
        (team_b, &["team-b-pull", "hub-pull"]),
    ]);
    let registries: [(&dyn Registry, usize, &[&str]); 5] = [
        // The cache gets its image there.
        (
            &*scene.upstream,
            pushes,
            &["shop/frontend", "a/billing", "b/payroll", "hub/redis"],
        ),
        (&*scene.shared, 0, &["shop/frontend"]),
        (&*scene.of_a, 0, &["a/billing"]),
        (&*scene.of_b, 0, &["b/payroll"]),
        (&scene.hub, 0, &["hub/redis"]),
    ];
    for (registry, from, expected) in registries {
        Scene::assert_requested(registry, from, expected);
    }
    assert!(scene.kept.log().is_empty(), "{:?}", scene.kept.log());

    // Without the rules that keep, the same images are copied.
    rules.drain(..2);
    rules[2]["namespaces"] = json!([team_b.name(), preview.name()]);
    scene.set_rules(&json!(rules));
    for (namespace, name, backup) in [
        (shop, KEPT, "default"),
        (team_a, KEPT, "team-a"),
        (preview, "preview/demo", "team-b"),
    ] {
        scene.wait_for_image(namespace, name, &scene.copy(name, backup, Flat));
    }
    scene.wait_for_secrets(&[
        (shop, &["shared-pull"]),
        (team_a, &["team-a-pull"]),
        (team_b, &["team-b-pull", "hub-pull"]),
        (preview, &["team-b-pull"]),
    ]);
    Scene::assert_requested(&*scene.of_b, 0, &["b/payroll", "preview/demo"]);
}

#[test]
fn workloads_follow_another_naming_and_another_backup() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let Some(scene) = Scene::start(&cluster) else {
        return;
    };
    let team_a = &scene.team_a;
    let name = "a/billing";
    let [flat, nested, elsewhere] = [("team-a", Flat), ("team-a", Nested), ("default", Flat)]
        .map(|(backup, naming)| scene.copy(name, backup, naming));
    scene.set_rules(&json!(of_teams(&scene)));
    scene.deploy(team_a, name);
    scene.wait_for_image(team_a, name, &flat);
    // Running Pods do not follow.
    let pod = scene.create_pod(team_a, "running", &scene.original(name));
    assert_eq!(images_of(spec_of(&pod)), [flat.as_str()]);

    scene.set_naming("nested");
    scene.wait_for_image(team_a, name, &nested);
    scene.wait_for_secrets(&[(team_a, &["team-a-pull"])]);

    scene.set_rules(&json!([]));
    scene.wait_for_image(team_a, name, &elsewhere);
    scene.wait_for_secrets(&[(team_a, &["shared-pull", "team-a-pull"])]);
    assert_eq!(scene.pull(team_a, &flat), scene.pull(team_a, &elsewhere));
}

#[test]
#[ignore = "it takes eleven minutes; a unit test with a paused clock proves the same"]
fn the_login_of_a_former_rule_goes_ten_minutes_after_its_last_use() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let Some(scene) = Scene::start(&cluster) else {
        return;
    };
    let (team_a, name) = (&scene.team_a, "a/billing");
    scene.set_rules(&json!(of_teams(&scene)));
    scene.deploy(team_a, name);
    scene.wait_for_image(team_a, name, &scene.copy(name, "team-a", Flat));
    scene.set_rules(&json!([]));
    scene.wait_for_image(team_a, name, &scene.copy(name, "default", Flat));
    scene.wait_for_secrets(&[(team_a, &["shared-pull", "team-a-pull"])]);
    scene.wait_for_secrets_within(Duration::from_mins(11), &[(team_a, &["shared-pull"])]);
}

#[test]
fn a_copy_stays_until_its_workload_changes_when_a_rewrite_replaces_its_rule() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let Some(scene) = Scene::start(&cluster) else {
        return;
    };
    let team_b = &scene.team_b;
    let name = "b/payroll";
    let copy = scene.copy(name, "team-b", Flat);
    scene.set_rules(&json!(of_teams(&scene)));
    let mut manifest = scene.deploy(team_b, name);
    scene.wait_for_image(team_b, name, &copy);

    let mut rules = vec![to_hub(&scene, "*")];
    rules.extend(of_teams(&scene));
    scene.set_rules(&json!(rules));
    scene.deploy(team_b, "hub/redis");
    let from_hub = |name: &str| format!("{}/{name}:1", scene.hub.localhost());
    scene.wait_for_image(team_b, "hub/redis", &from_hub("hub/redis"));
    let applied = team_b.apply(&manifest).unwrap();
    assert_eq!(images_of(spec_of(&applied)), [copy.as_str()]);
    assert_eq!(applied["metadata"]["generation"], 2);

    // The target may be asked for the image for the first time.
    let mut tries = 0;
    scene.wait_until("the image of the target", || {
        tries += 1;
        manifest["spec"]["template"]["metadata"]["labels"]["try"] = tries.to_string().into();
        let applied = team_b.apply(&manifest).unwrap();
        images_of(spec_of(&applied)) == [from_hub(name)]
    });
    scene.pull(team_b, &from_hub(name));
}

#[test]
fn new_pods_use_originals_while_the_backup_of_a_former_rule_is_unavailable() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let Some(mut scene) = Scene::start(&cluster) else {
        return;
    };
    let name = "a/billing";
    let copy = scene.copy(name, "team-a", Flat);
    scene.set_rules(&json!(of_teams(&scene)));
    let manifest = scene.deploy(&scene.team_a, name);
    scene.wait_for_image(&scene.team_a, name, &copy);
    let workload = scene.team_a.get(&manifest).unwrap();

    scene.set_rules(&json!([{ "action": "keep" }]));
    let pod = scene.team_a.create(&pod_of(&workload, "before")).unwrap();
    assert_eq!(images_of(spec_of(&pod)), [copy.as_str()]);
    scene.of_a.stop();
    scene.wait_for_message("the backup registry cannot be reached or used");
    let pod = scene.team_a.create(&pod_of(&workload, "during")).unwrap();
    let original = format!("{}@{}", scene.original(name), content(name).digest());
    assert_eq!(images_of(spec_of(&pod)), [original]);
}
