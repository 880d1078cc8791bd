//! Cases 40 to 48: logging in to registries of all kinds, and who never gets to see a secret.

use crate::child;
use crate::support::{
    PASSWORD, arrived, copy_app, nothing_tagged, options, pair_with, registries,
    registries_with_login,
};
use axum::http::{Method, header};
use mirror_copy::{
    Credentials, DockerConfig, Login, Registries, Registry, RegistryError, RegistryOptions, Retry,
    TagOrDigest,
};
use std::path::Path;
use testkit::scripted::{Action, Auth, Fake, Image, image, noise};
use testkit::tls::Tls;

const USER: &str = "robot";

fn bearer(expires_in: &'static str) -> Auth {
    Auth::Bearer {
        user: Some((USER.into(), PASSWORD.into())),
        expires_in,
    }
}

fn anonymous_bearer() -> Auth {
    Auth::Bearer {
        user: None,
        expires_in: "300",
    }
}

fn basic() -> Auth {
    Auth::Basic {
        user: USER.into(),
        password: PASSWORD.into(),
    }
}

fn app() -> Image {
    image(1, &[noise(1, 1000), noise(2, 10)])
}

/// A source with an image and an empty target, both of which want to be logged in to.
async fn pair(auth: &Auth) -> (Fake, Fake) {
    let (from, to) = pair_with(&[app()]).await;
    for fake in [&from, &to] {
        fake.set(|knobs| knobs.auth = auth.clone());
    }
    (from, to)
}

fn tokens_made(fake: &Fake) -> usize {
    fake.state().tokens_made
}

fn refusals(fake: &Fake) -> usize {
    let refused = |entry: &&testkit::scripted::Entry| matches!(entry.status, 401 | 403);
    fake.log().iter().filter(refused).count()
}

fn logged_in(fake: &Fake) -> Registry {
    let registries = registries_with_login(&[fake], USER);
    registries.get(&fake.host()).unwrap()
}

/// Docker Hub as it is, but for TLS: a proxy leads its host names to the fake.
#[tokio::test]
async fn case_40_docker_hub_has_four_names() {
    let hub = Fake::start().await;
    hub.put_tagged("library/app", "1", &app());
    let realm = "Bearer realm=\"http://auth.docker.io/token\",service=\"registry.docker.io\"";
    hub.set(|knobs| {
        knobs.auth = bearer("300");
        knobs.challenges = Some(vec![realm.to_owned()]);
    });
    let login = [("https://index.docker.io/v1/", USER, PASSWORD)];
    let answer = child::copy_by_proxy(&hub, "docker.io", "app", &login).await;
    assert_eq!(answer, "ok");
    assert!(hub.has("acme/copy", &app()));
    for entry in hub.log() {
        let host = if entry.path == "/token" {
            "auth.docker.io"
        } else {
            "registry-1.docker.io"
        };
        assert_eq!(entry.headers[header::HOST], host, "{}", entry.path);
    }
    assert!(hub.count(&Method::GET, "/token?service=registry.docker.io") > 0);
}

#[tokio::test]
async fn case_41_public_images_need_an_anonymous_token_that_may_be_opaque() {
    // GHCR and Quay: every request without a token is refused, also for public images.
    let (from, to) = pair(&anonymous_bearer()).await;
    from.set(|knobs| knobs.token_answer = Some(r#"{"token":"$TOKEN"}"#));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app()]));
    assert_eq!((tokens_made(&from), refusals(&from)), (1, 1));
}

#[tokio::test]
async fn case_41_a_registry_that_hides_a_missing_repository_gets_it_made() {
    // Quay says 401 for what is not there, whatever it is shown.
    let (from, to) = pair(&bearer("300")).await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"fake\"",
        to.address
    );
    let hidden = Action::Status(401, vec![("www-authenticate", challenge)], "");
    to.fault(Method::HEAD, "/manifests/", 4, hidden.clone());
    to.fault(Method::HEAD, "/blobs/", 6, hidden);
    let registries = registries_with_login(&[&from, &to], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[app()]));
}

#[tokio::test]
async fn case_42_an_expired_password_is_looked_up_again_although_it_is_403() {
    let (from, _) = pair(&basic()).await;
    from.set(|knobs| knobs.expired_status = 403);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, PASSWORD).unwrap();
    let mut options = options(&[&from]);
    options.credentials =
        Credentials::anonymous().with_login_file(&from.host(), USER, file.clone());
    let registry = Registries::new(options).unwrap().get(&from.host()).unwrap();
    let tag = TagOrDigest::parse("1");
    registry.resolve("app", &tag).await.unwrap();
    // After twelve hours there is another one.
    let (user, password) = (USER.into(), "n3w".into());
    from.set(|knobs| knobs.auth = Auth::Basic { user, password });
    std::fs::write(&file, "n3w").unwrap();
    // A HEAD has no body that could say why; the body of GET does.
    let found = registry.manifest("app", &tag).await.unwrap();
    assert_eq!(found.digest, app().digest());
}

