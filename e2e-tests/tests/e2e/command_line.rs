//! The sidecar's command line: names, copies, and what it says when something is wrong.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::artifacts;
use testkit::image::{Image, pull_all};
use testkit::registry::{Credential, Registry, start_registry, start_registry_with};

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

/// Without a backup there is no copy to name, and `--reverse` reads back what `name` gave.
#[test]
fn names_are_read_from_a_list_and_back() {
    let mut command = Command::new(artifacts::sidecar_program().unwrap());
    let output = with_input(
        command
            .args(["name", "-", "--output", "json"])
            .env_clear()
            .stdout(Stdio::piped()),
        "nginx # web\n\nghcr.io/a-b/c:v1\n",
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let names = objects(&output.stdout);
    assert_eq!(names[0]["canonical"], "docker.io/library/nginx:latest");
    assert!(names[0].get("target").is_none(), "{names:?}");

    let backup = [
        "--output",
        "json",
        "--registry",
        "ghcr.io",
        "--repository",
        "acme",
    ];
    let name = |first: &[&str]| objects(&sidecar(&[first, &backup[..]].concat()).stdout);
    let copy = name(&["name", "ghcr.io/a-b/c:v1"]);
    let copy = copy[0]["target"].as_str().unwrap();
    let original = name(&["name", "--reverse", copy]);
    assert_eq!(original[0]["original"], "ghcr.io/a-b/c:v1");
}

/// Results that are lost cost the exit code; a reader that has seen enough does not.
#[rstest]
#[case::results(&["name", "nginx"])]
#[case::help(&["--help"])]
#[case::completion(&["completion", "bash"])]
fn results_that_cannot_be_written_are_an_error(#[case] arguments: &[&str]) {
    let run = |stdout: Stdio| {
        let mut command = Command::new(artifacts::sidecar_program().unwrap());
        command
            .args(arguments)
            .env_clear()
            .stdout(stdout)
            .output()
            .unwrap()
    };
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    assert_eq!(run(full.into()).status.code(), Some(1));
    let (unread, closed) = std::io::pipe().unwrap();
    drop(unread);
    assert_eq!(run(closed.into()).status.code(), Some(0));
}

/// Completion and manual pages come from the same definition as the flags.
#[test]
fn completion_and_manual_pages_know_the_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&sidecar(&["completion", shell]).stdout);
        assert!(script.contains("parallel-copies"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let output = sidecar(&["man", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let copy: &[&str] = &["all\\-tags", "EXAMPLES\n", "\\fBREGISTRY_PASSWORD\\fR\n"];
    let all = [copy, &["max\\-workloads", "ready\\-url", "MAX_WORKLOADS"]].concat();
    let pages = [
        ("mirror-sidecar.1", vec!["completion"]),
        ("mirror-sidecar-copy.1", copy.to_vec()),
    ];
    let read = |page| std::fs::read_to_string(folder.path().join(page)).unwrap();
    let pages = pages.map(|(page, words)| (read(page), words));
    let whole = text(&sidecar(&["man"]).stdout);
    assert!(whole.starts_with(".ie"), "{whole}");
    for (page, words) in pages.into_iter().chain([(whole, all)]) {
        for word in words.into_iter().chain([".SH \"EXIT STATUS\"", "SIGINT"]) {
            assert!(page.contains(word), "{word}: {page}");
        }
        assert!(!page.contains("EXTRA"), "{page}");
        assert_eq!(page.matches(".ds Aq").count(), 2, "{page}");
    }
    let nowhere = sidecar(&["man", "/nonexistent"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).contains("/nonexistent/mirror-sidecar.1"));
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
#[case::all_tags_of_a_tag(&["copy", "--all-tags", "docker.io/library/nginx:1", "--registry", "ghcr.io", "--repository", "a"], "nginx:1")]
#[case::all_tags_of_a_digest(&["copy", "--all-tags", "nginx@sha256:4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80", "--to", "ghcr.io/a/b"], "nginx@sha256")]
#[case::all_tags_to_a_tag(&["copy", "--all-tags", "nginx", "--to", "ghcr.io/a/b:1"], "--to \"ghcr.io/a/b:1\"")]
#[case::all_tags_of_two_to_one(&["copy", "--all-tags", "a", "b", "--to", "ghcr.io/a/b"], "one repository")]
#[case::platform_into_the_backup(&["copy", "nginx", "--platform", "linux/amd64", "--registry", "ghcr.io", "--repository", "a"], "--to")]
#[case::no_platform(&["copy", "nginx", "--platform", "linux", "--to", "localhost:1/x"], "linux/arm64")]
#[case::empty_list(&["copy", "-", "--registry", "ghcr.io", "--repository", "a"], "empty")]
#[case::to_with_digest(&["copy", "a", "--to", "localhost:1/x@sha256:4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80"], "--to")]
#[case::to_without_any_tag(&["copy", "a@sha256:4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80", "--to", "localhost:1/x"], "add a tag to --to")]
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
#[case::other_transport(&["copy", "oci:folder", "--registry", "ghcr.io", "--repository", "a"], "only registries are supported")]
#[case::scheme(&["copy", "docker://nginx", "--to", "ghcr.io/a/b"], "use nginx")]
#[case::scheme_in_to(&["copy", "nginx", "--to", "docker://ghcr.io/a/b:v1"], "--to \"docker://ghcr.io/a/b:v1\": image references do not start with docker://")]
#[case::scheme_of_repository(&["copy", "--all-tags", "docker://nginx", "--to", "ghcr.io/a/b"], "use nginx")]
#[case::no_copies(&["copy", "a", "--parallel-copies", "0"], "'--parallel-copies <NUMBER>': must be a whole number, 1 or more")]
#[case::no_time(&["copy", "a", "--first-byte-timeout", "0s"], "'--first-byte-timeout <DURATION>': must be longer than 0s")]
#[case::few_workloads(&["serve", "--max-workloads", "0"], "must be a whole number, 1000 or more")]
#[case::repository_without_registry(&["name", "nginx:1.27", "--repository", "acme"], "no backup registry; set --registry or REGISTRY")]
#[case::registry_with_repository(&["name", "nginx", "--registry", "ghcr.io/acme"], "use --registry ghcr.io --repository acme")]
#[case::listen(&["serve", "--listen", "here"], "'--listen <[ADDRESS:]PORT>': must be a port")]
#[case::size(&["serve", "--max-image-size", "20X"], "'--max-image-size <BYTES>': must be a number of bytes")]
#[case::time_without_unit(&["serve", "--recheck-interval", "30"], "30s are seconds")]
#[case::filter_without_all_tags(&["copy", "nginx", "--tags", "1.*"], "--all-tags")]
#[case::filter(&["copy", "--all-tags", "nginx", "--tags", "glob:1.*"], "'--tags <FILTER>': glob: is not a kind of filter")]
#[case::name_of_a_copy(&["name", "ghcr.io/acme/docker.io-library-nginx:1", "--registry", "ghcr.io", "--repository", "acme"], "the copy of docker.io/library/nginx:1")]
#[case::reverse_of_an_original(&["name", "--reverse", "nginx", "--registry", "ghcr.io", "--repository", "acme"], "not in the repository of the backup")]
#[case::reverse_without_registry(&["name", "--reverse", "ghcr.io/acme/docker.io-library-nginx:1"], "--registry")]
#[case::typo_in_log_level(&["copy", "a", "--log-level", "inof"], "off, error, warn, info, debug, trace")]
fn mistakes_are_named(#[case] arguments: &[&str], #[case] named: &str) {
    let output = sidecar(arguments);
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains(named), "{complaint}");
    assert!(!complaint.contains("panicked"), "{complaint}");
}

/// An invalid value names the variable that it came from.
#[test]
fn a_variable_that_is_wrong_is_named() {
    let complaint = |arguments: &[&str]| {
        let mut command = Command::new(artifacts::sidecar_program().unwrap());
        let command = command.args(["copy", "nginx"]).args(arguments);
        let command = command.env_clear().env("PARALLEL_COPIES", "0");
        text(&command.output().unwrap().stderr)
    };
    let of_variable = complaint(&[]);
    let words = "'--parallel-copies <NUMBER>' from the variable 'PARALLEL_COPIES': must be";
    assert!(of_variable.contains(words), "{of_variable}");
    let of_flag = complaint(&["--parallel-copies", "0"]);
    assert!(!of_flag.contains("PARALLEL_COPIES"), "{of_flag}");
}

#[test]
fn a_missing_cluster_is_reported_with_the_next_step() {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(artifacts::sidecar_program().unwrap())
        .args([
            "serve",
            "--registry",
            "localhost:1",
            "--insecure-http",
            "--kubernetes=on",
        ])
        .env_clear()
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let words = format!(
        "cannot find a cluster for --kubernetes=on: no ServiceAccount, and {}/.kube/config does not exist; set KUBECONFIG",
        home.path().display()
    );
    assert!(text(&output.stderr).contains(&words), "{output:?}");
}

#[test]
fn copy_makes_a_named_copy_and_reports_it() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let image = Image::with_attestations(7);
    image.push(&upstream.client(), "team/app", "v1").unwrap();
    let source = format!("{}/team/app:v1", upstream.address());
    // The tag is that of the original.
    let target = format!("{}/copies/app", backup.address());
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

/// A word that is no level would silence the log for good.
#[rstest]
#[case("name")]
#[case("copy")]
#[case("serve")]
fn an_unknown_log_level_is_an_error(#[case] command: &str) {
    let output = Command::new(artifacts::sidecar_program().unwrap())
        .args([command])
        .args((command != "serve").then_some("nginx"))
        .env_clear()
        .env("LOG_LEVEL", "inof")
        .output()
        .unwrap();
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    for named in [
        "\"inof\"",
        "LOG_LEVEL",
        "off, error, warn, info, debug, trace",
    ] {
        assert!(complaint.contains(named), "{complaint}");
    }
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
    assert!(complaint.contains("requires a login"), "{complaint}");
}

/// `copy` from one registry into the backup `acme` in the other.
fn copy_command(from: &str, to: &str) -> Command {
    let mut command = Command::new(artifacts::sidecar_program().unwrap());
    command
        .args(["copy", "--registry", to, "--repository", "acme"])
        .args(["--insecure-registry", &format!("{from},{to}")])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn with_input(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn objects(bytes: &[u8]) -> Vec<Value> {
    let text = text(bytes);
    let objects = text.lines().map(|line| serde_json::from_str(line).unwrap());
    objects.collect()
}

fn tags(registry: &dyn Registry, repository: &str) -> Vec<String> {
    let mut tags = registry.client().tags(repository).unwrap_or_default();
    tags.retain(|tag| !tag.ends_with(".mirror"));
    tags.sort();
    tags
}

#[test]
fn a_list_on_standard_input_is_copied_each_image_once() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let (from, to) = (upstream.address(), backup.address());
    for tag in ["v1", "v2"] {
        let image = Image::single(tag.len() as u64);
        image.push(&upstream.client(), "team/app", tag).unwrap();
    }
    let list =
        format!("# ours\n\n{from}/team/app:v1\r\n  {from}/team/app:v2 # new\n{from}/team/app:v1\n");
    let output = with_input(
        copy_command(&from, &to).args(["-", "--output", "json"]),
        &list,
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(objects(&output.stdout).len(), 2, "{output:?}");
    let name = from.replace(':', "_");
    let copies = format!("acme/{name}-team-app");
    assert_eq!(tags(backup.as_ref(), &copies), ["v1", "v2"]);
}

#[test]
fn a_list_is_not_taken_for_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    std::fs::write(list, "nginx:1.27\n").unwrap();
    let output = Command::new(artifacts::sidecar_program().unwrap())
        .args(["copy", "list.txt", "--to", "localhost:1/x"])
        .current_dir(folder.path())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        text(&output.stderr).contains("use - < list.txt"),
        "{output:?}"
    );
}

#[test]
fn every_mistake_in_a_list_is_told_before_anything_is_copied() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let (from, to) = (upstream.address(), backup.address());
    Image::single(1)
        .push(&upstream.client(), "team/app", "v1")
        .unwrap();
    let list = format!("{from}/team/app:v1\nUPPER\n\n{to}/acme/app:v1\na b\n");
    let output = with_input(copy_command(&from, &to).arg("-"), &list);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let complaint = text(&output.stderr);
    for line in ["line 2 ", "line 4 ", "line 5 ", "3 invalid entries"] {
        assert!(complaint.contains(line), "{line}: {complaint}");
    }
    assert!(!complaint.contains("line 1 "), "{complaint}");
    let name = from.replace(':', "_");
    assert!(tags(backup.as_ref(), &format!("acme/{name}-team-app")).is_empty());
}

#[test]
fn all_tags_of_a_repository_are_copied_but_those_made_of_digests() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let (from, to) = (upstream.address(), backup.address());
    let image = Image::single(5);
    let digest = image.digest().replace(':', "-");
    for tag in ["v1", "v2", "latest"] {
        image.push(&upstream.client(), "team/app", tag).unwrap();
    }
    for suffix in ["", ".sig", ".att", ".sbom", ".mirror"] {
        let tag = format!("{digest}{suffix}");
        Image::single(6)
            .push(&upstream.client(), "team/app", &tag)
            .unwrap();
    }
    let repository = format!("{from}/team/app");
    let target = format!("{to}/other/app");
    let into_backup = copy_command(&from, &to)
        .args(["--all-tags", "--no-referrers", &repository])
        .output()
        .unwrap();
    assert_eq!(into_backup.status.code(), Some(0), "{into_backup:?}");
    let named = copy_command(&from, &to)
        .args(["--all-tags", "--no-referrers", &repository, "--to", &target])
        .output()
        .unwrap();
    assert_eq!(named.status.code(), Some(0), "{named:?}");
    let name = from.replace(':', "_");
    let expected = ["latest", "v1", "v2"];
    assert_eq!(
        tags(backup.as_ref(), &format!("acme/{name}-team-app")),
        expected
    );
    assert_eq!(tags(backup.as_ref(), "other/app"), expected);

    let missing = copy_command(&from, &to)
        .args(["--all-tags", &format!("{from}/team/none"), &repository])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(text(&missing.stderr).contains("team/none"), "{missing:?}");
    let summary = "3 images: 0 copied, 3 already there, 0 failed, 1 repository failed";
    assert!(text(&missing.stderr).contains(summary), "{missing:?}");
    assert!(text(&missing.stdout).contains("team/app:v2"), "{missing:?}");
}

#[test]
fn filters_choose_among_all_tags() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let (from, to) = (upstream.address(), backup.address());
    let image = Image::single(5);
    for tag in ["1.26.0", "1.27.0", "1.27.1", "1.27.1-alpine", "latest"] {
        image.push(&upstream.client(), "team/app", tag).unwrap();
    }
    let (repository, target) = (format!("{from}/team/app"), format!("{to}/other/app"));
    let run = |filters: &[&str]| {
        let mut command = copy_command(&from, &to);
        command.args(["--all-tags", "--no-referrers", &repository, "--to", &target]);
        command.args(filters).output().unwrap()
    };
    let some = run(&[
        "--tags",
        "semver:>=1.26",
        "--tags",
        "latest",
        "--tags",
        "newest:1",
    ]);
    assert_eq!(some.status.code(), Some(0), "{some:?}");
    assert_eq!(tags(backup.as_ref(), "other/app"), ["1.27.1"]);
    let none = run(&["--tags", "2.*", "--output", "json"]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    let failed = objects(&none.stdout);
    assert_eq!(
        failed[0]["error"],
        "none of its 5 tags is selected by --tags"
    );
}

/// A dry run reports what would happen, and writes nothing.
#[test]
fn a_dry_run_writes_nothing() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let (from, to) = (upstream.address(), backup.address());
    let (old, new) = (Image::single(1), Image::single(2));
    old.push(&upstream.client(), "team/app", "v1").unwrap();
    let image = format!("{from}/team/app:v1");
    let run = |flags: &[&str]| {
        copy_command(&from, &to)
            .arg(&image)
            .args(flags)
            .output()
            .unwrap()
    };
    let dry = |expected: Value| {
        let output = run(&["--dry-run", "--output", "json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let results = objects(&output.stdout);
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&results[0][key], value, "{results:?}");
        }
    };
    let copies = format!("acme/{}-team-app", from.replace(':', "_"));
    dry(serde_json::json!({"image": image, "result": "would_copy", "digest": old.digest()}));
    assert!(tags(backup.as_ref(), &copies).is_empty());
    assert!(text(&run(&["--dry-run"]).stdout).contains("would be copied"));

    assert_eq!(run(&[]).status.code(), Some(0));
    dry(serde_json::json!({"result": "present", "digest": old.digest()}));
    assert!(text(&run(&[]).stdout).contains("already there, "));
    new.push(&upstream.client(), "team/app", "v1").unwrap();
    dry(
        serde_json::json!({"result": "would_replace", "digest": new.digest(), "replaces": old.digest()}),
    );

    let missing = copy_command(&from, &to)
        .args([
            "--dry-run",
            "--output",
            "json",
            &format!("{from}/team/app:v2"),
        ])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert_eq!(objects(&missing.stdout)[0]["result"], "failed");
}

