//! The API server as a tool of the tests: users, the audit log, kill and restart.

use std::collections::BTreeSet;

use e2e_tests::cluster;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use testkit::blocking;

use crate::manifests::{Kind, pod_spec};

fn rule(resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        ..PolicyRule::default()
    }
}

fn config_map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "a": "b" } })
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

#[test]
fn an_account_may_do_what_its_rules_say_and_the_audit_log_tells_what_it_did() {
    let Some(cluster) = cluster::audited() else {
        return;
    };
    let namespace = cluster.namespace("audit").unwrap();
    let rules = [rule("configmaps", &["create", "get"])];
    let account = cluster.account(&namespace, "reader", &rules).unwrap();
    let seen_by_account = namespace.with(account.client());
    seen_by_account.create(&config_map("mine")).unwrap();
    assert_eq!(
        seen_by_account.get(&config_map("mine")).unwrap()["data"]["a"],
        "b"
    );
    let refused = seen_by_account.list("v1", "Secret").unwrap_err();
    assert_eq!(code(&refused), 403);

    let done: BTreeSet<_> = cluster
        .requests()
        .into_iter()
        .filter(|request| request.user == account.user())
        .map(|request| (request.verb, request.resource, request.name, request.status))
        .collect();
    let expected = [
        ("create", "configmaps", "mine", 201),
        ("get", "configmaps", "mine", 200),
        ("list", "secrets", "", 403),
    ];
    let expected = expected
        .map(|(verb, resource, name, status)| (verb.into(), resource.into(), name.into(), status));
    assert_eq!(done, BTreeSet::from(expected));
}

#[test]
fn a_kubeconfig_is_all_that_another_process_needs() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let namespace = cluster.namespace("kubeconfig").unwrap();
    let rules = [rule("configmaps", &["create"])];
    let account = cluster.account(&namespace, "writer", &rules).unwrap();
    let kubeconfig = Kubeconfig::read_from(account.kubeconfig()).unwrap();
    let client = blocking::run(async {
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        assert_eq!(config.default_namespace, namespace.name());
        Ok::<_, anyhow::Error>(Client::try_from(config)?)
    })
    .unwrap();
    namespace
        .with(client)
        .create(&config_map("theirs"))
        .unwrap();
    namespace.get(&config_map("theirs")).unwrap();
}

#[test]
fn whoever_is_alone_finds_nothing_of_others() {
    let Some(first) = cluster::alone_and_audited() else {
        return;
    };
    let namespace = first.namespace("left").unwrap();
    let batch = if first.serves("batch/v1", "CronJob").unwrap() {
        "batch/v1"
    } else {
        "batch/v1beta1"
    };
    for kind in Kind::ALL {
        let manifest = kind.manifest("web", pod_spec(), batch);
        namespace.create(&manifest).unwrap();
    }
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "left" } });
    namespace.create(&secret).unwrap();
    // It is in use, so another test gets another one.
    let second = cluster::alone_and_audited().unwrap();
    assert_ne!(first.address(), second.address());
    drop(first);
    let third = cluster::alone_and_audited().unwrap();
    assert_ne!(second.address(), third.address());
    for kind in Kind::ALL {
        let left = third.list(kind.api_version(batch), kind.name()).unwrap();
        assert_eq!(left, [] as [Value; 0]);
    }
    assert_eq!(third.list("v1", "Secret").unwrap(), [] as [Value; 0]);
}

#[test]
fn what_is_stored_survives_a_kill_and_clients_find_the_server_again() {
    let Some(mut cluster) = cluster::own() else {
        return;
    };
    let namespace = cluster.namespace("restart").unwrap();
    let rules = [rule("configmaps", &["get"])];
    let account = cluster.account(&namespace, "reader", &rules).unwrap();
    let seen_by_account = namespace.with(account.client());
    namespace.create(&config_map("kept")).unwrap();
    cluster.stop();
    namespace.get(&config_map("kept")).unwrap_err();
    cluster.restart().unwrap();
    assert_eq!(
        seen_by_account.get(&config_map("kept")).unwrap()["data"]["a"],
        "b"
    );
}
