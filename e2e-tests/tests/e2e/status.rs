//! The status API of a process without a cluster, and `mirror-sidecar status --url`.

use std::process::{Command, Output, Stdio};

use rstest::rstest;
use serde_json::Value;
use testkit::artifacts;
use testkit::registry::start_registry;
use testkit::sidecar::Sidecar;

use crate::support::REPOSITORY;

fn start() -> (Box<dyn testkit::registry::Registry>, Sidecar) {
    let backup = start_registry().unwrap();
    let sidecar = Sidecar::builder().registry(backup.as_ref(), REPOSITORY);
    let sidecar = sidecar.start().unwrap();
    (backup, sidecar)
}

fn status(arguments: &[&str]) -> Output {
    Command::new(artifacts::sidecar_program().unwrap())
        .arg("status")
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[rstest]
#[case(
    "images?state=broken",
    400,
    "parameter state: must be one or several of"
)]
#[case(
    "images?limit=501",
    400,
    "parameter limit: must be a number from 1 to 500"
)]
#[case("images?continue=nginx", 400, "parameter continue")]
#[case("images/UPPER%20CASE", 400, "the image reference is not valid")]
#[case("status?all=true", 400, "unknown parameter all")]
#[case("images/docker.io/library/nginx:1", 404, "no workload uses this image")]
fn errors_are_one_sentence(#[case] path: &str, #[case] code: u16, #[case] words: &str) {
    let (_backup, sidecar) = start();
    let (status, body) = sidecar.admin_get(&format!("/api/v1/{path}")).unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, code);
    assert!(body["error"].as_str().unwrap().starts_with(words), "{body}");
    assert_eq!(body["apiVersion"], "status.image-mirror.dev/v1");
}

/// Without a cluster nothing is known to be in use, so nothing counts as protected.
#[test]
fn the_command_reads_a_url() {
    let (backup, sidecar) = start();
    let url = format!("http://{}", sidecar.admin());
    let output = status(&["--url", &url]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.starts_with("Not all images in use are known"),
        "{text}"
    );
    assert!(text.contains(&backup.address()), "{text}");
    let output = status(&["--url", &url, "--output", "yaml"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("isHealthy: true") && text.contains("items: []"),
        "{text}"
    );
    let output = status(&["--url", &url, "nginx"]);
    assert_eq!(output.status.code(), Some(1));
    let output = status(&["--url", "http://127.0.0.1:1"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("check the URL"), "{text}");
}
