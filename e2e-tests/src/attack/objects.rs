//! Kubernetes objects of a tenant.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::connections::{self, Addresses, Kind, Port, Service};
use super::site::{REPOSITORY, Site, wait};
use super::{Attack, Measured, Setup};
use testkit::api_server::{ApiServer, Page};
use testkit::blocking;
use testkit::scripted::Fake;

/// More than are remembered.
const WORKLOADS: usize = 60_000;
/// Names that are asked for.
const INVENTED: usize = 10_000;

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
    Attack {
        name: "Everything filled at the same time: 60,000 workloads with the longest names, 10,000 invented names, manifests of 8 MiB, layers that trickle, 1,000 connections",
        bound: "128 MiB, process alive",
        is_short: false,
        run: all_at_once,
    },
];

/// Namespaces over which the workloads are spread, so that no limit of one namespace keeps the others small.
const NAMESPACES: usize = 20;
/// How long everything lasts.
const LASTING: Duration = Duration::from_mins(1);

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

/// Fills everything that has a bound: the index of the cluster, the queue, the memory for manifests and for blobs, and the
/// connections.
fn all_at_once(setup: Setup) -> anyhow::Result<Measured> {
    let (tricklers, trickling) = super::starvation::tricklers();
    let bombs = super::foreign_bytes::manifest_bombs(setup);
    let server = ApiServer::start(|path, from, limit| {
        Some(match path {
            REPLICA_SETS => Page::part(from, limit, WORKLOADS, long_names),
            _ => Page::default(),
        })
    });
    let kubeconfig = server.kubeconfig()?;
    let sources: Vec<&Fake> = tricklers.iter().chain(&bombs).collect();
    let mut site = Site::start_with(setup, &sources, |sidecar| {
        sidecar
            .argument("--kubernetes=watch")
            .environment("KUBECONFIG", kubeconfig.path())
    })?;
    let service = Service::of(&site.sidecar)?;
    let bombs = bombs.iter().cycle().take(setup.images).enumerate();
    let bombs = bombs.map(|(number, bomb)| format!("{}/team/bomb-{number}:1", bomb.host()));
    let long = "x".repeat(200);
    let invented = (0..INVENTED).map(|number| format!("name-{number}.example.invalid/{long}:1"));
    for image in bombs.chain(trickling).chain(invented) {
        // A sidecar that is killed refuses the rest; that is what is measured.
        let _ = site.ask(&image);
    }
    let connections = connections::Attack {
        kind: Kind::NeverReading,
        port: Port::Facade,
        addresses: Addresses::Many,
        clients: 1000,
        opened_per_second: 500,
        duration: LASTING,
    };
    blocking::run(connections::run(&service, connections))?;
    let is_watched = wait(LASTING, || {
        let (_, metrics) = site.sidecar.admin_get("/metrics").unwrap_or_default();
        let metric = "image_mirror_namespaces_over_limit ";
        let mut lines = metrics.lines();
        lines.any(|line| line.starts_with(metric) && !line.ends_with(" 0"))
    });
    let measured = site.memory()?;
    ensure!(
        is_watched || !measured.is_within_bound,
        "the limit of workloads was not reached"
    );
    Ok(measured)
}

/// A workload of which as much is remembered as can be.
fn long_names(number: usize) -> Value {
    let containers: Value = (0..4)
        .map(|container| {
            let repository = format!("{}-{}", "r".repeat(150), (number * 4 + container) % 9_000);
            json!({ "name": format!("c{container}"), "image": format!("registry.example.com/{repository}:1") })
        })
        .collect();
    let mut object = replica_set(number, &containers);
    object["metadata"]["name"] = json!(format!("{}-{number}", "n".repeat(240)));
    object["metadata"]["namespace"] = json!(format!("tenant-{}", number % NAMESPACES));
    object
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
    let server = ApiServer::start(move |path, from, limit| {
        Some(match path {
            REPLICA_SETS => Page::part(from, limit, count, |number| {
                replica_set(number, &containers(number, &address))
            }),
            _ => Page::default(),
        })
    });
    let kubeconfig = server.kubeconfig()?;
    let mut site = Site::start_again(setup, &[], backup, |sidecar| {
        sidecar
            .argument("--kubernetes=watch")
            .environment("KUBECONFIG", kubeconfig.path())
    })?;
    let is_listed = wait(Duration::from_mins(1), || {
        server.is_watched(REPLICA_SETS) || site.sidecar.admin_get("/healthz").is_err()
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