#[tokio::test]
async fn case_42_a_repository_that_must_be_made_first_is_named() {
    let (from, to) = pair_with(&[app()]).await;
    let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'copy' does not exist in the registry"}]}"#;
    let unknown = Action::Status(404, vec![], body);
    to.fault(
        Method::HEAD,
        "",
        usize::MAX,
        Action::Status(404, vec![], ""),
    );
    to.fault(Method::POST, "", usize::MAX, unknown);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("NAME_UNKNOWN") && text.contains("'copy'"),
        "{text}"
    );
    // Three blobs, and each may first be asked for as a mount.
    assert!(to.count(&Method::POST, "") <= 6, "nothing is repeated");
    assert!(nothing_tagged(&to));
}

fn from_file(path: &Path) -> Credentials {
    Credentials::anonymous().with_docker_config(DockerConfig::File(path.into()))
}

#[tokio::test]
async fn case_43_a_key_file_is_a_password_like_any_other() {
    // GAR and GCR: the password is a whole JSON document, with colons, quotes and line ends.
    let key = "{\n \"type\": \"service_account\",\n \"private_key\": \"-----BEGIN:\\n+/=\"\n}";
    let (from, to) = pair_with(&[app()]).await;
    for fake in [&from, &to] {
        fake.set(|knobs| {
            knobs.auth = Auth::Bearer {
                user: Some(("_json_key".into(), key.into())),
                expires_in: "3600",
            }
        });
    }
    let mut options = options(&[&from, &to]);
    for fake in [&from, &to] {
        let login = Login {
            username: "_json_key".into(),
            password: key.to_owned().into(),
        };
        options.credentials = options.credentials.with_login(&fake.host(), login);
    }
    let registries = Registries::new(options).unwrap();
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[app()]));
}

#[tokio::test]
async fn case_43_an_unknown_project_is_a_final_error_in_the_registrys_words() {
    let (from, to) = pair_with(&[app()]).await;
    let body = r#"{"errors":[{"code":"DENIED","message":"Artifact Registry API has not been used in project acme"}]}"#;
    let unknown = Action::Status(403, vec![], body);
    to.fault(
        Method::HEAD,
        "",
        usize::MAX,
        Action::Status(403, vec![], ""),
    );
    to.fault(Method::POST, "", usize::MAX, unknown);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent, "{error}");
    assert!(error.to_string().contains("project acme"), "{error}");
}

#[tokio::test]
async fn case_43_an_identity_token_is_exchanged_by_post() {
    let (from, _) = pair(&bearer("300")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let entry = serde_json::json!({"auths": {from.host(): {"identitytoken": PASSWORD}}});
    std::fs::write(&file, entry.to_string()).unwrap();
    let mut options = options(&[&from]);
    options.credentials = from_file(&file);
    let registry = Registries::new(options).unwrap().get(&from.host()).unwrap();
    registry.ping().await.unwrap();
    let asked = from.asked(&Method::POST, "/token");
    assert_eq!(asked.len(), 1);
    let body = &asked[0].body;
    assert!(body.contains("grant_type=refresh_token"), "{body}");
    assert!(body.contains("service=fake"), "{body}");
    assert!(asked[0].authorization.is_none());
}

#[rstest::rstest]
#[case::two_headers(&["Basic realm=\"r\"", "Bearer realm=\"$REALM\",service=\"fake\""])]
#[case::bearer_first(&["Bearer realm=\"$REALM\",service=\"fake\"", "Basic realm=\"r\""])]
#[case::one_header(&["Basic realm=\"r, or not\", Bearer realm=\"$REALM\",service=\"fake\""])]
#[case::no_service(&["Bearer realm=\"$REALM\""])]
#[case::no_scope_and_odd_case(&["bEARER Realm=\"$REALM\", SERVICE=\"fake\""])]
#[case::unknown_schemes(&["Negotiate", "DPoP algs=\"ES256\"", "Bearer realm=\"$REALM\",error=\"invalid_token\""])]
#[case::quoted_commas(&["Bearer realm=\"$REALM\",scope=\"repository:app:pull,push\",service=\"a, b\""])]
#[tokio::test]
async fn case_44_bearer_is_found_in_every_list_of_challenges(#[case] challenges: &[&str]) {
    let (from, to) = pair(&bearer("300")).await;
    let challenges: Vec<_> = challenges.iter().map(|text| (*text).to_owned()).collect();
    for fake in [&from, &to] {
        fake.set(|knobs| knobs.challenges = Some(challenges.clone()));
    }
    let registries = registries_with_login(&[&from, &to], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[app()]));
    let passwords = |entry: &testkit::scripted::Entry| {
        let basic = |value: &String| value.starts_with("Basic ");
        entry.path != "/token" && entry.authorization.as_ref().is_some_and(basic)
    };
    assert!(!from.log().iter().any(passwords), "Bearer is preferred");
}

