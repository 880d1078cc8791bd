//! Kubernetes objects of a tenant.

use std::time::Duration;

use anyhow::ensure;
use axum::http::Method;
use serde_json::{Value, json};

use super::site::{REPOSITORY, Site, wait};
use super::{Attack, Measured, Setup};
use crate::blocking;
use crate::scripted::Fake;

const REPLICA_SETS: &str = "/apis/apps/v1/replicasets";

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "50 ReplicaSets with a variable of 1.4 MB each",
        bound: "128 MiB, process alive",
        is_short: true,
        run: large_objects,
    },
    Attack {
        name: "400 ReplicaSets that name 256 invented copies each",
        bound: "128 MiB, process alive",
        is_short: true,
        run: invented_copies,
    },
];

fn large_objects(setup: Setup) -> anyhow::Result<Measured> {
    let value = "x".repeat(1_400_000);
    watched(
        setup,
        50,
        move |number, _| json!([{ "name": "app", "image": format!("registry.example/app-{number}:1"), "env": [{ "name": "V", "value": value }] }]),
    )
}

fn invented_copies(setup: Setup) -> anyhow::Result<Measured> {
    watched(setup, 400, |number, backup| {
        let containers = (0..256).map(|container| {
            let image = format!("{backup}/{REPOSITORY}/evil.example-app-{number}-{container}:1");
            json!({ "name": format!("c{container}"), "image": image })
        });
        containers.collect()
    })
}

/// Lets a sidecar list and watch so many `ReplicaSet`s of one namespace, whose containers are made from their number and the
/// address of the backup.
fn watched(
    setup: Setup,
    count: usize,
    containers: impl Fn(usize, &str) -> Value + Send + Sync + 'static,
) -> anyhow::Result<Measured> {
    let backup = blocking::run(Fake::start());
    let address = backup.host();
    let server = super::api::serve(move |path, from, limit| {
        if path != REPLICA_SETS {
            return (Vec::new(), false);
        }
        let until = (from + limit).min(count);
        let objects =
            (from..until).map(|number| replica_set(number, &containers(number, &address)));
        (objects.collect(), until < count)
    });
    let kubeconfig = super::api::kubeconfig(&server)?;
    let mut site = Site::start_again(setup, &[], backup, |sidecar| {
        sidecar
            .argument("--kubernetes=watch")
            .environment("KUBECONFIG", kubeconfig.path())
    })?;
    let is_listed = wait(Duration::from_mins(1), || {
        server
            .asked(&Method::GET, REPLICA_SETS)
            .iter()
            .any(|entry| entry.query.contains("watch=true"))
            || site.sidecar.admin_get("/healthz").is_err()
    });
    // Looking up what was listed begins.
    std::thread::sleep(Duration::from_secs(5));
    let measured = site.memory()?;
    ensure!(
        is_listed || !measured.is_within_bound,
        "the objects were not listed"
    );
    Ok(measured)
}

fn replica_set(number: usize, containers: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": format!("rs-{number}"), "namespace": "tenant", "uid": format!("rs-{number}"), "resourceVersion": "7" },
        "spec": { "replicas": 1, "template": { "metadata": {}, "spec": { "containers": containers } } },
    })
}
