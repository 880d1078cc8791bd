//! The sidecar beside a real API server, with the rights to look and no others, and without the policy.

use std::collections::BTreeSet;

use e2e_tests::cluster::{self, Rights};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::json;

use crate::manifests::{Kind, pod_spec};
use crate::rights::Use;
use crate::support::World;

/// What is published, as far as it is to look at what runs.
fn rights() -> Vec<PolicyRule> {
    let mut rules = Rights::published().unwrap().everywhere;
    for rule in &mut rules {
        rule.verbs.retain(|verb| verb == "list" || verb == "watch");
    }
    // Pull Secrets are limited to a name, and not looked at by who makes none.
    rules.retain(|rule| !rule.verbs.is_empty() && rule.resource_names.is_none());
    rules
}

#[test]
fn what_runs_already_is_copied_without_being_asked_for() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let _policies = cluster.define_policies().unwrap();
    let shop = cluster.namespace("shop").unwrap();
    let excluded = cluster.namespace("excluded").unwrap();
    let rights = rights();
    let account = cluster.account(&shop, "mirror-sidecar", &rights).unwrap();
    let world = World::with(|sidecar| {
        sidecar
            .argument("--kubernetes=watch")
            .argument("--facade-address=mirror-sidecar.image-mirror.svc:5000")
            .argument("--parallel-copies")
            .argument("1")
            .environment("KUBECONFIG", account.kubeconfig())
            .environment("EXCLUDE_NAMESPACES", format!("{},kube-*", excluded.name()))
    });

    // Nobody's images first, so that they would be copied before the others.
    let left_alone = Kind::Deployment.manifest("web", json!({
        "containers": [{"name": "a", "image": format!("{}/excluded:1", world.upstream.localhost())}]
    }), "batch/v1");
    excluded.create(&left_alone).unwrap();
    let mut all = BTreeSet::new();
    for kind in [Kind::Deployment, Kind::Job, Kind::Pod] {
        let mut manifest = kind.manifest("web", pod_spec(), "batch/v1");
        let stock = world.stock(&mut manifest);
        shop.create(&manifest).unwrap();
        all.extend(stock.into_keys());
    }
    world.wait_until_copied(&all);
    let events = world.sidecar.events();
    let mentions = |event: &&serde_json::Value| event.to_string().contains("/excluded:1");
    assert_eq!(events.iter().find(mentions), None);

    // It did all that it may, and nothing else.
    world.sidecar.stop().unwrap();
    Use::of(&cluster, &account, &rights).assert_complete();
}