#[rstest::rstest]
#[case::token(r#"{"token":"$TOKEN","expires_in":300}"#)]
#[case::access_token(r#"{"access_token":"$TOKEN","expires_in":300}"#)]
#[case::both(r#"{"access_token":"$TOKEN","token":"$TOKEN"}"#)]
#[case::no_life(r#"{"token":"$TOKEN"}"#)]
#[case::null_life(r#"{"token":"$TOKEN","expires_in":null}"#)]
#[case::a_clock_that_is_years_off(
    r#"{"token":"$TOKEN","expires_in":300,"issued_at":"2009-01-01T00:00:00Z"}"#
)]
#[tokio::test]
async fn case_45_token_answers_of_all_shapes_are_used(#[case] answer: &'static str) {
    let (from, to) = pair(&bearer("300")).await;
    for fake in [&from, &to] {
        fake.set(|knobs| knobs.token_answer = Some(answer));
    }
    let registries = registries_with_login(&[&from, &to], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[app()]));
    assert_eq!((tokens_made(&from), tokens_made(&to)), (1, 1));
}

#[tokio::test]
async fn case_45_a_token_at_the_end_of_its_life_is_not_used() {
    let (from, _) = pair(&bearer("0.000001")).await;
    let registry = logged_in(&from);
    for _ in 0..3 {
        registry
            .resolve("app", &TagOrDigest::parse("1"))
            .await
            .unwrap();
    }
    assert_eq!(tokens_made(&from), 3);
    assert_eq!(refusals(&from), 1);
}

#[rstest::rstest]
#[case(basic())]
#[case(bearer("300"))]
#[tokio::test]
async fn case_45_wrong_credentials_are_named_and_never_replaced_by_none(#[case] auth: Auth) {
    let (from, _) = pair(&auth).await;
    let registries = registries_with_login(&[&from], "intruder");
    let registry = registries.get(&from.host()).unwrap();
    let error = registry
        .resolve("app", &TagOrDigest::parse("1"))
        .await
        .unwrap_err();
    let RegistryError::Credentials { host, user } = &error else {
        panic!("{error}")
    };
    assert_eq!((host, user.as_str()), (&from.host(), "intruder"));
    assert_eq!(error.retry(), Retry::Permanent);
    assert_eq!(from.log().len(), 2, "one challenge, one try");
}

#[tokio::test]
async fn case_46_a_token_that_is_refused_is_replaced_once_for_all_requests() {
    let (from, _) = pair(&bearer("300")).await;
    let registry = logged_in(&from);
    let tag = TagOrDigest::parse("1");
    registry.resolve("app", &tag).await.unwrap();
    from.revoke_tokens();
    let asked = (0..8).map(|_| registry.resolve("app", &tag));
    for answer in futures_util::future::join_all(asked).await {
        assert!(answer.unwrap().is_some());
    }
    assert_eq!(tokens_made(&from), 2);
}

#[tokio::test]
async fn case_46_a_token_that_dies_between_the_requests_of_an_upload_is_replaced() {
    let (from, to) = pair(&bearer("300")).await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", to.address);
    let dead = Action::Status(401, vec![("www-authenticate", challenge)], "");
    to.fault(Method::PUT, "/blobs/", 1, dead);
    let registries = registries_with_login(&[&from, &to], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(tokens_made(&to), 2);
    assert!(arrived(&to, &[app()]));
}

#[tokio::test]
async fn case_46_a_token_that_is_refused_with_403_because_it_expired_is_replaced_once() {
    let (from, _) = pair(&bearer("300")).await;
    from.set(|knobs| knobs.expired_status = 403);
    let registry = logged_in(&from);
    let tag = TagOrDigest::parse("1");
    registry.manifest("app", &tag).await.unwrap();
    from.revoke_tokens();
    registry.manifest("app", &tag).await.unwrap();
    assert_eq!(tokens_made(&from), 2);
    // What stays forbidden is not asked for again and again.
    let never = r#"{"errors":[{"code":"DENIED","message":"Your token has expired."}]}"#;
    let denied = Action::Status(403, vec![], never);
    from.fault(Method::GET, "/manifests/", usize::MAX, denied);
    from.clear_log();
    let error = registry.manifest("app", &tag).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent, "{error}");
    assert!(from.count(&Method::GET, "/manifests/") <= 2);
}

