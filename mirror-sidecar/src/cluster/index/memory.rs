//! How much memory a large cluster takes.

use std::fs;
use std::io::{Write as _, stdout};
use std::process::Command;

use serde_json::{Value, json};

use super::tests::{SECRET, rules};
use super::{Change, Index, Limits};
use crate::cluster::workload::Watched;
use crate::cluster::workload_kind::{Kind, WorkloadKind};

const WORKLOADS: usize = 20_000;
const PODS: usize = 50_000;
/// Bytes for each of them.
const LIMIT: usize = 1024;

const MEASURE: &str = "IMAGE_MIRROR_MEASURE_MODEL";
const REPORT: &str = "bytes an object: ";

/// Other tests would be measured too, so it is done in a process of its own.
#[test]
fn an_object_takes_less_than_a_kibibyte() {
    if std::env::var_os(MEASURE).is_some() {
        let report = format!("{REPORT}{}\n", measure());
        return stdout().write_all(report.as_bytes()).unwrap();
    }
    let name = "cluster::index::memory::an_object_takes_less_than_a_kibibyte";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MEASURE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    let figure = text
        .split(REPORT)
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let bytes: usize = figure
        .unwrap_or_else(|| panic!("no figure: {child:?}"))
        .parse()
        .unwrap();
    assert!(
        (100..LIMIT).contains(&bytes),
        "{bytes} bytes for each object"
    );
}

/// Bytes of resident memory for each object, what the allocator wastes included.
fn measure() -> usize {
    // What the first object brings along is not counted.
    let mut index = Index::with_limits(rules(), Limits::of(100_000));
    tell(&mut index, WorkloadKind::Pod, PODS);
    let before = resident();
    for number in 0..WORKLOADS / 2 {
        tell(&mut index, WorkloadKind::Deployment, number);
        tell(&mut index, WorkloadKind::ReplicaSet, number);
    }
    for number in 0..PODS {
        tell(&mut index, WorkloadKind::Pod, number);
    }
    assert_eq!(index.len(), WORKLOADS + PODS + 1);
    (resident() - before) / index.len()
}

fn tell(index: &mut Index, kind: WorkloadKind, number: usize) {
    // As it comes from the API server, text first.
    let text = object(kind, number).to_string();
    let watched: Watched = serde_json::from_str(&text).unwrap();
    let object = watched.into_object(Kind::Workload(kind)).unwrap();
    assert!(index.apply(Change::Seen(object)));
}

/// Three of four images are not rewritten yet, of 3 000 different ones.
fn object(kind: WorkloadKind, number: usize) -> Value {
    let spec = json!({
        "containers": [
            {"image": format!("registry.example.com/organisation/service-{}:v1.{}.0", number % 300, number % 3000)},
            {"image": "docker.io/envoyproxy/envoy:v1.31.0"},
        ],
        "initContainers": [
            {"image": format!("quay.io/organisation/migrations-{}:v2", number % 300)},
            {"image": format!("ghcr.io/acme/docker.io-library-tool:{}", number % 100)},
        ],
        "imagePullSecrets": [{"name": SECRET}],
    });
    let is_owned = kind != WorkloadKind::Deployment;
    json!({
        "metadata": {
            "name": format!("some-service-{number:05}-7f9c6d5b84-x7k2p"),
            "namespace": format!("team-{:03}-production", number % 500),
            "uid": format!("6f1c1f0a-6a2b-4a7e-9d5c-{number:012}"),
            "generation": 3,
            "creationTimestamp": "2026-11-23T01:02:03Z",
            "ownerReferences": [{"controller": is_owned}],
            "labels": {"app": "some-service"},
        },
        "spec": match kind {
            WorkloadKind::Pod => spec,
            _ => json!({"replicas": 2, "template": {"spec": spec}}),
        },
        "status": {"phase": "Running"},
    })
}

/// Bytes of resident memory of this process (proc(5), `VmRSS` in kB).
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}