/// What `helm test` runs: it tells apart a service that is not ready and a login that may not push, and writes nothing.
#[rstest]
#[case::all_is_well("200 OK", "s3cret", 0, ["ok      readiness", "ok      push login", "ok      dry run"])]
#[case::not_ready("503 Service Unavailable", "s3cret", 1, ["failed  readiness", "ok      push login", "ok      dry run"])]
#[case::wrong_login("200 OK", "wrong", 1, ["ok      readiness", "failed  push login", "failed  dry run"])]
fn an_installation_is_checked(
    #[case] status: &str,
    #[case] password: &str,
    #[case] code: i32,
    #[case] lines: [&str; 3],
) {
    let upstream = start_registry().unwrap();
    let backup = start_registry_with(Some(Credential::new("pusher", "s3cret"))).unwrap();
    let (from, to) = (upstream.address(), backup.address());
    Image::single(1)
        .push(&upstream.client(), "team/app", "v1")
        .unwrap();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = service.local_addr().unwrap();
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    let serving = std::thread::spawn(move || {
        let mut connection = service.accept().unwrap().0;
        let mut request = [0; 1024];
        let length = connection.read(&mut request).unwrap();
        connection.write_all(response.as_bytes()).unwrap();
        text(&request[..length])
    });
    let output = Command::new(artifacts::sidecar_program().unwrap())
        .args(["check", &format!("{from}/team/app:v1")])
        .args(["--ready-url", &format!("http://{address}/readyz")])
        .args(["--registry", &to, "--repository", "acme"])
        .args(["--registry-username", "pusher"])
        .args(["--insecure-registry", &format!("{from},{to}")])
        .env_clear()
        .env("REGISTRY_PASSWORD", password)
        .output()
        .unwrap();
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{shown}");
    let starts: Vec<_> = shown
        .lines()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(starts, lines, "{shown}");
    // The words of copy, once.
    let failed = |line: &&str| line.starts_with("failed  push") || line.starts_with("failed  dry");
    for line in shown.lines().filter(failed) {
        assert!(line.contains(": target: registry"), "{line}");
        assert_eq!(line.matches("refused the credentials").count(), 1, "{line}");
    }
    assert!(serving.join().unwrap().starts_with("GET /readyz HTTP/1.1"));
    let copies = format!("acme/{}-team-app", from.replace(':', "_"));
    assert!(tags(backup.as_ref(), &copies).is_empty());
}

