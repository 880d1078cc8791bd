//! Logging in: tokens, passwords, and who never gets to see them.

use crate::support::{
    PASSWORD, copy_app, options, registries, registries_with_login, source, target,
};
use axum::http::Method;
use e2e_tests::scripted::{Action, Auth, Fake, LocationStyle, digest_of, image, noise};
use mirror_copy::{CopyOptions, Registries, RegistryError, Retry, TagOrDigest, copy};

const USER: &str = "robot";

fn bearer(expires_in: &'static str) -> Auth {
    Auth::Bearer {
        user: Some((USER.into(), PASSWORD.into())),
        expires_in,
    }
}

fn basic() -> Auth {
    Auth::Basic {
        user: USER.into(),
        password: PASSWORD.into(),
    }
}

async fn pair(auth: &Auth) -> (Fake, Fake) {
    let (from, to) = (Fake::start().await, Fake::start().await);
    from.put_tagged("app", "1", &image(1, &[noise(1, 1000), noise(2, 10)]));
    for fake in [&from, &to] {
        fake.set(|knobs| knobs.auth = auth.clone());
    }
    (from, to)
}

fn tokens_made(fake: &Fake) -> usize {
    fake.state().tokens_made
}

#[rstest::rstest]
#[case(bearer("300"))]
#[case(Auth::Bearer { user: None, expires_in: "null" })]
#[case(basic())]
#[tokio::test]
async fn a_whole_copy_with_every_scheme(#[case] auth: Auth) {
    let (from, to) = pair(&auth).await;
    let registries = registries_with_login(&[&from, &to], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(to.tag("copy", "1").is_some());
    if matches!(auth, Auth::Bearer { .. }) {
        assert_eq!(
            (tokens_made(&from), tokens_made(&to)),
            (1, 1),
            "one token a side"
        );
    }
    // Only the very first request of a host is refused.
    for fake in [&from, &to] {
        assert_eq!(
            fake.log()
                .iter()
                .filter(|entry| entry.status == 401)
                .count(),
            1
        );
    }
}

#[tokio::test]
async fn many_first_requests_make_one_token() {
    let (from, _to) = pair(&bearer("300")).await;
    let registry = registries_with_login(&[&from], USER)
        .get(&from.host())
        .unwrap();
    let tag = TagOrDigest::parse("1");
    let asked = (0..16).map(|_| registry.resolve("app", &tag));
    for answer in futures_util::future::join_all(asked).await {
        assert!(answer.unwrap().is_some());
    }
    assert_eq!(tokens_made(&from), 1);
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let (from, _to) = pair(&bearer("300")).await;
    let registry = registries_with_login(&[&from], USER)
        .get(&from.host())
        .unwrap();
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
async fn a_token_that_dies_between_the_requests_of_an_upload_is_replaced() {
    let (from, to) = pair(&bearer("300")).await;
    to.fault(
        Method::PUT,
        "/blobs/",
        1,
        Action::Status(
            401,
            vec![(
                "www-authenticate",
                format!("Bearer realm=\"http://{}/token\"", to.address),
            )],
            "",
        ),
    );
    let registries = registries_with_login(&[&from, &to], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(tokens_made(&to), 2);
}

#[tokio::test]
async fn a_token_at_the_end_of_its_life_is_not_used() {
    let (from, _to) = pair(&bearer("0.000001")).await;
    let registry = registries_with_login(&[&from], USER)
        .get(&from.host())
        .unwrap();
    for _ in 0..3 {
        registry
            .resolve("app", &TagOrDigest::parse("1"))
            .await
            .unwrap();
    }
    assert_eq!(tokens_made(&from), 3);
    assert_eq!(
        from.log()
            .iter()
            .filter(|entry| entry.status == 401)
            .count(),
        1
    );
}

#[tokio::test]
async fn a_mount_asks_to_read_the_other_repository() {
    let registry = Fake::start().await;
    registry.put_tagged("app", "1", &image(1, &[noise(1, 10)]));
    registry.set(|knobs| knobs.auth = bearer("300"));
    let registries = registries_with_login(&[&registry], USER);
    let report = copy_app(&registries, &registry, &registry).await.unwrap();
    assert_eq!(report.blobs_mounted, 2);
    let asked = registry.count(
        &Method::GET,
        "scope=repository%3Aapp%3Apull&scope=repository%3Acopy%3Apull%2Cpush",
    );
    assert_eq!(asked, 1);
}

#[rstest::rstest]
#[case(basic())]
#[case(bearer("300"))]
#[tokio::test]
async fn wrong_credentials_are_named_and_never_replaced_by_none(#[case] auth: Auth) {
    let (from, _to) = pair(&auth).await;
    let registry = registries_with_login(&[&from], "intruder")
        .get(&from.host())
        .unwrap();
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

#[rstest::rstest]
#[case(basic())]
#[case(bearer("300"))]
#[tokio::test]
async fn without_credentials_the_error_says_that_a_login_is_needed(#[case] auth: Auth) {
    let (from, _to) = pair(&auth).await;
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    let error = registry.ping().await.unwrap_err();
    assert!(
        matches!(error, RegistryError::LoginNeeded { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn ping_logs_in() {
    let (from, _to) = pair(&bearer("300")).await;
    let registry = registries_with_login(&[&from], USER)
        .get(&from.host())
        .unwrap();
    registry.ping().await.unwrap();
}

#[tokio::test]
async fn a_redirect_to_another_host_goes_without_authorization() {
    let (from, to) = pair(&bearer("300")).await;
    let cdn = Fake::start().await;
    let layer = noise(1, 1000);
    let path = format!("/blobs/{}", digest_of(&layer));
    cdn.put_blob("app", &layer);
    let there = format!("http://{}/v2/app{path}?X-Signature=s1gnature", cdn.address);
    from.fault(
        Method::GET,
        &path,
        1,
        Action::Status(307, vec![("location", there)], ""),
    );
    let registries = registries_with_login(&[&from, &to, &cdn], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    let log = cdn.log();
    assert_eq!(log.len(), 1);
    assert_eq!(
        (log[0].query.as_str(), &log[0].authorization),
        ("X-Signature=s1gnature", &None)
    );
}

#[tokio::test]
async fn redirects_end_and_their_secrets_stay_out_of_errors() {
    let (from, to) = pair(&basic()).await;
    let cdn = Fake::start().await;
    let round = format!("http://{}/round?sig=s1gnature", cdn.address);
    let location = vec![("location", round)];
    from.fault(
        Method::GET,
        "/blobs/",
        usize::MAX,
        Action::Status(302, location.clone(), ""),
    );
    cdn.fault(
        Method::GET,
        "/round",
        usize::MAX,
        Action::Status(302, location, ""),
    );
    let registries = registries_with_login(&[&from, &to], USER);
    let error = copy_app(&registries, &from, &to).await.unwrap_err();
    assert!(
        error.to_string().contains("redirected more than"),
        "{error}"
    );
    assert!(!format!("{error} {error:?}").contains("s1gnature"));
}

#[tokio::test]
async fn an_upload_to_another_host_goes_without_authorization() {
    let (from, to) = pair(&basic()).await;
    let store = Fake::start().await;
    to.set(|knobs| {
        knobs.location = LocationStyle::Elsewhere(store.host());
        knobs.verify = false;
    });
    let registries = registries_with_login(&[&from, &to, &store], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    let puts = store.log();
    assert_eq!(puts.len(), 3);
    assert!(puts.iter().all(|entry| entry.authorization.is_none()));
    assert_eq!(to.count(&Method::PUT, "/blobs/"), 0);
}

#[tokio::test]
async fn credentials_of_one_registry_are_not_shown_to_the_other() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    from.put_tagged("app", "1", &image(1, &[noise(1, 10)]));
    from.set(|knobs| knobs.auth = basic());
    to.set(|knobs| {
        knobs.auth = Auth::Bearer {
            user: None,
            expires_in: "300",
        }
    });
    let mut options = options(&[&from, &to]);
    let login = mirror_copy::Login {
        username: USER.into(),
        password: PASSWORD.to_owned().into(),
    };
    options.credentials = options.credentials.with_login(&from.host(), login);
    let registries = Registries::new(options).unwrap();
    copy_app(&registries, &from, &to).await.unwrap();
    let seen: Vec<_> = to
        .log()
        .into_iter()
        .filter_map(|entry| entry.authorization)
        .collect();
    assert!(!seen.is_empty());
    assert!(
        seen.iter().all(|value| value.starts_with("Bearer token-")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn secrets_are_in_no_error_and_no_debug_text() {
    let (from, to) = pair(&bearer("300")).await;
    let registries = registries_with_login(&[&from, &to], USER);
    let from_registry = registries.get(&from.host()).unwrap();
    from_registry.ping().await.unwrap();
    to.fault(
        Method::PUT,
        "/manifests/",
        usize::MAX,
        Action::Status(400, vec![], "bad"),
    );
    let error = copy(
        &source(&registries, &from, "app", "1"),
        &target(&registries, &to, "copy", "1"),
        &CopyOptions::default(),
        &(),
    )
    .await
    .unwrap_err();
    let texts = format!("{error} {error:?} {registries:?} {from_registry:?}");
    assert!(texts.contains(USER), "user names may be shown");
    for secret in [PASSWORD, "token-1", "token-2"] {
        assert!(!texts.contains(secret), "{texts}");
    }
}
