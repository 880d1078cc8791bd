use super::super::testing::{Log, registry, respond};
use super::*;
use crate::TagOrDigest;
use axum::http::request::Parts;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a registry with a token service treats tokens. Tokens are numbered: t1, t2, …
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Fine,
    /// The token service refuses more than one scope.
    RefusesBatches,
    /// The token service grants the first scope only.
    GrantsLess,
    /// The same, and the registry responds 403 to everything else.
    GrantsLessSilently,
    /// The first token is valid once, then the response is 403 and "expired".
    FirstExpires,
    /// So are all other tokens.
    AllExpire,
    /// The response to all but the first request is 403 without "expired".
    Forbids,
    WrongPassword,
}

fn bearer(way: Way) -> impl Fn(Parts, Bytes) -> Response + Clone {
    let granted: Arc<Mutex<Vec<String>>> = Arc::default();
    let served = Arc::new(AtomicUsize::new(0));
    move |parts: Parts, _| {
        let mut granted = granted.lock().unwrap();
        let query = parts.uri.query().unwrap_or_default();
        if parts.uri.path() == "/token" {
            let asked: Vec<_> = query
                .split('&')
                .filter_map(|pair| pair.strip_prefix("scope="))
                .map(|scope| {
                    scope
                        .replace("%3A", ":")
                        .replace("%2F", "/")
                        .replace("%2C", ",")
                })
                .collect();
            if way == Way::WrongPassword {
                return respond(401, &[], "");
            }
            if way == Way::RefusesBatches && asked.len() > 1 {
                return respond(400, &[], "one scope at a time");
            }
            let kept = if matches!(way, Way::GrantsLess | Way::GrantsLessSilently) {
                1
            } else {
                asked.len()
            };
            granted.push(asked[..kept.min(asked.len())].join(" "));
            return respond(
                200,
                &[],
                format!(r#"{{"token":"t{}","expires_in":300}}"#, granted.len()),
            );
        }
        let host = parts.headers["host"].to_str().unwrap();
        let name = parts
            .uri
            .path()
            .trim_start_matches("/v2/")
            .split("/manifests/")
            .next()
            .unwrap();
        let scope = format!("repository:{name}:pull");
        let challenge = format!(r#"Bearer realm="http://{host}/token",scope="{scope}""#);
        let token = parts
            .headers
            .get("authorization")
            .map(|value| value.to_str().unwrap());
        let number = token.and_then(|token| token.strip_prefix("Bearer t")?.parse::<usize>().ok());
        let expired =
            r#"{"errors":[{"code":"DENIED","message":"Your authorization token has Expired."}]}"#;
        let used = served.load(Ordering::Relaxed) > 0;
        match (number, way) {
            (Some(1), Way::FirstExpires) | (Some(_), Way::AllExpire) if used => {
                respond(403, &[], expired)
            }
            (Some(_), Way::Forbids) if used => respond(403, &[], "not for you"),
            (Some(number), _) if granted[number - 1].contains(&scope) => {
                served.fetch_add(1, Ordering::Relaxed);
                respond(
                    200,
                    &[("content-type", "text/plain")],
                    r#"{"schemaVersion":2}"#,
                )
            }
            (Some(_), Way::GrantsLessSilently) => respond(403, &[], "denied"),
            _ => respond(401, &[("www-authenticate", &challenge)], ""),
        }
    }
}

/// Reads a manifest of each of these repositories, in turn.
async fn read(registry: &Registry, names: &[&str]) -> Vec<Result<(), RegistryError>> {
    let mut answers = Vec::new();
    for name in names {
        answers.push(
            registry
                .manifest(name, &TagOrDigest::parse("1"))
                .await
                .map(drop),
        );
    }
    answers
}

fn tokens(log: &Log) -> usize {
    log.count(" /token")
}

#[tokio::test]
async fn announced_scopes_share_one_token() {
    let (registry, log) = registry(bearer(Way::Fine)).await;
    registry.expect("b", Access::Push);
    registry.expect("c", Access::Pull);
    registry.expect("a", Access::Pull);
    for answer in read(&registry, &["a", "b", "c"]).await {
        answer.unwrap();
    }
    assert_eq!((tokens(&log), log.lines().len()), (1, 5));
    assert_eq!(log.count("scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull%2Cpush&scope=repository%3Ac%3Apull"), 1);
    read(&registry, &["d"]).await.pop().unwrap().unwrap();
    assert_eq!(log.count("scope="), 2, "announcements are used once");
    assert!(
        log.lines()
            .iter()
            .any(|line| line.ends_with("?scope=repository%3Ad%3Apull")),
        "{:?}",
        log.lines()
    );
}

#[tokio::test]
async fn announced_scopes_wait_for_the_token_that_is_on_its_way() {
    let (registry, log) = registry(bearer(Way::Fine)).await;
    let names: Vec<String> = (0..20).map(|number| format!("r{number}")).collect();
    read(&registry, &["first"]).await.pop().unwrap().unwrap();
    for name in &names {
        registry.expect(name, Access::Pull);
    }
    let tag = TagOrDigest::parse("1");
    let reads = names.iter().map(|name| registry.manifest(name, &tag));
    for answer in futures_util::future::join_all(reads).await {
        answer.unwrap();
    }
    assert_eq!(tokens(&log), 2);
}

#[rstest::rstest]
#[case(Way::RefusesBatches)] // the batch in vain, a, b, c
#[case(Way::GrantsLess)] // the batch that was good for a only, b, c, a
#[case(Way::GrantsLessSilently)]
#[tokio::test]
async fn without_batches_everybody_asks_for_himself(#[case] way: Way) {
    let (registry, log) = registry(bearer(way)).await;
    registry.expect("b", Access::Pull);
    for answer in read(&registry, &["a", "b"]).await {
        answer.unwrap();
    }
    registry.expect("a", Access::Pull);
    registry.expect("d", Access::Pull);
    read(&registry, &["c", "a"])
        .await
        .into_iter()
        .for_each(|answer| answer.unwrap());
    assert_eq!(tokens(&log), 4, "{:?}", log.lines());
    assert_eq!(log.count("a%3Apull&scope="), 1, "no second batch is tried");
}

#[tokio::test]
async fn a_wrong_password_is_an_error_and_nothing_anonymous_is_tried() {
    let (registry, log) = registry(bearer(Way::WrongPassword)).await;
    registry.expect("b", Access::Pull);
    let error = read(&registry, &["a"]).await.pop().unwrap().unwrap_err();
    assert!(
        matches!(error, RegistryError::Credentials { .. }),
        "{error}"
    );
    assert_eq!((tokens(&log), log.lines().len()), (2, 3));
}

#[rstest::rstest]
#[case(Way::FirstExpires, None, 2)]
#[case(Way::AllExpire, Some(403), 2)]
#[case(Way::Forbids, Some(403), 1)]
#[tokio::test]
async fn a_token_that_is_refused_as_expired_is_replaced_once(
    #[case] way: Way,
    #[case] status: Option<u16>,
    #[case] expected: usize,
) {
    let (registry, log) = registry(bearer(way)).await;
    let answer = read(&registry, &["a", "a"]).await.pop().unwrap();
    assert_eq!(
        answer.as_ref().err().and_then(RegistryError::status),
        status
    );
    assert!(
        answer
            .err()
            .is_none_or(|error| !error.retry().is_transient())
    );
    assert_eq!(tokens(&log), expected);
}

/// A registry that accepts only the password `new`, and calls the other one expired.
fn expires_passwords(parts: &Parts) -> Response {
    let expired = "Your authorization token has expired. Reauthenticate and try again.";
    let sent = parts
        .headers
        .get("authorization")
        .map(HeaderValue::as_bytes);
    match sent {
        None => respond(401, &[("www-authenticate", r#"Basic realm="r""#)], ""),
        Some(sent) if sent == basic("robot", "new").unwrap().as_bytes() => {
            respond(200, &[], r#"{"schemaVersion":2}"#)
        }
        Some(_) => respond(403, &[], expired),
    }
}

/// The same registry for a client without credentials.
fn without_login(registry: &Registry) -> Registry {
    let mut options = registry.shared.common.options.clone();
    options.credentials = crate::Credentials::anonymous();
    let registries = crate::Registries::new(options).unwrap();
    registries.get(registry.host()).unwrap()
}

/// The challenge of a host with one private repository, and the state of its token service.
#[derive(Clone, Copy)]
enum Private {
    Basic,
    /// With a token service that responds with this status.
    Bearer(u16),
    /// With a realm that cannot be used.
    Realm(&'static str),
}

/// A host that challenges for the repository `private`, and whose other repositories need no login, or refuse any.
fn one_private(private: Private) -> impl Fn(Parts, Bytes) -> Response + Clone {
    move |parts: Parts, _| {
        let host = parts.headers["host"].to_str().unwrap();
        let challenge = match private {
            Private::Basic => r#"Basic realm="r""#.to_owned(),
            Private::Bearer(_) => format!(r#"Bearer realm="http://{host}/token",service="s""#),
            Private::Realm(realm) => format!(r#"Bearer realm="{realm}",service="s""#),
        };
        match (parts.uri.path(), private) {
            ("/token", Private::Bearer(status)) => respond(status, &[], r#"{"token":"t"}"#),
            (path, _) if path.starts_with("/v2/private/") => {
                respond(401, &[("www-authenticate", &challenge)], "")
            }
            _ if parts.headers.contains_key("authorization") => respond(400, &[], ""),
            _ => respond(200, &[], r#"{"schemaVersion":2}"#),
        }
    }
}

/// A tenant who names a private image must not stop the copies of all others.
#[rstest::rstest]
#[case::basic(Private::Basic)]
#[case::token(Private::Bearer(200))]
#[case::refused(Private::Bearer(401))]
#[case::forbidden(Private::Bearer(403))]
#[case::no_token_service(Private::Bearer(404))]
#[case::broken_token_service(Private::Bearer(500))]
#[case::no_https(Private::Realm("ftp://t.example/"))]
#[case::no_url(Private::Realm("login here"))]
#[tokio::test]
async fn one_challenge_does_not_decide_for_other_repositories(
    #[case] private: Private,
    #[values(true, false)] has_login: bool,
    #[values(1, 3)] times: usize,
) {
    let (registry, log) = registry(one_private(private)).await;
    let registry = if has_login {
        registry
    } else {
        without_login(&registry)
    };
    for _ in 0..times {
        for answer in read(&registry, &["private", "private"]).await {
            answer.unwrap_err();
        }
        let before = log.lines().len();
        registry.ping().await.unwrap();
        for answer in read(&registry, &["public", "private2", "public"]).await {
            answer.unwrap();
        }
        assert_eq!(log.lines().len() - before, 4, "{:?}", log.lines());
    }
}

/// A proxy responds once with a challenge of its own, for a repository that needs no login.
#[rstest::rstest]
#[case::basic(r#"Basic realm="r""#)]
#[case::bearer(r#"Bearer realm="http://HOST/none""#)]
#[case::realm(r#"Bearer realm="ftp://t.example/""#)]
#[tokio::test]
async fn one_wrong_challenge_passes(
    #[case] challenge: &'static str,
    #[values(true, false)] has_login: bool,
) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (registry, _) = registry(move |parts: Parts, _| {
        let challenge = challenge.replace("HOST", parts.headers["host"].to_str().unwrap());
        match (parts.uri.path(), asked.fetch_add(1, Ordering::Relaxed)) {
            ("/none", _) => respond(404, &[], ""),
            (_, 0) => respond(401, &[("www-authenticate", &challenge)], ""),
            _ => respond(200, &[], r#"{"schemaVersion":2}"#),
        }
    })
    .await;
    let registry = if has_login {
        registry
    } else {
        without_login(&registry)
    };
    let _first = read(&registry, &["a"]).await;
    for answer in read(&registry, &["a", "b"]).await {
        answer.unwrap();
    }
}

/// A registry that moves its token service, and whose old one is gone.
#[tokio::test]
async fn a_new_token_service_is_learned() {
    let served = Arc::new(AtomicUsize::new(0));
    let (registry, _) = registry(move |parts: Parts, _| {
        let host = parts.headers["host"].to_str().unwrap();
        let number = served.load(Ordering::Relaxed);
        let challenge = format!(r#"Bearer realm="http://{host}/token{}""#, number / 2);
        let token = parts.headers.get("authorization");
        let is_current = token.is_some_and(|token| *token == *format!("Bearer t{}", number / 2));
        match parts.uri.path() {
            path if path == format!("/token{}", number / 2) => {
                let token = format!(r#"{{"token":"t{}","expires_in":300}}"#, number / 2);
                respond(200, &[], token)
            }
            "/token0" | "/token1" => respond(404, &[], ""),
            _ if is_current => {
                served.fetch_add(1, Ordering::Relaxed);
                respond(200, &[], r#"{"schemaVersion":2}"#)
            }
            _ => respond(401, &[("www-authenticate", &challenge)], ""),
        }
    })
    .await;
    for answer in read(&registry, &["a", "b", "c", "d"]).await {
        answer.unwrap();
    }
}

/// A registry and its password file.
async fn with_password_file() -> (Registry, Log, tempfile::NamedTempFile, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let (plain, log) = registry(move |parts, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        expires_passwords(&parts)
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old").unwrap();
    let mut options = plain.shared.common.options.clone();
    options.credentials = crate::Credentials::anonymous().with_login_file(
        plain.host(),
        "robot",
        file.path().to_owned(),
    );
    let registry = crate::Registries::new(options)
        .unwrap()
        .get(plain.host())
        .unwrap();
    (registry, log, file, asked)
}

#[tokio::test]
async fn an_expired_password_is_looked_up_again() {
    let (registry, _, file, asked) = with_password_file().await;
    let error = read(&registry, &["a"]).await.pop().unwrap().unwrap_err();
    assert_eq!(
        (error.status(), error.retry().is_transient()),
        (Some(403), false)
    );
    assert_eq!(
        asked.load(Ordering::Relaxed),
        2,
        "the same password is not tried again"
    );
    std::fs::write(file.path(), "new").unwrap();
    read(&registry, &["a"]).await.pop().unwrap().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_password_that_expires_under_an_upload_is_replaced_for_the_next_attempt() {
    let (registry, _, file, _) = with_password_file().await;
    let repository = registry.repository("a", Access::Push).unwrap();
    let url = repository.url("blobs/uploads/1");
    let subject = repository.subject(crate::Operation::WriteBlob, "");
    let send = || {
        registry.send_stream(super::super::streaming_upload::Streamed {
            subject: &subject,
            method: reqwest::Method::PUT,
            url: url.clone(),
            scopes: &repository.scopes,
            length: 2,
            chunk_at: None,
            body: "ab".into(),
        })
    };
    send().await.unwrap_err();
    assert_eq!(send().await.unwrap_err().status(), Some(403));
    std::fs::write(file.path(), "new").unwrap();
    let error = send().await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Expired { .. }) && error.retry().is_transient(),
        "{error}"
    );
    send().await.unwrap();
}

/// Each repository is read with the login of its own path: with Basic, and with tokens, which are then not shared.
#[rstest::rstest]
#[case(false)]
#[case(true)]
#[tokio::test]
async fn each_path_has_its_own_login(#[case] has_token_service: bool) {
    let (plain, log) = registry(move |parts: Parts, _| {
        let sent = |name| parts.headers.get(name).map(|value| value.to_str().unwrap());
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default();
        let team = if query.contains("team-a") || path.contains("team-a") {
            "a"
        } else {
            "b"
        };
        let login = STANDARD.encode(format!("robot-{team}:pw"));
        let basic = format!("Basic {login}");
        let bearer = format!("Bearer {team}");
        if path == "/token" {
            let is_alone = !(query.contains("team-a") && query.contains("team-b"));
            return if sent("authorization") == Some(&basic) && is_alone {
                respond(200, &[], format!(r#"{{"token":"{team}"}}"#))
            } else {
                respond(401, &[], "")
            };
        }
        let host = sent("host").unwrap();
        let (expected, challenge) = if has_token_service {
            let realm = format!(r#"Bearer realm="http://{host}/token",service="s""#);
            (bearer, realm)
        } else {
            (basic, r#"Basic realm="r""#.to_owned())
        };
        if sent("authorization") == Some(&expected) {
            respond(200, &[], r#"{"schemaVersion":2}"#)
        } else {
            respond(401, &[("www-authenticate", &challenge)], "")
        }
    })
    .await;
    let host = plain.host();
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = format!(
        r#"{{"auths":{{"{host}/team-a":{{"username":"robot-a","password":"pw"}},
            "{host}":{{"username":"robot-b","password":"pw"}}}}}}"#
    );
    std::fs::write(file.path(), config).unwrap();
    let mut options = plain.shared.common.options.clone();
    let config = crate::DockerConfig::File(file.path().to_owned());
    options.credentials = crate::Credentials::anonymous().with_docker_config(config);
    let registry = crate::Registries::new(options).unwrap().get(host).unwrap();
    for name in ["team-a/x", "team-b/x", "team-a/y", "team-b/y"] {
        registry.expect(name, Access::Pull);
    }
    for answer in read(&registry, &["team-a/x", "team-b/x", "team-a/y", "team-b/y"]).await {
        answer.unwrap();
    }
    assert_eq!(tokens(&log), if has_token_service { 4 } else { 0 });
}
