//! The engine between real registries: images of every shape arrive byte for byte.

use std::io::Write as _;
use std::process::Command;

use crate::support::World;
use rstest::rstest;
use testkit::artifacts;
use testkit::image::{Image, pull_all};
use testkit::registry::{
    Credential, DebianRegistry, EmbeddedOptions, EmbeddedRegistry, Registry, start_registry,
};

fn debian() -> Box<dyn Registry> {
    // Where Debian's registry is not installed, the embedded one stands in, and the run says so at its start.
    if DebianRegistry::is_installed() {
        Box::new(DebianRegistry::start(None).unwrap())
    } else {
        embedded()
    }
}

fn embedded() -> Box<dyn Registry> {
    Box::new(EmbeddedRegistry::start(EmbeddedOptions::default()).unwrap())
}

fn copy(from: &dyn Registry, to: &dyn Registry, image: &str, name: &str) -> std::process::Output {
    Command::new(artifacts::sidecar_program().unwrap())
        .args(["copy", &format!("{}/{image}", from.address())])
        .args(["--to", &format!("{}/{name}", to.address())])
        .args(["--insecure-registry", &from.address()])
        .args(["--insecure-registry", &to.address()])
        .env_clear()
        .output()
        .unwrap()
}

#[rstest]
fn every_shape_arrives_byte_for_byte(
    #[values(
        Image::index(1),
        Image::single(2),
        Image::docker(3),
        Image::docker_list(4),
        Image::with_attestations(5)
    )]
    image: Image,
    #[values(debian(), embedded())] from: Box<dyn Registry>,
    #[values(debian(), embedded())] to: Box<dyn Registry>,
) {
    image.push(&from.client(), "team/app", "v1").unwrap();
    let output = copy(from.as_ref(), to.as_ref(), "team/app:v1", "copies/app:v1");
    assert!(output.status.success(), "{output:?}");
    let copy = pull_all(&to.client(), "copies/app", "v1").unwrap();
    assert_eq!(copy, image.expected());
}

/// A layer far larger than the memory that the sidecar may use.
#[test]
fn a_large_layer_streams_through() {
    let world = World::start();
    let image = Image::with_big_layer(11, 200);
    let copy = world.mirror(&image, "team/big", "v1");
    assert_eq!(world.pull_copy(&copy), image.expected());

    let status = std::fs::read_to_string(format!("/proc/{}/status", world.sidecar.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(
        peak < 100 * 1024,
        "the sidecar used {} MiB for a layer of 200 MiB",
        peak / 1024
    );
}

/// Another client than ours, with the backup's credentials, while the original is gone.
#[test]
fn skopeo_can_pull_the_copy() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        // Past the test runner, which would swallow it.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: skopeo is not installed, no second client pulls the copy"
        );
        return;
    }
    let mut world = World::start();
    let image = Image::index(21);
    let copy = world.mirror(&image, "team/app", "v1");
    world.upstream.stop();

    let folder = tempfile::tempdir().unwrap();
    let Credential { user, password } = world.backup.credential().unwrap();
    let output = Command::new("skopeo")
        .args([
            "copy",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
        ])
        .arg(format!("--src-creds={user}:{password}"))
        .arg(format!("docker://{copy}"))
        .arg(format!("dir:{}", folder.path().display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let manifest = std::fs::read(folder.path().join("manifest.json")).unwrap();
    assert_eq!(testkit::digest::of(&manifest), image.digest());
}

/// Images that share layers send each of them once, also into different repositories.
#[test]
fn a_shared_layer_is_sent_once() {
    let (from, to) = (start_registry().unwrap(), start_registry().unwrap());
    let image = Image::index(31);
    for name in ["team/a", "team/b"] {
        image.push(&from.client(), name, "v1").unwrap();
    }
    let output = Command::new(artifacts::sidecar_program().unwrap())
        .args(["copy", "--parallel-copies", "1", "--output", "json"])
        .args([
            format!("{}/team/a:v1", from.address()),
            format!("{}/team/b:v1", from.address()),
        ])
        .args(["--registry", &to.address(), "--repository", "acme"])
        .args([
            "--insecure-registry",
            &from.address(),
            "--insecure-registry",
            &to.address(),
        ])
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let reports: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(reports[1]["bytes"], 0, "{}", reports[1]);
    assert_eq!(
        reports[1]["blobs_mounted"].as_u64(),
        Some(image.blobs().count() as u64)
    );
}

/// The copy has the tag and the anchor that keeps its digest.
#[test]
fn a_copy_has_its_tag_and_its_anchor() {
    let world = World::start();
    let image = Image::single(41);
    let copy = world.mirror(&image, "team/app", "v1");
    let copy = mirror_contract::ImageRef::parse(&copy).unwrap();
    let mut tags = world.backup.client().tags(copy.path()).unwrap();
    tags.sort();
    let anchor = format!("{}.mirror", image.digest().replace(':', "-"));
    assert_eq!(tags, [anchor, "v1".to_owned()]);
}

/// What happened is in the figures of the service.
#[test]
fn the_metrics_show_what_was_copied() {
    let world = World::start();
    let figures = || {
        let (status, body) = world.sidecar.admin_get("/metrics").unwrap();
        assert_eq!(status, 200, "{body}");
        assert!(body.ends_with("# EOF\n"), "{body}");
        body
    };
    let before = figures();
    let version = format!(
        "image_mirror_build_info{{version=\"{}\"}} 1",
        env!("CARGO_PKG_VERSION")
    );
    for line in [
        "image_mirror_copies_total{result=\"copied\"} 0",
        "image_mirror_copies_total{result=\"present\"} 0",
        "image_mirror_copies_total{result=\"failed\"} 0",
        "image_mirror_sent_bytes_total 0",
        &version,
    ] {
        assert!(
            before.lines().any(|found| found == line),
            "{line}: {before}"
        );
    }
    let image = Image::single(51);
    world.mirror(&image, "team/app", "v1");
    let after = figures();
    let blobs = image.blobs().count();
    let bytes: u64 = image.blobs().map(|(_, size)| size).sum();
    for line in [
        "image_mirror_copies_total{result=\"copied\"} 1",
        "image_mirror_copies_total{result=\"failed\"} 0",
        "image_mirror_copy_duration_seconds_count 1",
        "image_mirror_copy_jobs{state=\"running\"} 0",
        "image_mirror_copy_jobs{state=\"waiting\"} 0",
        "image_mirror_facade_responses_total{status=\"pending\"} 1",
        "image_mirror_facade_responses_total{status=\"mirrored\"} 1",
        "image_mirror_facade_responses_total{status=\"refused_request\"} 0",
        "image_mirror_readmissions_total{result=\"rewritten\"} 0",
        &format!("image_mirror_blobs_total{{outcome=\"copied\"}} {blobs}"),
        &format!("image_mirror_sent_bytes_total {bytes}"),
    ] {
        assert!(after.lines().any(|found| found == line), "{line}: {after}");
    }
    // The upstream is nobody's well-known registry.
    for host in [world.backup.address().as_str(), "other"] {
        let start = format!("image_mirror_registry_requests_total{{host=\"{host}\"}} ");
        let count = after.lines().find_map(|line| line.strip_prefix(&start));
        assert_ne!(count.unwrap().parse::<u64>().unwrap(), 0, "{host}");
    }
}
