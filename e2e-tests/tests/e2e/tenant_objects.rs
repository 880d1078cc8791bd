//! The real process beside a scripted API server whose objects are a tenant's: large ones, many images, invented copies.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use e2e_tests::attack::limits::peak;
use mirror_contract::{Backup, ImageRef, Naming};
use serde_json::json;
use testkit::api_server::{ApiServer, Page};
use testkit::blocking;
use testkit::scripted::Fake;
use testkit::sidecar::Sidecar;

const REPLICA_SETS: &str = "/apis/apps/v1/replicasets";

/// Objects with an environment variable of 1.4 MB each.
const LARGE: usize = 50;
/// Objects with [`IMAGES`] invented images each.
const CROWDED: usize = 400;
const IMAGES: usize = 256;

/// New images that the namespace may have copied in a day.
const BUDGET: usize = 20;

/// Resident memory of an idle process of a debug build, and what the objects may add to it: they have 70 MB, and the
/// images that they name another 10 MB.
const MAX_PEAK_MIB: u64 = 64;

/// How long everything may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// The large objects come between the others.
fn replica_set(number: usize, address: &str) -> String {
    let is_large = number % 9 == 8;
    let env = if is_large {
        "x".repeat(1_400_000)
    } else {
        String::new()
    };
    let images = if is_large { 1 } else { IMAGES };
    let containers: Vec<_> = (0..images)
        .map(|image| json!({"name": "a", "image": spelling(number * IMAGES + image, address)}))
        .collect();
    json!({
        "metadata": {"name": format!("crowd-{number}"), "namespace": "shop", "uid": number.to_string(), "resourceVersion": "5"},
        "spec": {"replicas": 1, "template": {"spec": {
            "containers": containers, "initContainers": [{"name": "b", "env": [{"name": "A", "value": env}]}],
        }}},
    })
    .to_string()
}

/// An image, or a copy that somebody invented, in one of the ways to write it.
fn spelling(number: usize, address: &str) -> String {
    let digest = format!("sha256:{number:064x}");
    let original = match number % 3 {
        0 => format!("{address}/evil/a:{number}"),
        1 => format!("{address}/evil/a@{digest}"),
        _ => format!("{address}/evil/a:{number}@{digest}"),
    };
    if number.is_multiple_of(2) {
        return original;
    }
    let backup = Backup::new(address, "acme", Naming::Flat).unwrap();
    backup
        .target(&ImageRef::parse(&original).unwrap())
        .unwrap()
        .to_string()
}

/// The manifests that were requested of the registry that the images name.
fn fetched(registry: &Fake) -> BTreeSet<String> {
    let log = registry.log().into_iter();
    let paths = log.map(|entry| entry.path);
    paths
        .filter(|path| path.starts_with("/v2/evil/") && path.contains("/manifests/"))
        .collect()
}

/// The Events with this reason about the namespace.
fn events(server: &ApiServer, reason: &str) -> usize {
    let events = server.stored("/apis/events.k8s.io/v1/events").into_iter();
    events
        .filter(|event| event["reason"] == reason && event["regarding"]["namespace"] == "shop")
        .count()
}

#[test]
fn a_tenant_can_neither_fill_the_memory_nor_choose_the_work() {
    let registry = blocking::run(Fake::start());
    let address = registry.host();
    let named = address.clone();
    let server = ApiServer::start(move |path, from, limit| {
        Some(match path {
            REPLICA_SETS => Page::part(from, limit, LARGE + CROWDED, |number| {
                replica_set(number, &named)
            }),
            _ => Page::default(),
        })
    });
    let kubeconfig = server.kubeconfig().unwrap();
    let mut sidecar = Sidecar::builder()
        .insecure_http()
        .without_facade_credential()
        .environment("KUBECONFIG", kubeconfig.path())
        .insecure_registry(&address);
    for argument in [
        "--kubernetes=on",
        "--readmit=off",
        "--repository=acme",
        "--registry",
        &address,
        "--private-registry",
        &address,
        &format!("--max-new-images-per-namespace={BUDGET}"),
    ] {
        sidecar = sidecar.argument(argument);
    }
    let sidecar = sidecar.start_listening().unwrap();

    let start = Instant::now();
    loop {
        let state = (
            server.is_watched(REPLICA_SETS),
            fetched(&registry).len(),
            events(&server, "LimitExceeded"),
            events(&server, "BudgetExceeded"),
        );
        if state.0 && state.1 >= BUDGET && state.2 > 0 && state.3 > 0 {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "{state:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let peak = peak(sidecar.pid()).unwrap() >> 20;
    sidecar.kill().unwrap();
    assert!(peak < MAX_PEAK_MIB, "{peak} MiB");
    // The budget refills while the test runs, but hardly.
    let fetched = fetched(&registry).len();
    assert!(fetched <= BUDGET + 1, "{fetched} images were fetched");
    assert_eq!(events(&server, "LimitExceeded"), 1);
    assert_eq!(events(&server, "BudgetExceeded"), 1);
}