#[tokio::test]
async fn case_47_repositories_of_one_host_have_tokens_of_their_own() {
    let registry = Fake::start().await;
    registry.put_tagged("app", "1", &app());
    registry.set(|knobs| {
        knobs.auth = bearer("300");
        knobs.mount = false;
    });
    let registries = registries_with_login(&[&registry], USER);
    copy_app(&registries, &registry, &registry).await.unwrap();
    // The registry grants what a token was asked for and nothing else, so no token served for another repository
    // unless it had been asked for that, too.
    assert!(arrived(&registry, &[app()]));
    let pushes = registry.count(&Method::GET, "scope=repository%3Aapp%3Apull%2Cpush");
    assert_eq!(pushes, 0, "nobody needs to write to the source");
}

#[tokio::test]
async fn case_47_credentials_of_one_registry_are_not_shown_to_the_other() {
    let (from, to) = pair_with(&[app()]).await;
    from.set(|knobs| knobs.auth = basic());
    to.set(|knobs| knobs.auth = anonymous_bearer());
    let mut options = options(&[&from, &to]);
    let login = Login {
        username: USER.into(),
        password: PASSWORD.to_owned().into(),
    };
    options.credentials = options.credentials.with_login(&from.host(), login);
    let registries = Registries::new(options).unwrap();
    copy_app(&registries, &from, &to).await.unwrap();
    let log = to.log();
    let seen: Vec<_> = log
        .iter()
        .filter_map(|entry| entry.authorization.as_deref())
        .collect();
    assert!(!seen.is_empty());
    assert!(
        seen.iter().all(|value| value.starts_with("Bearer token-")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn case_47_a_realm_on_another_registry_does_not_get_that_ones_credentials() {
    let (from, to) = pair_with(&[app()]).await;
    from.set(|knobs| knobs.auth = basic());
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"x\"",
        from.address
    );
    to.set(|knobs| {
        knobs.auth = anonymous_bearer();
        knobs.challenges = Some(vec![realm]);
    });
    let mut options = options(&[&from, &to]);
    let login = Login {
        username: USER.into(),
        password: PASSWORD.to_owned().into(),
    };
    options.credentials = options.credentials.with_login(&from.host(), login);
    let registries = Registries::new(options).unwrap();
    copy_app(&registries, &from, &to).await.unwrap_err();
    let asked = from.asked(&Method::GET, "/token");
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|entry| entry.authorization.is_none()));
}

#[tokio::test]
async fn case_48_a_password_is_not_sent_to_a_realm_without_tls() {
    let tls = Tls::generate().unwrap();
    let fake = Fake::start_tls(&tls).await;
    let thief = Fake::start().await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", thief.address);
    let headers = vec![("www-authenticate", challenge)];
    let challenge = Action::Status(401, headers, "");
    fake.fault(Method::GET, "/v2/", usize::MAX, challenge);
    let login = Login {
        username: USER.into(),
        password: PASSWORD.to_owned().into(),
    };
    let options = RegistryOptions {
        extra_root_certificates_pem: vec![tls.ca_pem().as_bytes().to_vec()],
        credentials: Credentials::anonymous().with_login(&fake.host(), login),
        ..RegistryOptions::default()
    };
    let registry = Registries::new(options).unwrap().get(&fake.host()).unwrap();
    let error = registry.ping().await.unwrap_err();
    assert!(matches!(error, RegistryError::Challenge { .. }), "{error}");
    assert!(thief.log().is_empty());
}

/// A public name reaches the fake through a proxy; its realm is in the client's own network.
#[rstest::rstest]
#[case("http://192.168.0.1/token")]
#[case("http://169.254.169.254/latest/meta-data")]
#[case("http://[fd00::1]/token")]
#[case("http://localhost:8001/token")]
#[tokio::test]
async fn case_48_a_public_registry_cannot_name_a_realm_in_a_private_network(#[case] realm: &str) {
    let fake = Fake::start().await;
    fake.put_tagged("app", "1", &app());
    fake.set(|knobs| {
        knobs.auth = anonymous_bearer();
        knobs.challenges = Some(vec![format!("Bearer realm=\"{realm}\"")]);
    });
    let login = [("registry.example.com", USER, PASSWORD)];
    let answer = child::copy_by_proxy(&fake, "registry.example.com", "app", &login).await;
    assert!(child::is_kept_out(&answer), "{answer}");
    let host = |entry: &testkit::scripted::Entry| entry.headers[header::HOST].clone();
    assert!(fake.log().iter().all(|e| host(e) == "registry.example.com"));
}
