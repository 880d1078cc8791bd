//! Copies in a child process: only a new process can have another environment, such as a proxy.

use crate::support::anchor_of;
use base64::Engine as _;
use mirror_copy::{
    CopyOptions, Credentials, DockerConfig, Registries, RegistryOptions, Source, TagOrDigest,
    Target, copy,
};
use std::process::Command;
use testkit::scripted::Fake;

/// Copies `host/repository:1` to `host/copy:1` with the proxy `fake`, so that every plain host name leads there.
/// `logins` are the keys of the docker configuration, with user and password. Answers with `ok` or the error's text.
pub async fn copy_by_proxy(
    fake: &Fake,
    host: &str,
    repository: &str,
    logins: &[(&str, &str, &str)],
) -> String {
    let proxy = format!("http://{}", fake.address);
    run(host, repository, logins, &[("HTTP_PROXY", &proxy)]).await
}

/// Whether this is the error of a registry that would send us to where only we can go.
pub fn is_kept_out(answer: &str) -> bool {
    answer.contains("private") || answer.contains("link-local")
}

/// The same with this environment instead of a proxy.
pub async fn run(
    host: &str,
    repository: &str,
    logins: &[(&str, &str, &str)],
    environment: &[(&str, &str)],
) -> String {
    let folder = tempfile::tempdir().expect("a folder for the configuration");
    let auths: serde_json::Map<_, _> = logins
        .iter()
        .map(|(key, user, password)| {
            let auth = format!("{user}:{password}");
            let auth = base64::engine::general_purpose::STANDARD.encode(auth);
            ((*key).to_owned(), serde_json::json!({ "auth": auth }))
        })
        .collect();
    let config = serde_json::json!({ "auths": auths }).to_string();
    std::fs::write(folder.path().join("config.json"), config).expect("it can be written");
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command
        .args(["--exact", "child::as_child", "--ignored", "--nocapture"])
        .env_clear()
        .env("DOCKER_CONFIG", folder.path())
        .env("CHILD_HOST", host)
        .env("CHILD_REPOSITORY", repository)
        .envs(environment.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("the thread ends")
        .expect("the child runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let answer = said.lines().find_map(|line| line.split_once("answer: "));
    match answer {
        Some((_, answer)) => answer.to_owned(),
        None => panic!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[tokio::test]
#[ignore = "runs as the child process of another test"]
#[allow(
    clippy::print_stdout,
    reason = "standard output is how a child answers"
)]
async fn as_child() {
    let (Ok(host), Ok(repository)) = (
        std::env::var("CHILD_HOST"),
        std::env::var("CHILD_REPOSITORY"),
    ) else {
        return;
    };
    let mut options = RegistryOptions {
        insecure_hosts: [host.clone()].into(),
        credentials: Credentials::anonymous().with_docker_config(DockerConfig::Default),
        ..RegistryOptions::default()
    };
    options.retry.attempts = 1;
    let registry = Registries::new(options).unwrap().get(&host).unwrap();
    let source = Source {
        registry: registry.clone(),
        repository,
        reference: TagOrDigest::parse("1"),
    };
    let target = Target {
        registry,
        repository: "acme/copy".into(),
        tag: Some("1".into()),
        anchor: Some(anchor_of),
    };
    match copy(&source, &target, &CopyOptions::default(), &()).await {
        Ok(_) => println!("answer: ok"),
        Err(error) => println!("answer: {error}"),
    }
}
