use super::super::Access;
use super::super::testing::{registry, respond};
use super::*;
use crate::{Digest, Registries, RegistryOptions, TagOrDigest};
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server whose every connection answers one request and breaks at the next one. Its log has a line per
/// connection: how many requests came on it.
async fn tired_registry() -> (Registry, std::sync::Arc<std::sync::Mutex<Vec<usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let log = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let number = {
                let mut log = kept.lock().unwrap();
                log.push(0);
                log.len() - 1
            };
            let kept = std::sync::Arc::clone(&kept);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = connection.read(&mut buffer).await {
                    kept.lock().unwrap()[number] += 1;
                    if kept.lock().unwrap()[number] > 1 {
                        return; // drops the connection with the request unanswered
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    connection.write_all(answer).await.unwrap();
                }
            });
        }
    });
    let options = RegistryOptions {
        insecure_hosts: BTreeSet::from([host.clone()]),
        retry: RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        },
        ..RegistryOptions::default()
    };
    (Registries::new(options).unwrap().get(&host).unwrap(), log)
}

#[tokio::test]
async fn a_connection_that_breaks_when_it_is_used_again_costs_no_attempt() {
    let (registry, log) = tired_registry().await;
    for _ in 0..3 {
        registry.ping().await.unwrap();
    }
    assert_eq!(*log.lock().unwrap(), [2, 2, 1]);
    assert_eq!(registry.requests(), 5);
}

#[tokio::test]
async fn a_wait_beyond_all_patience_is_the_callers_to_make() {
    let mut attempts = 0;
    let policy = RetryPolicy::default();
    let error = retrying(&policy, || {
        attempts += 1;
        async {
            Err::<(), _>(RegistryError::Quota {
                host: "docker.io".to_owned(),
                subject: Subject {
                    operation: Operation::ReadManifest,
                    object: "docker.io/library/a:1".to_owned(),
                },
                limit: Some(100),
                window: Duration::from_hours(6),
                after: policy.max_delay + Duration::from_secs(1),
            })
        }
    })
    .await
    .unwrap_err();
    assert!(error.retry().is_transient());
    assert_eq!(attempts, 1);
}

#[rstest::rstest]
#[case(405)]
#[case(400)]
#[tokio::test]
async fn a_refused_mount_is_an_error_and_no_session(#[case] status: u16) {
    let (registry, log) = registry(move |_, _| respond(status, &[], "")).await;
    let repository = registry.repository("a", Access::Push).unwrap();
    let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let error = repository.mount(&digest, "a").await.err().unwrap();
    assert_eq!((error.status(), log.count("POST")), (Some(status), 1));
}

#[rstest::rstest]
#[case(&[], false)]
#[case(&[("oci-subject", "sha256:00")], true)]
#[tokio::test]
async fn a_pushed_manifest_tells_whether_its_subject_was_noted(
    #[case] headers: &'static [(&str, &str)],
    #[case] known: bool,
) {
    let (registry, _) = registry(move |parts, _| {
        let headers = if parts.method == "PUT" { headers } else { &[] };
        respond(if parts.method == "PUT" { 201 } else { 200 }, headers, "{}")
    })
    .await;
    let repository = registry.repository("a", Access::Push).unwrap();
    let tag = TagOrDigest::parse("1");
    let found = repository.manifest(&tag).await.unwrap();
    let pushed = repository.put_manifest(&tag, "x/y", &found).await.unwrap();
    assert_eq!(pushed.subject_known, known);
}

/// Many registries say no more than that the manifest is invalid when they mean its type.
#[rstest::rstest]
#[case("application/vnd.oci.artifact.manifest.v1+json", true)]
#[case("application/vnd.oci.image.manifest.v1+json", false)]
#[tokio::test]
async fn an_unusual_manifest_that_is_refused_as_invalid_is_unsupported(
    #[case] media_type: &str,
    #[case] unsupported: bool,
) {
    let body =
        r#"{"errors":[{"code":"MANIFEST_INVALID","message":"manifest invalid","detail":{}}]}"#;
    let (registry, _) = registry(move |parts, _| match parts.method.as_str() {
        "PUT" => respond(400, &[], body),
        _ => respond(200, &[], "{}"),
    })
    .await;
    let repository = registry.repository("a", Access::Push).unwrap();
    let tag = TagOrDigest::parse("1");
    let found = repository.manifest(&tag).await.unwrap();
    let error = repository
        .put_manifest(&tag, media_type, &found)
        .await
        .unwrap_err();
    assert_eq!(
        matches!(error, RegistryError::Unsupported { .. }),
        unsupported,
        "{error}"
    );
    assert_eq!(
        (error.status(), error.code()),
        (Some(400), Some("MANIFEST_INVALID"))
    );
}