/// Each with its own login, which it gets from a file.
#[rstest]
#[case::all_is_well("for-b", 0, "ok      push login of backup team-b")]
#[case::wrong_login("for-a", 1, "failed  push login of backup team-b")]
fn every_backup_of_the_configuration_is_checked(
    #[case] password: &str,
    #[case] code: i32,
    #[case] last: &str,
) {
    let upstream = start_registry().unwrap();
    let first = start_registry_with(Some(Credential::new("a", "for-a"))).unwrap();
    let second = start_registry_with(Some(Credential::new("b", "for-b"))).unwrap();
    let (from, to_a, to_b) = (upstream.address(), first.address(), second.address());
    Image::single(1)
        .push(&upstream.client(), "team/app", "v1")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (password_a, password_b) = (file("a", "for-a\n"), file("b", password));
    let backup = |registry: &str, user: &str, password: &str| {
        format!("{{registry: '{registry}', push: {{username: {user}, passwordFile: {password}}}}}")
    };
    let config = format!(
        "backups:\n  default: {}\n  team-b: {}\n",
        backup(&to_a, "a", &password_a),
        backup(&to_b, "b", &password_b)
    );
    let check = |config: &str| {
        Command::new(artifacts::sidecar_program().unwrap())
            .args(["check", &format!("{from}/team/app:v1"), "--config", config])
            .args(["--insecure-registry", &format!("{from},{to_a},{to_b}")])
            .env_clear()
            .output()
            .unwrap()
    };
    let output = check(&file("config.yaml", &config));
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{shown}");
    let starts: Vec<_> = shown
        .lines()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(
        starts,
        ["ok      push login", "ok      dry run", last],
        "{shown}"
    );
    let copies = format!("{}-team-app", from.replace(':', "_"));
    for registry in [&first, &second] {
        assert!(tags(registry.as_ref(), &copies).is_empty());
    }

    let output = check(&file("broken.yaml", "backups: {team-b: {registy: a.b}}"));
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    for words in [
        "--config ",
        "3 errors",
        "backups.team-b.registy: unknown key; use registry",
    ] {
        assert!(shown.contains(words), "{shown}");
    }

    let hub = |name: &str| {
        format!(
            "{name}: {{registry: docker.io, repository: {name}, pull: {{username: a, passwordFile: {password_a}}}}}"
        )
    };
    let logins = format!("backups: {{{}, {}}}", hub("default"), hub("team-b"));
    let output = check(&file("logins.yaml", &logins));
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    let words = "backups.team-b.pull: backups.default.pull has another login";
    assert!(shown.contains(words), "{shown}");
}

