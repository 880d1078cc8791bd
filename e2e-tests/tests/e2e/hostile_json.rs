//! JSON of registries that costs a careless reader a hundred times its size, and lists that fill logs.

mod documents;

use std::time::{Duration, Instant};

use reqwest::Method;
use testkit::registry::{RegistryClient, start_registry};
use testkit::scripted::Fake;
use testkit::sidecar::Sidecar;
use testkit::{artifacts, blocking};

use crate::memory::{Job, run};
use crate::support::{COPY_DEADLINE, REPOSITORY};
use documents::{LARGE, REFERRERS, UNUSABLE};

/// The most that a debug build may have in memory, in bytes. It takes 66 MiB, and a third of that is the program itself,
/// which is several times as large as in production. A reader that keeps what it does not need takes 800 MiB.
const LIMIT: u64 = 90 << 20;

/// Lines that one image may add to the log at `info`.
const LINES: usize = 20;

fn names(registry: &Fake) -> impl Iterator<Item = String> {
    let repositories = UNUSABLE.into_iter().chain(REFERRERS);
    repositories.map(|name| format!("{}/{name}:v1", registry.host()))
}

#[test]
fn copy_reads_hostile_json_in_little_memory() {
    let registry = documents::registry();
    let backup = start_registry().unwrap();
    let mut job: Job = [
        artifacts::sidecar_program().unwrap().display().to_string(),
        "copy".to_owned(),
        "--parallel-copies=4".to_owned(),
        format!("--registry={}", backup.address()),
        format!("--repository={REPOSITORY}"),
        format!("--insecure-registry={}", backup.address()),
        format!("--insecure-registry={}", registry.host()),
    ]
    .into();
    job.extend(names(&registry));
    let (peak, succeeded) = run(&job);
    assert!(!succeeded, "most images cannot be copied");
    for name in UNUSABLE.into_iter().chain(REFERRERS) {
        let reads = registry.count(&Method::GET, &format!("/v2/{name}/manifests/v1"));
        assert_eq!(reads, 1, "{name} is read, and not again");
    }
    for name in REFERRERS {
        let lists = registry.count(&Method::GET, &format!("/v2/{name}/referrers/"));
        assert_eq!(lists, 1, "{name}");
    }
    assert!(peak <= LIMIT, "{} KiB at the peak", peak >> 10);
    assert!(peak > 1 << 20, "{peak} bytes cannot be right");
}

/// Two registries fill all four places for copies.
#[test]
fn serve_reads_hostile_json_in_little_memory_and_logs_little() {
    let registries = [(); 2].map(|()| documents::registry());
    let backup = start_registry().unwrap();
    let mut builder = Sidecar::builder().registry(backup.as_ref(), REPOSITORY);
    for registry in &registries {
        builder = builder.insecure_registry(&registry.host());
    }
    let sidecar = builder.start().unwrap();
    let credential = sidecar.facade_credential().clone();
    let ca = Some(sidecar.tls().ca_pem());
    let client = RegistryClient::new(&sidecar.facade(), Some(credential), ca);
    let ask = |name: &str, registry: &Fake| {
        let host = registry.host().replace(':', "_");
        let path = format!("/v2/tag/{host}/{name}/manifests/v1");
        blocking::run(async {
            let response = client.request(Method::GET, &path).send().await.unwrap();
            response.text().await.unwrap()
        })
    };
    let images: Vec<_> = UNUSABLE
        .into_iter()
        .chain(REFERRERS)
        .flat_map(|name| registries.iter().map(move |registry| (name, registry)))
        .collect();
    for (name, registry) in &images {
        ask(name, registry);
    }
    let started = Instant::now();
    for (name, registry) in &images {
        // Not every failure is logged.
        while ask(name, registry).contains("image-mirror/pending") {
            assert!(started.elapsed() < COPY_DEADLINE, "{name} is still copied");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let images = images.len();
    let lines = sidecar.lines();
    assert!(lines.len() < LINES * images, "{} lines", lines.len());
    let longest = lines.iter().map(String::len).max().unwrap_or_default();
    assert!(longest < 4096, "a line of {longest} bytes");
    assert!(
        lines.iter().all(|line| line.starts_with('{')),
        "a forged line"
    );

    // What may be copied is kept as long as that takes, and all that it needs is waited for by the others.
    for registry in &registries {
        ask(LARGE, registry);
    }
    let started = Instant::now();
    let is_copied = |registry: &Fake| registry.count(&Method::GET, "/v2/large/blobs/") > 0;
    while !registries.iter().any(is_copied) {
        assert!(started.elapsed() < COPY_DEADLINE, "it is not copied");
        std::thread::sleep(Duration::from_millis(20));
    }
    let peak = peak_of(sidecar.pid());
    assert!(peak <= LIMIT, "{} KiB at the peak", peak >> 10);
    assert!(sidecar.admin_get("/healthz").unwrap().0 == 200);
}

/// The peak memory of a running process, in bytes.
fn peak_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches("kB").trim();
    kib.parse::<u64>().unwrap() << 10
}
