//! HTTPS with a private root certificate.

use crate::support::PASSWORD;
use axum::http::Method;
use e2e_tests::scripted::{Action, Fake, LocationStyle, image, noise};
use mirror_copy::{
    CopyOptions, Login, Registries, RegistryError, RegistryOptions, Retry, Source, TagOrDigest,
    Target, copy,
};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

struct TlsListener {
    inner: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.inner.accept().await else {
                continue;
            };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A registry behind TLS, and its certificate.
async fn start() -> (Fake, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (fake, router) = Fake::unserved(inner.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TlsListener { inner, acceptor };
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (fake, made.cert.pem())
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