/// Registries answer 404 to both.
#[rstest]
#[case::tag("team/app:v2", "the repository exists, but has no such tag")]
#[case::repository("team/none:v1", "has no repository team/none")]
fn a_missing_repository_is_told_from_a_missing_tag(#[case] image: &str, #[case] words: &str) {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let (from, to) = (upstream.address(), backup.address());
    Image::single(1)
        .push(&upstream.client(), "team/app", "v1")
        .unwrap();
    let output = copy_command(&from, &to)
        .arg(format!("{from}/{image}"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains(words), "{output:?}");
}

/// Standard error is all JSON then, and tells the story in order; the results are where they always are.
#[test]
fn progress_for_programs_is_json_on_standard_error() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let (from, to) = (upstream.address(), backup.address());
    let image = Image::single(9);
    image.push(&upstream.client(), "team/app", "v1").unwrap();
    let there = format!("{from}/team/app:v1");
    let missing = format!("{from}/team/app:v2");
    let output = copy_command(&from, &to)
        .args(["--progress", "json", "--output", "json", &there, &missing])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let results = objects(&output.stdout);
    let of = |image: &str| results.iter().find(|result| result["image"] == image);
    assert_eq!(of(&there).unwrap()["result"], "copied");
    let failed = of(&missing).unwrap();
    assert_eq!(failed["result"], "failed");
    assert!(
        failed["error"].as_str().unwrap().contains("no such tag"),
        "{failed}"
    );
    let events = objects(&output.stderr);
    let of_image = events.iter().filter(|event| event["image"] == there);
    let kinds: Vec<&str> = of_image.map(|e| e["event"].as_str().unwrap()).collect();
    let place = |kind: &str| kinds.iter().position(|k| *k == kind).unwrap();
    let story = [
        "resolved",
        "planned",
        "blob_started",
        "blob_copied",
        "tagged",
        "copied",
    ];
    assert!(story.map(place).is_sorted(), "{kinds:?}");
    let failed = events
        .iter()
        .find(|event| event["event"] == "failed")
        .unwrap();
    assert_eq!(failed["image"], missing);
    let last = events.last().unwrap();
    assert_eq!(last["event"], "finished");
    assert_eq!((&last["copied"], &last["failed"]), (&1.into(), &1.into()));
    let bytes: u64 = image.blobs().map(|(_, size)| size).sum();
    assert_eq!(last["bytes"], bytes);

    let again = copy_command(&from, &to)
        .args(["--progress", "json", &there])
        .output()
        .unwrap();
    let events = objects(&again.stderr);
    let kinds: Vec<_> = events.iter().map(|event| &event["event"]).collect();
    assert!(
        kinds.ends_with(&[&"present".into(), &"finished".into()]),
        "{kinds:?}"
    );
}

