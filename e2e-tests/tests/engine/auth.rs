//! Logging in: tokens, passwords, and who never gets to see them.

use crate::support::{PASSWORD, copy_app, registries, registries_with_login, source, target};
use axum::http::Method;
use mirror_copy::{CopyOptions, RegistryError, TagOrDigest, copy};
use testkit::scripted::{Action, Auth, Fake, image, noise};

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
