//! The memory that a large cluster and the largest object take.

use std::fs;
use std::io::{Write as _, stdout};
use std::process::Command;

use serde_json::{Value, json};

use super::{Change, Index, Limits, SECRET, rules};
use crate::cluster::workload::Watched;
use crate::cluster::workload_kind::{Kind, WorkloadKind};

const WORKLOADS: usize = 20_000;
const PODS: usize = 50_000;

const MEASURE: &str = "IMAGE_MIRROR_MEASURE_INDEX";
const REPORT: &str = "bytes: ";

#[test]
fn an_object_takes_less_than_a_kibibyte() {
    if let Some(bytes) = in_own_process("an_object_takes_less_than_a_kibibyte", measure_index) {
        assert!(
            (100..1024).contains(&bytes),
            "{bytes} bytes for each object"
        );
    }
}

/// While it is read. The filter has reduced it, but its author may have chosen the rest.
#[test]
fn the_largest_object_takes_ten_mebibytes_at_most() {
    let name = "the_largest_object_takes_ten_mebibytes_at_most";
    if let Some(bytes) = in_own_process(name, measure_reading) {
        assert!((1 << 20..10 << 20).contains(&bytes), "{bytes} bytes");
    }
}

/// The result of `measure` in a process that runs only this test, since other tests would be measured too. `None` in that
/// process.
fn in_own_process(test: &str, measure: fn() -> usize) -> Option<usize> {
    if std::env::var_os(MEASURE).is_some() {
        let report = format!("{REPORT}{}\n", measure());
        stdout().write_all(report.as_bytes()).unwrap();
        return None;
    }
    let name = format!("cluster::index::tests::memory::{test}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(MEASURE, "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let bytes = stdout
        .split(REPORT)
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let bytes = bytes.unwrap_or_else(|| panic!("no figure: {output:?}"));
    Some(bytes.parse().unwrap())
}

/// Bytes of resident memory for each object, what the allocator wastes included.
fn measure_index() -> usize {
    // What the first object brings along is not counted.
    let mut index = Index::new(rules()).with_limits(Limits::of(100_000));
    tell(&mut index, WorkloadKind::Pod, PODS);
    let before = memory("VmRSS:");
    for number in 0..WORKLOADS / 2 {
        tell(&mut index, WorkloadKind::Deployment, number);
        tell(&mut index, WorkloadKind::ReplicaSet, number);
    }
    for number in 0..PODS {
        tell(&mut index, WorkloadKind::Pod, number);
    }
    assert_eq!(index.len(), WORKLOADS + PODS + 1);
    (memory("VmRSS:") - before) / index.len()
}

/// Bytes at the peak for an object whose lists are as long as they can be.
fn measure_reading() -> usize {
    let texts = [1, Watched::KEEP.elements].map(pod_with);
    let mut peaks = texts.iter().map(|text| {
        let watched: Watched = serde_json::from_str(text).unwrap();
        let object = watched.into_object(Kind::Workload(WorkloadKind::Pod));
        assert!(object.is_some());
        memory("VmHWM:")
    });
    // The code is not counted, which the first object loads.
    let before = peaks.next().unwrap();
    peaks.next().unwrap() - before
}

/// A Pod with lists of this length.
fn pod_with(elements: usize) -> String {
    let list = |element: &str| format!("[{}]", vec![element; elements].join(","));
    let containers = list(r#"{"name":"a","image":"a","imagePullPolicy":"a"}"#);
    let volumes = list(r#"{"name":"a","image":{"reference":"a","pullPolicy":"a"}}"#);
    let secrets = list(r#"{"name":"a"}"#);
    let owners = list(r#"{"apiVersion":"a","kind":"a","name":"a","uid":"a"}"#);
    format!(
        r#"{{"metadata":{{"name":"a","namespace":"a","ownerReferences":{owners}}},"spec":{{"containers":{containers},
        "initContainers":{containers},"ephemeralContainers":{containers},"volumes":{volumes},"imagePullSecrets":{secrets}}}}}"#
    )
}

fn tell(index: &mut Index, kind: WorkloadKind, number: usize) {
    // As it comes from the API server, text first.
    let text = object(kind, number).to_string();
    let watched: Watched = serde_json::from_str(&text).unwrap();
    let object = watched.into_object(Kind::Workload(kind)).unwrap();
    assert!(index.apply(Change::Apply(object)));
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

/// Bytes of memory of this process (proc(5), in kB).
fn memory(field: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}