/// A terminal gets bars, which are gone when the results are there; the results go elsewhere.
#[test]
fn progress_on_a_terminal_is_bars() {
    // Part of every Debian; it runs a command on a terminal of its own and shows what comes.
    if Command::new("script").arg("--version").output().is_err() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: script is not installed, no bars are drawn on a terminal"
        );
        return;
    }
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let (from, to) = (upstream.address(), backup.address());
    let image = Image::with_big_layer(3, 20);
    image.push(&upstream.client(), "team/app", "v1").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    let program = artifacts::sidecar_program().unwrap().display();
    let command = format!(
        "{program} copy {from}/team/app:v1 --registry {to} --repository acme --output json \
         --insecure-registry {from} --insecure-registry {to} > {}",
        results.display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let results = objects(&std::fs::read(results).unwrap());
    assert_eq!(results[0]["digest"], image.digest());
    let shown = text(&output.stdout);
    assert!(shown.contains("team/app:v1"), "{shown:?}");
    // After the last line was cleared, nothing is drawn any more.
    let (_, rest) = shown.rsplit_once("\x1b[2K").unwrap();
    let is_drawn = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let rest = rest.replace("\x1b[1A", "");
    assert!(!rest.contains(is_drawn), "{shown:?}");
}

/// A copy in the middle of which nothing moves any more stops all the same.
#[rstest]
#[case(Signal::INT, 130)]
#[case(Signal::TERM, 143)]
fn a_signal_stops_a_copy_immediately(#[case] signal: Signal, #[case] code: i32) {
    let backup = start_registry().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let from = silent.local_addr().unwrap().to_string();
    let mut child: Child = copy_command(&from, &backup.address())
        .arg(format!("{from}/team/app:v1"))
        .spawn()
        .unwrap();
    // It has asked, so the copy is under way; nobody ever answers.
    let connection = silent.accept().unwrap();
    let mut question = String::new();
    BufReader::new(&connection.0)
        .read_line(&mut question)
        .unwrap();
    assert!(question.contains("team/app"), "{question}");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let sent = Instant::now();
    kill_process(pid, signal).unwrap();
    let status = child.wait().unwrap();
    let took = sent.elapsed();
    let mut complaint = String::new();
    child
        .stderr
        .unwrap()
        .read_to_string(&mut complaint)
        .unwrap();
    assert_eq!(status.code(), Some(code), "{complaint}");
    assert!(
        complaint.contains("interrupted; run the command again to continue"),
        "{complaint}"
    );
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// What a terminal of 80 columns shows after `output`: lines, cursor movements, and wrapped lines.
fn screen(output: &str) -> Vec<String> {
    const COLUMNS: usize = 80;
    let mut lines = vec![vec![' '; COLUMNS]];
    let (mut row, mut column) = (0_usize, 0);
    let mut characters = output.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                assert_eq!(characters.next(), Some('['));
                let mut number = String::new();
                while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                    number.push(digit);
                }
                let number: usize = number.parse().unwrap_or(1);
                match characters.next() {
                    Some('A') => row = row.saturating_sub(number),
                    Some('B') => row += number,
                    Some('K') => lines[row] = vec![' '; COLUMNS],
                    other => panic!("{other:?}"),
                }
            }
            shown => {
                if column == COLUMNS {
                    (row, column) = (row + 1, 0);
                }
                lines.resize(lines.len().max(row + 1), vec![' '; COLUMNS]);
                lines[row][column] = shown;
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), vec![' '; COLUMNS]);
    }
    let text = |line: &Vec<char>| line.iter().collect::<String>().trim_end().to_owned();
    let lines = lines.iter().map(text);
    lines.filter(|line| !line.is_empty()).collect()
}

