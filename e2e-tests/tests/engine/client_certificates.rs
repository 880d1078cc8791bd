//! Certificates of single registries, from a folder like docker's `certs.d`.

use crate::support::{arrived, copy_app, pair_with, registries};
use axum::http::Method;
use mirror_copy::{Registries, RegistryError, RegistryOptions, Retry};
use rstest::rstest;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use testkit::scripted::{Action, Fake, Image, digest_of, image, noise};
use testkit::tls::Tls;

fn app() -> Image {
    image(1, &[noise(1, 5000)])
}

fn mutual() -> Tls {
    Tls::generate().unwrap().requiring_client_certificates()
}

/// Options that read this folder for each request.
fn options(folder: &Path) -> RegistryOptions {
    RegistryOptions {
        certificates: Some(folder.to_owned()),
        credential_life: Duration::ZERO,
        ..RegistryOptions::default()
    }
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    std::fs::create_dir_all(folder).unwrap();
    for (name, content) in files {
        std::fs::write(folder.join(name), content).unwrap();
    }
}

/// Fills the folder of a registry as docker does.
fn authorize(folder: &Path, fake: &Fake, tls: &Tls) {
    let (certificate, key) = tls.client_certificate().unwrap();
    write(
        &folder.join(fake.host()),
        &[
            ("ca.crt", tls.ca_pem()),
            ("client.cert", &certificate),
            ("client.key", &key),
        ],
    );
}

async fn ping(registries: &Registries, fake: &Fake) -> Result<(), RegistryError> {
    registries.get(&fake.host()).unwrap().ping().await
}

#[tokio::test]
async fn each_registry_gets_its_own_certificate() {
    let (one, other) = (mutual(), mutual());
    let (from, to) = (Fake::start_tls(&one).await, Fake::start_http2(&other).await);
    from.put_tagged("app", "1", &app());
    let folder = TempDir::new().unwrap();
    authorize(folder.path(), &from, &one);
    authorize(folder.path(), &to, &other);
    let registries = Registries::new(options(folder.path())).unwrap();
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[app()]));
}

/// A volume of Kubernetes cannot be mounted at a path with `:`, and a Secret of type `kubernetes.io/tls` has these keys.
#[tokio::test]
async fn a_mounted_secret_is_understood() {
    let tls = mutual();
    let fake = Fake::start_tls(&tls).await;
    let folder = TempDir::new().unwrap();
    let (certificate, key) = tls.client_certificate().unwrap();
    let host = folder.path().join(fake.host().replace(':', "_"));
    write(
        &host.join("..2026_01_01"),
        &[
            ("ca.crt", tls.ca_pem()),
            ("tls.crt", &certificate),
            ("tls.key", &key),
        ],
    );
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        let target = Path::new("..2026_01_01").join(name);
        std::os::unix::fs::symlink(target, host.join(name)).unwrap();
    }
    let registries = Registries::new(options(folder.path())).unwrap();
    ping(&registries, &fake).await.unwrap();
}

#[tokio::test]
async fn a_missing_certificate_is_named() {
    let tls = mutual();
    let fake = Fake::start_tls(&tls).await;
    let folder = TempDir::new().unwrap();
    write(
        &folder.path().join(fake.host()),
        &[("ca.crt", tls.ca_pem())],
    );
    let registries = Registries::new(options(folder.path())).unwrap();
    let error = ping(&registries, &fake).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent, "{error}");
    let text = error.to_string();
    assert!(text.contains("client certificate"), "{text}");
    assert!(text.contains("add client.cert and client.key"), "{text}");
}

/// nginx accepts the connection and refuses the request (`ssl_verify_client on`).
#[rstest]
#[case::missing(
    "<html><head><title>400 No required SSL certificate was sent</title></head></html>"
)]
#[case::refused("<html><head><title>400 The SSL certificate error</title></head></html>")]
#[tokio::test]
async fn a_certificate_that_nginx_requires_is_named(#[case] page: &'static str) {
    let (from, to) = pair_with(&[app()]).await;
    let registries = registries(&[&from, &to]);
    for fake in [&to, &from] {
        for method in [Method::GET, Method::HEAD, Method::POST] {
            let headers = vec![("content-type", "text/html".to_owned())];
            fake.fault(
                method,
                "/v2/",
                usize::MAX,
                Action::Status(400, headers, page),
            );
        }
        let error = copy_app(&registries, &from, &to).await.unwrap_err();
        assert!(
            error.to_string().contains("add client.cert and client.key"),
            "{error}"
        );
    }
}

