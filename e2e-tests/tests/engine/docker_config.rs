//! Credentials from docker configurations: files, helpers, identity tokens, rotation.

use crate::support::{PASSWORD, options};
use base64::Engine as _;
use mirror_copy::{
    CredentialError, Credentials, DockerConfig, Login, Registries, Registry, RegistryError,
};
use std::path::Path;
use std::process::Command;
use testkit::scripted::{Auth, Fake, image, noise};

const USER: &str = "robot";

async fn guarded() -> Fake {
    let fake = Fake::start().await;
    fake.put_tagged("app", "1", &image(1, &[noise(1, 10)]));
    let (user, password) = (USER.into(), PASSWORD.into());
    fake.set(|knobs| knobs.auth = Auth::Basic { user, password });
    fake
}

fn registry(fake: &Fake, credentials: Credentials) -> Registry {
    let mut options = options(&[fake]);
    options.retry.attempts = 1;
    options.credentials = credentials;
    Registries::new(options).unwrap().get(&fake.host()).unwrap()
}

fn from_file(path: &Path) -> Credentials {
    Credentials::anonymous().with_docker_config(DockerConfig::File(path.into()))
}

fn auths(host: &str, user: &str, password: &str) -> String {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#)
}

#[tokio::test]
async fn a_login_of_the_file_is_used_and_an_explicit_one_wins() {
    let fake = guarded().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, auths(&fake.host(), USER, PASSWORD)).unwrap();
    registry(&fake, from_file(&file)).ping().await.unwrap();

    let wrong = Login {
        username: "explicit".into(),
        password: "x".to_owned().into(),
    };
    let both = from_file(&file).with_login(&fake.host(), wrong);
    let error = registry(&fake, both).ping().await.unwrap_err();
    assert!(matches!(&error, RegistryError::Credentials { user, .. } if user == "explicit"));
}

#[tokio::test]
async fn a_rotated_file_is_seen_when_the_old_password_is_refused() {
    let fake = guarded().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, auths(&fake.host(), USER, PASSWORD)).unwrap();
    let registry = registry(&fake, from_file(&file));
    registry.ping().await.unwrap();
    let (user, password) = (USER.into(), "n3w".into());
    fake.set(|knobs| knobs.auth = Auth::Basic { user, password });
    assert!(registry.ping().await.is_err());
    std::fs::write(&file, auths(&fake.host(), USER, "n3w")).unwrap();
    registry.ping().await.unwrap();
}

#[tokio::test]
async fn a_password_in_a_file_is_read_again_when_the_old_one_is_refused() {
    let fake = guarded().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let login = Credentials::anonymous().with_login_file(&fake.host(), USER, file.clone());
    let registry = registry(&fake, login);
    registry.ping().await.unwrap();
    let (user, password) = (USER.into(), "n3w".into());
    fake.set(|knobs| knobs.auth = Auth::Basic { user, password });
    assert!(registry.ping().await.is_err());
    std::fs::write(&file, "n3w").unwrap();
    registry.ping().await.unwrap();
    std::fs::remove_file(&file).unwrap();
    let (user, password) = (USER.into(), "n3wer".into());
    fake.set(|knobs| knobs.auth = Auth::Basic { user, password });
    let error = registry.ping().await.unwrap_err().to_string();
    assert!(
        error.contains("refused the credentials") || error.contains("password"),
        "{error}"
    );
}

#[tokio::test]
async fn broken_files_are_errors_that_name_the_place_and_not_the_content() {
    let fake = guarded().await;
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.json");
    let error = registry(&fake, from_file(&absent))
        .ping()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("absent.json"), "{error}");

    let file = folder.path().join("config.json");
    for text in [
        "{\n \"credsStore\": 5, \"auth\": \"s3cret\"",
        "{\"credHelpers\":\"s3cret\"}",
    ] {
        std::fs::write(&file, text).unwrap();
        let error = registry(&fake, from_file(&file)).ping().await.unwrap_err();
        let RegistryError::Lookup(CredentialError::Malformed { .. }) = &error else {
            panic!("{error}");
        };
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("config.json") && text.contains("line"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }

    let entry = format!(r#"{{"auths":{{"{}":{{"auth":"%%%"}}}}}}"#, fake.host());
    std::fs::write(&file, entry).unwrap();
    let error = registry(&fake, from_file(&file)).ping().await.unwrap_err();
    assert!(error.to_string().contains("base64"), "{error}");
}

#[tokio::test]
async fn a_helper_that_cannot_be_run_is_named() {
    let fake = guarded().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, r#"{"credsStore":"no-such-helper"}"#).unwrap();
    let error = registry(&fake, from_file(&file)).ping().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("docker-credential-no-such-helper"),
        "{error}"
    );
}

/// Helpers are found on the `PATH`, and only a new process can have another one.
#[cfg(unix)]
#[tokio::test]
async fn credential_helpers_are_asked() {
    use std::os::unix::fs::PermissionsExt as _;
    let fake = guarded().await;
    let folder = tempfile::tempdir().unwrap();
    let script = |name: &str, text: String| {
        let path = folder.path().join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\nread -r host\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let answer = format!(r#"{{"Username":"{USER}","Secret":"{PASSWORD}"}}"#);
    script(
        "good",
        format!(
            "[ \"$1 $host\" = 'get {}' ] && echo '{answer}'",
            fake.host()
        ),
    );
    script(
        "none",
        "echo 'credentials not found in native keychain'; exit 1".into(),
    );
    script("bad", "echo 'vault is sealed' >&2; exit 1".into());
    for (helper, expected) in [
        ("good", "ok"),
        ("none", "login needed"),
        ("bad", "helper bad: vault is sealed"),
    ] {
        let config = format!(r#"{{"credHelpers":{{"{}":"{helper}"}}}}"#, fake.host());
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let mut path = vec![folder.path().to_owned()];
        path.extend(std::env::split_paths(&inherited));
        let output = tokio::task::spawn_blocking({
            let (host, folder) = (fake.host(), folder.path().to_owned());
            move || {
                Command::new(std::env::current_exe().unwrap())
                    .args([
                        "--exact",
                        "docker_config::as_child",
                        "--ignored",
                        "--nocapture",
                    ])
                    .env("PATH", std::env::join_paths(path).unwrap())
                    .env("DOCKER_CONFIG", folder)
                    .env("TEST_REGISTRY", host)
                    .output()
                    .unwrap()
            }
        })
        .await
        .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains(&format!("answer: {expected}\n")),
            "{helper}: {said}"
        );
    }
}

#[tokio::test]
#[ignore = "runs as the child process of another test"]
#[allow(
    clippy::print_stdout,
    reason = "standard output is how a child answers"
)]
async fn as_child() {
    let Ok(host) = std::env::var("TEST_REGISTRY") else {
        return;
    };
    let registries = Registries::new(mirror_copy::RegistryOptions {
        insecure_hosts: [host.clone()].into(),
        credentials: Credentials::anonymous().with_docker_config(DockerConfig::Default),
        ..Default::default()
    })
    .unwrap();
    let answer = match registries.get(&host).unwrap().ping().await {
        Ok(()) => "ok".to_owned(),
        Err(RegistryError::LoginNeeded { .. }) => "login needed".to_owned(),
        Err(RegistryError::Lookup(CredentialError::Helper { helper, reason, .. })) => {
            format!("helper {helper}: {reason}")
        }
        Err(error) => error.to_string(),
    };
    println!("answer: {answer}");
}
