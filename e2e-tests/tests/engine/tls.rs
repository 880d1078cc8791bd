//! HTTPS with a private root certificate.

use crate::support::PASSWORD;
use axum::http::Method;
use e2e_tests::scripted::{Action, Fake, LocationStyle, image, noise};
use e2e_tests::tls::Tls;
use mirror_copy::{
    CopyOptions, Login, Registries, RegistryError, RegistryOptions, Retry, Source, TagOrDigest,
    Target, copy,
};

/// A registry behind TLS, and the certificate of its authority.
async fn start() -> (Fake, String) {
    let tls = Tls::generate().unwrap();
    (Fake::start_tls(&tls).await, tls.ca_pem().to_owned())
}

fn options(pem: &str) -> RegistryOptions {
    RegistryOptions {
        extra_root_certificates_pem: vec![pem.as_bytes().to_vec()],
        ..RegistryOptions::default()
    }
}

#[tokio::test]
async fn an_extra_root_certificate_is_trusted() {
    let (fake, pem) = start().await;
    let app = image(1, &[noise(1, 100_000)]);
    fake.put_tagged("app", "1", &app);
    // It thinks that it is spoken to by plain HTTP, like many behind a proxy.
    fake.set(|knobs| knobs.location = LocationStyle::Absolute);
    fake.set(|knobs| knobs.mount = false);
    let registry = Registries::new(options(&pem))
        .unwrap()
        .get(&fake.host())
        .unwrap();
    let source = Source {
        registry: registry.clone(),
        repository: "app".into(),
        reference: TagOrDigest::parse("1"),
    };
    let target = Target {
        registry,
        repository: "copy".into(),
        tag: Some("1".into()),
        anchor: None,
    };
    copy(&source, &target, &CopyOptions::default(), &())
        .await
        .unwrap();
    assert!(fake.has("copy", &app));
}

#[tokio::test]
async fn an_unknown_certificate_is_refused_for_good() {
    let (fake, _pem) = start().await;
    let registries = Registries::new(RegistryOptions::default()).unwrap();
    let error = registries
        .get(&fake.host())
        .unwrap()
        .ping()
        .await
        .unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn what_is_no_certificate_is_refused_at_setup() {
    let error = Registries::new(options("hello")).unwrap_err();
    assert!(error.to_string().contains("certificate 1"), "{error}");
}

#[tokio::test]
async fn a_password_is_not_sent_to_a_realm_without_tls() {
    let (fake, pem) = start().await;
    let thief = Fake::start().await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", thief.address);
    let headers = vec![("www-authenticate", challenge)];
    fake.fault(
        Method::GET,
        "/v2/",
        usize::MAX,
        Action::Status(401, headers, ""),
    );
    let mut options = options(&pem);
    let login = Login {
        username: "robot".into(),
        password: PASSWORD.to_owned().into(),
    };
    options.credentials = options.credentials.with_login(&fake.host(), login);
    let registry = Registries::new(options).unwrap().get(&fake.host()).unwrap();
    let error = registry.ping().await.unwrap_err();
    assert!(matches!(error, RegistryError::Challenge { .. }), "{error}");
    assert!(thief.log().is_empty());
}

#[tokio::test]
async fn a_redirect_out_of_tls_is_not_followed() {
    let (fake, pem) = start().await;
    let plain = Fake::start().await;
    let location = vec![("location", format!("http://{}/x", plain.address))];
    fake.fault(
        Method::GET,
        "/v2/",
        usize::MAX,
        Action::Status(307, location, ""),
    );
    let registry = Registries::new(options(&pem))
        .unwrap()
        .get(&fake.host())
        .unwrap();
    let error = registry.ping().await.unwrap_err();
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error}");
    assert!(plain.log().is_empty());
}