/// Neither the certificate of the first registry is presented to the second one, nor that of the second one on behalf of
/// the first.
#[rstest]
#[case::without_a_folder(false)]
#[case::with_a_folder(true)]
#[tokio::test]
async fn a_redirect_presents_no_certificate(#[case] has_folder: bool) {
    let tls = mutual();
    let (from, store) = (Fake::start_tls(&tls).await, Fake::start_tls(&tls).await);
    let to = Fake::start_tls(&tls).await;
    from.put_tagged("app", "1", &app());
    store.put_tagged("app", "1", &app());
    let folder = TempDir::new().unwrap();
    for fake in [&from, &to].into_iter().chain(has_folder.then_some(&store)) {
        authorize(folder.path(), fake, &tls);
    }
    let location = format!(
        "https://{}/v2/app/blobs/{}",
        store.host(),
        digest_of(&noise(1, 5000))
    );
    let redirect = Action::Status(307, vec![("location", location)], "");
    from.fault(Method::GET, "/v2/app/blobs/", usize::MAX, redirect);
    let mut options = options(folder.path());
    options.extra_root_certificates_pem = vec![tls.ca_pem().as_bytes().to_vec()];
    options.retry.attempts = 1;
    let registries = Registries::new(options).unwrap();
    copy_app(&registries, &from, &to).await.unwrap_err();
    assert!(store.log().is_empty());
    if has_folder {
        ping(&registries, &store).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_can_be_exempted() {
    let tls = mutual();
    let fake = Fake::start_tls(&tls).await;
    let folder = TempDir::new().unwrap();
    authorize(folder.path(), &fake, &tls);
    let options = RegistryOptions {
        hosts_without_client_certificate: [fake.host()].into(),
        ..options(folder.path())
    };
    let registries = Registries::new(options).unwrap();
    ping(&registries, &fake).await.unwrap_err();
    assert!(fake.log().is_empty());
}

#[tokio::test]
async fn renewed_files_are_used_and_broken_ones_are_not() {
    let (tls, another) = (mutual(), mutual());
    let fake = Fake::start_tls(&tls).await;
    let folder = TempDir::new().unwrap();
    let registries = Registries::new(options(folder.path())).unwrap();
    ping(&registries, &fake).await.unwrap_err();
    authorize(folder.path(), &fake, &tls);
    ping(&registries, &fake).await.unwrap();
    std::fs::remove_file(folder.path().join(fake.host()).join("client.key")).unwrap();
    ping(&registries, &fake).await.unwrap();
    authorize(folder.path(), &fake, &another);
    ping(&registries, &fake).await.unwrap_err();
}

/// The message names the file, and shows nothing of a key.
#[rstest]
#[case::no_key(&["client.cert"], "client.cert: there is no client.key beside it")]
#[case::no_certificate(&["client.key"], "client.key: there is no client.cert beside it")]
#[case::authority_with_the_wrong_ending(&["ca.cert"], "ca.cert: there is no ca.key beside it")]
#[case::wrong_ending(&["client.crt", "client.key"], "client.key: there is no client.cert beside it")]
#[case::key_as_certificate(&["key:client.cert", "client.key"], "client.cert: it holds no certificate")]
#[case::certificate_as_key(&["client.cert", "cert:client.key"], "client.key: it holds no private key")]
#[case::another_key(&["client.cert", "other:client.key"], "client.key: it is not the key of")]
#[case::key_as_authority(&["key:ca.crt"], "ca.crt: it holds no certificate")]
fn a_file_that_cannot_be_used_is_named(#[case] files: &[&str], #[case] message: &str) {
    let tls = Tls::generate().unwrap();
    let (certificate, key) = tls.client_certificate().unwrap();
    let (_, other) = tls.client_certificate().unwrap();
    let folder = TempDir::new().unwrap();
    let host = folder.path().join("registry.example.com");
    for file in files {
        let (kind, name) = file.split_once(':').unwrap_or(("", file));
        let content = match kind {
            "key" => &key,
            "other" => &other,
            "" if name.contains(".key") => &key,
            _ => &certificate,
        };
        write(&host, &[(name, content)]);
    }
    let text = Registries::new(options(folder.path()))
        .unwrap_err()
        .to_string();
    assert!(text.contains(message), "{text}");
    assert!(text.contains("registry.example.com"), "{text}");
    let secret = key.lines().nth(1).unwrap();
    assert!(!text.contains(secret), "{text}");
}

#[rstest]
#[case::twice(&["ghcr.io", "GHCR.io:443"], "another folder for this registry")]
#[case::aliases(&["docker.io", "registry-1.docker.io"], "another folder for this registry")]
#[case::no_host(&["a b"], "no registry host")]
fn folders_are_one_for_each_registry(#[case] names: &[&str], #[case] message: &str) {
    let folder = TempDir::new().unwrap();
    for name in names {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let error = Registries::new(options(folder.path())).unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
}