/// The terminal shows `^C` behind the bars; where that went to the next line, a bar was left over.
#[test]
fn ctrl_c_leaves_no_bar() {
    if Command::new("script").arg("--version").output().is_err() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: script is not installed, Ctrl-C is not tried on a terminal"
        );
        return;
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let from = silent.local_addr().unwrap();
    let program = artifacts::sidecar_program().unwrap().display();
    let command = format!(
        "stty columns 80; {program} copy {from}/team/app:v1 --to {from}/other/app --insecure-registry {from}"
    );
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut shown, mut piece) = (Vec::new(), [0; 4096]);
    while !text(&shown).contains("reading manifests") {
        let length = stdout.read(&mut piece).unwrap();
        assert!(length > 0, "{:?}", text(&shown));
        shown.extend_from_slice(&piece[..length]);
    }
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"\x03").unwrap();
    stdout.read_to_end(&mut shown).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let shown = text(&shown);
    assert!(shown.contains("^C"), "{shown:?}");
    let lines = screen(&shown);
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("mirror-sidecar: interrupted")),
        "{lines:?}"
    );
}

/// Results that nobody reads hold up the program, but not its end.
#[test]
fn a_signal_stops_a_run_that_nobody_listens_to() {
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let (from, to) = (upstream.address(), backup.address());
    Image::single(1)
        .push(&upstream.client(), "team/app", "v1")
        .unwrap();
    let (_unread, full) = std::io::pipe().unwrap();
    let mut filler = full.try_clone().unwrap();
    // Blocks as soon as the pipe is full, until this process ends.
    std::thread::spawn(move || while filler.write_all(&[b'x'; 4096]).is_ok() {});
    let mut child = copy_command(&from, &to)
        .args(["--progress", "json", &format!("{from}/team/app:v1")])
        .stdout(full)
        .spawn()
        .unwrap();
    // Right after this event comes the result.
    let mut events = BufReader::new(child.stderr.take().unwrap()).lines();
    let copied = events.find(|line| line.as_ref().unwrap().contains("\"event\":\"copied\""));
    assert!(copied.is_some());
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let sent = Instant::now();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    // Half a second, and time for a busy machine.
    assert!(sent.elapsed() < Duration::from_secs(5));
}
