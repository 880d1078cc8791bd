//! The sidecar's command line: names, copies, and what it says when something is wrong.

use std::process::{Command, Output, Stdio};

use e2e_tests::artifacts;
use e2e_tests::image::{Image, pull_all};
use e2e_tests::registry::{Credential, start_registry, start_registry_with};
use rstest::rstest;
use serde_json::Value;

fn sidecar(arguments: &[&str]) -> Output {
    Command::new(artifacts::sidecar_program().unwrap())
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn name_shows_canonical_reference_target_and_query() {
    let output = sidecar(&[
        "name",
        "nginx:1.27",
        "ghcr.io/a-b/c",
        "--output",
        "json",
        "--registry",
        "ghcr.io",
        "--repository",
        "acme",
        "--sidecar",
        "localhost:5000",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines[0],
        serde_json::json!({
            "image": "nginx:1.27",
            "canonical": "docker.io/library/nginx:1.27",
            "target": "ghcr.io/acme/docker.io-library-nginx:1.27",
            "query": "localhost:5000/tag/docker.io/library/nginx:1.27",
        })
    );
    assert_eq!(lines[1]["target"], "ghcr.io/acme/ghcr.io-a--b-c:latest");
}

#[test]
fn one_bad_name_does_not_hide_the_others() {
    let output = sidecar(&[
        "name",
        "UPPER",
        "nginx",
        "--registry",
        "ghcr.io",
        "--repository",
        "acme",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("docker.io/library/nginx:latest"));
    let complaint = text(&output.stderr);
    assert!(complaint.contains("\"UPPER\""), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
}

/// One clear sentence that names the value and the place, and exit code 2 before anything happens.
#[rstest]
#[case::no_registry(&["copy", "nginx"], "--registry")]
#[case::registry_is_a_url(&["name", "nginx", "--registry", "https://ghcr.io"], "https://ghcr.io")]
#[case::upper_case_repository(&["name", "nginx", "--registry", "ghcr.io", "--repository", "Acme"], "Acme")]
#[case::bad_image(&["copy", "nginx:1:2", "--registry", "ghcr.io", "--repository", "a"], "nginx:1:2")]
#[case::too_many_for_to(&["copy", "a", "b", "--to", "localhost:1/x"], "--to")]
#[case::to_with_digest(&["copy", "a", "--to", "localhost:1/x@sha256:4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80"], "--to")]
#[case::no_password_file(&["copy", "a", "--registry", "ghcr.io", "--repository", "a", "--registry-username", "u", "--registry-password-file", "/nonexistent"], "/nonexistent")]
#[case::user_without_password(&["copy", "a", "--registry", "ghcr.io", "--repository", "a", "--registry-username", "u"], "--registry-password")]
#[case::bad_insecure_registry(&["copy", "a", "--to", "localhost:1/x", "--insecure-registry", "http://localhost:1"], "http://localhost:1")]
#[case::no_docker_config(&["copy", "a", "--to", "localhost:1/x", "--docker-config", "/nonexistent.json"], "/nonexistent.json")]
#[case::no_ca(&["copy", "a", "--to", "localhost:1/x", "--ca-file", "/nonexistent.pem"], "/nonexistent.pem")]
#[case::no_tls(&["serve", "--registry", "ghcr.io", "--repository", "a"], "--tls-cert")]
#[case::no_certificate(&["serve", "--registry", "ghcr.io", "--repository", "a", "--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"], "/nonexistent")]
#[case::half_a_login(&["serve", "--registry", "ghcr.io", "--repository", "a", "--insecure-http", "--facade-username", "u"], "--facade-password-file")]
#[case::unknown_command(&["mirror"], "mirror")]
#[case::bad_log_level(&["name", "a", "--log-level", "loud=very=much"], "--log-level")]
fn mistakes_are_named(#[case] arguments: &[&str], #[case] named: &str) {
    let output = sidecar(arguments);
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains(named), "{complaint}");
    assert!(!complaint.contains("panicked"), "{complaint}");
}

#[test]
fn copy_makes_a_named_copy_and_reports_it() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let image = Image::with_attestations(7);
    image.push(&upstream.client(), "team/app", "v1").unwrap();
    let source = format!("{}/team/app:v1", upstream.address());
    let target = format!("{}/copies/app:v1", backup.address());
    let arguments = [
        "copy",
        &source,
        "--to",
        &target,
        "--output",
        "json",
        "--insecure-registry",
        &upstream.address(),
        "--insecure-registry",
        &backup.address(),
    ];
    let output = sidecar(&arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["digest"], image.digest());
    assert_eq!(
        report["bytes"],
        image.blobs().map(|(_, size)| size).sum::<u64>()
    );
    let copy = pull_all(&backup.client(), "copies/app", "v1").unwrap();
    assert_eq!(copy, image.expected());

    let again: Value = serde_json::from_slice(&sidecar(&arguments).stdout).unwrap();
    assert_eq!(again["bytes"], 0);
    assert!(again["requests"].as_u64().unwrap() <= 4, "{again}");
}

#[test]
fn copy_fails_with_one_and_copies_the_rest() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let image = Image::single(3);
    image.push(&upstream.client(), "team/app", "v1").unwrap();
    let there = format!("{}/team/app:v1", upstream.address());
    let missing = format!("{}/team/app:v2", upstream.address());
    let output = sidecar(&[
        "copy",
        &missing,
        &there,
        "--registry",
        &backup.address(),
        "--repository",
        "acme",
        "--insecure-registry",
        &upstream.address(),
        "--insecure-registry",
        &backup.address(),
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains(&missing));
    assert!(text(&output.stdout).contains(&image.digest()));
}

/// Wrong credentials: the sentence names registry and user, the password is nowhere, not even in the most verbose log.
#[test]
fn a_refused_password_is_never_shown() {
    let upstream = start_registry().unwrap();
    let backup = start_registry_with(Some(Credential::new("pusher", "right"))).unwrap();
    Image::single(1)
        .push(&upstream.client(), "team/app", "v1")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "wr0ng-s3cret\n").unwrap();
    let output = sidecar(&[
        "copy",
        &format!("{}/team/app:v1", upstream.address()),
        "--registry",
        &backup.address(),
        "--repository",
        "acme",
        "--registry-username",
        "pusher",
        "--registry-password-file",
        file.to_str().unwrap(),
        "--insecure-registry",
        &upstream.address(),
        "--insecure-registry",
        &backup.address(),
        "--log-level",
        "trace",
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(all.contains("pusher"), "{all}");
    assert!(!all.contains("wr0ng-s3cret"));
    // user:password in base64, as it goes over the wire
    assert!(!all.contains("cHVzaGVyOndyMG5nLXMzY3JldA"));
}

/// The names that image-clone-controller used, and that they do something.
#[test]
fn the_environment_of_the_ancestor_works() {
    let upstream = start_registry().unwrap();
    let backup = start_registry_with(Some(Credential::new("robot", "s3cret pass"))).unwrap();
    let image = Image::single(2);
    image.push(&upstream.client(), "team/app", "v1").unwrap();
    let insecure = format!("{},{}", upstream.address(), backup.address());
    let output = Command::new(artifacts::sidecar_program().unwrap())
        .args(["copy", &format!("{}/team/app:v1", upstream.address())])
        .env_clear()
        .env("REGISTRY", backup.address())
        .env("REPOSITORY", "team")
        .env("REGISTRY_USERNAME", "robot")
        .env("REGISTRY_PASSWORD", "s3cret pass")
        .env("INSECURE_REGISTRIES", insecure)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let name = upstream.address().replace(':', "_");
    let copy = pull_all(&backup.client(), &format!("team/{name}-team-app"), "v1").unwrap();
    assert_eq!(copy, image.expected());

    let help = Command::new(artifacts::sidecar_program().unwrap())
        .args(["serve", "--help"])
        .env_clear()
        .env("REGISTRY_PASSWORD", "s3cret pass")
        .output()
        .unwrap();
    let help = text(&help.stdout);
    for flag in [
        "--registry",
        "--registry-username",
        "--registry-password",
        "--registry-password-file",
        "--repository",
        "--exclude-namespaces",
        "EXCLUDE_NAMESPACES",
    ] {
        assert!(help.contains(flag), "{flag} is not in the help");
    }
    assert!(!help.contains("s3cret"));
}

/// A login without `--registry` can only be meant for the registry that `--to` names.
#[test]
fn a_login_belongs_to_the_named_copy() {
    let upstream = start_registry().unwrap();
    let backup = start_registry_with(Some(Credential::new("robot", "s3cret"))).unwrap();
    Image::single(4)
        .push(&upstream.client(), "team/app", "v1")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let output = sidecar(&[
        "copy",
        &format!("{}/team/app:v1", upstream.address()),
        "--to",
        &format!("{}/copies/app:v1", backup.address()),
        "--registry-username",
        "robot",
        "--registry-password-file",
        file.to_str().unwrap(),
        "--insecure-registry",
        &upstream.address(),
        "--insecure-registry",
        &backup.address(),
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// Charts and shell scripts set every variable, some of them to nothing.
#[test]
fn an_empty_variable_counts_as_not_set() {
    let output = Command::new(artifacts::sidecar_program().unwrap())
        .args(["name", "nginx"])
        .env_clear()
        .env("REGISTRY", "ghcr.io")
        .env("REPOSITORY", "acme")
        .env("NAMING", "")
        .env("SIDECAR", "")
        .env("LOG_LEVEL", "")
        .env("REGISTRY_USERNAME", "")
        .env("REGISTRY_PASSWORD", "")
        .env("REGISTRY_PASSWORD_FILE", "")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("mirror-sidecar.image-mirror.svc:5000/tag/"));
}

/// The login that may push is for the backup. Were it used for sources, whoever can create a Pod could have private
/// images of the same registry copied to where everybody can read them.
#[test]
fn the_login_for_pushing_reads_no_sources() {
    let registry = start_registry_with(Some(Credential::new("pusher", "s3cret"))).unwrap();
    let address = registry.address();
    Image::single(8)
        .push(&registry.client(), "private/app", "v1")
        .unwrap();
    let output = Command::new(artifacts::sidecar_program().unwrap())
        .args(["copy", &format!("{address}/private/app:v1")])
        .args(["--registry", &address, "--repository", "mirror"])
        .args([
            "--registry-username",
            "pusher",
            "--insecure-registry",
            &address,
        ])
        .env_clear()
        .env("REGISTRY_PASSWORD", "s3cret")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let complaint = text(&output.stderr);
    assert!(complaint.contains("wants a login"), "{complaint}");
}
