use super::super::Access;
use super::super::streaming_upload::Streamed;
use super::super::testing::{Log, registry, respond};
use super::*;
use crate::{Digest, Registries, RegistryOptions, TagOrDigest};
use futures_util::FutureExt as _;
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server that responds to one request of each connection and breaks at the next one. Its log has the number of requests
/// of each connection.
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
    assert_eq!(
        (registry.traffic().requests, registry.traffic().pauses),
        (5, 0)
    );
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
        respond(
            if parts.method == "PUT" { 201 } else { 200 },
            headers,
            r#"{"schemaVersion":2}"#,
        )
    })
    .await;
    let repository = registry.repository("a", Access::Push).unwrap();
    let tag = TagOrDigest::parse("1");
    let found = repository.manifest(&tag).await.unwrap();
    let pushed = repository.put_manifest(&tag, "x/y", &found).await.unwrap();
    assert_eq!(pushed.subject_known, known);
}

/// Many registries only call a manifest invalid when they do not support its type.
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
        _ => respond(200, &[], r#"{"schemaVersion":2}"#),
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

/// A registry that redirects everything to this path of another host, which responds `status`.
async fn sends_on(status: u16) -> (Registry, Log) {
    let (elsewhere, _) = registry(move |_, _| respond(status, &[("retry-after", "60")], "")).await;
    let location = format!("http://{}/x", elsewhere.host());
    registry(move |parts, _| match parts.method.as_str() {
        "GET" => respond(307, &[("location", &location)], ""),
        _ => respond(202, &[("location", &location)], ""),
    })
    .await
}

/// Returns whether requests are not paused.
fn is_open(registry: &Registry) -> bool {
    let pass = registry.shared.limits.pauses.wait(Operation::WriteBlob);
    pass.now_or_never().is_some()
}

#[rstest::rstest]
#[case(429)]
#[case(503)]
#[tokio::test]
async fn only_the_registry_itself_can_pause_us(#[case] status: u16) {
    let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let subject = Subject {
        operation: Operation::ReadBlob,
        object: String::new(),
    };
    let scopes = Scopes::default();
    let get = |registry: &Registry, url: Url| {
        let call = RegistryRequest::new(&subject, Method::GET, url, &scopes, Pool::Small);
        let registry = registry.clone();
        async move { registry.attempt(&call).await.unwrap_err().status() }
    };

    let (elsewhere, _) = sends_on(status).await;
    let base = elsewhere.shared.endpoint.base.clone();
    assert_eq!(get(&elsewhere, base).await, Some(status));
    assert!(is_open(&elsewhere), "a redirect's target");
    let repository = elsewhere.repository("a", Access::Push).unwrap();
    let session = repository.start_upload(&digest).await.unwrap();
    assert_eq!(get(&elsewhere, session.url()).await, Some(status));
    assert!(is_open(&elsewhere), "a foreign layer's address");
    let sent = elsewhere.send_stream(Streamed {
        subject: &subject,
        method: Method::PUT,
        url: session.url(),
        scopes: &scopes,
        length: 1,
        chunk_at: None,
        body: "a".into(),
    });
    assert_eq!(sent.await.unwrap_err().status(), Some(status));
    assert!(is_open(&elsewhere), "where uploads go");
    assert_eq!(elsewhere.traffic().pauses, 0);

    let (own, _) = registry(move |_, _| respond(status, &[("retry-after", "60")], "")).await;
    let base = own.shared.endpoint.base.clone();
    assert_eq!(get(&own, base).await, Some(status));
    assert!(!is_open(&own));
    assert_eq!(own.traffic().pauses, 1);
}

/// Each attempt takes 40 s, and the waits take more time: no attempt starts after 100 s.
#[tokio::test(start_paused = true)]
async fn the_time_of_the_attempts_counts() {
    let policy = RetryPolicy {
        total: Duration::from_secs(100),
        ..RetryPolicy::default()
    };
    let mut attempts = 0;
    let started = Instant::now();
    let error = retrying(&policy, || {
        attempts += 1;
        async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            Err::<(), _>(RegistryError::Timeout {
                subject: Subject {
                    operation: Operation::ReadManifest,
                    object: String::new(),
                },
                after: Duration::from_secs(40),
            })
        }
    })
    .await
    .unwrap_err();
    assert!(error.retry().is_transient());
    assert_eq!(attempts, 3);
    assert!(started.elapsed() < policy.total + Duration::from_secs(40));
}

/// A session is opened immediately or never; only requests with much work at the registry have a longer timeout.
#[rstest::rstest]
#[case(Operation::StartUpload, 1)]
#[case(Operation::ReadManifest, 1)]
#[case(Operation::WriteManifest, 5)]
#[tokio::test]
async fn patience(#[case] operation: Operation, #[case] hundredths: u64) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let timeouts = crate::Timeouts {
        first_byte: Duration::from_mins(1),
        list: Duration::from_mins(1),
        idle: Duration::from_millis(10),
        commit: Duration::from_millis(50),
        ..crate::Timeouts::default()
    };
    let options = RegistryOptions {
        insecure_hosts: BTreeSet::from([host.clone()]),
        timeouts,
        ..RegistryOptions::default()
    };
    let registry = Registries::new(options).unwrap().get(&host).unwrap();
    let subject = Subject {
        operation,
        object: String::new(),
    };
    let (scopes, url) = (Scopes::default(), registry.shared.endpoint.base.clone());
    let call = RegistryRequest::new(&subject, Method::POST, url, &scopes, Pool::Small);
    let RegistryError::Timeout { after, .. } = registry.attempt(&call).await.unwrap_err() else {
        panic!("nobody answers there");
    };
    assert_eq!(after, Duration::from_millis(10 * hundredths));
}

/// Uploads are limited, and nothing else: neither a lookup nor a probe waits.
#[rstest::rstest]
#[case(429)]
#[case(503)]
#[tokio::test]
async fn a_pause_of_writes_holds_up_no_reads(#[case] status: u16) {
    let (registry, log) = registry(move |parts, _| match parts.method {
        Method::GET | Method::HEAD => respond(404, &[], ""),
        _ => respond(status, &[("retry-after", "60")], ""),
    })
    .await;
    let repository = registry.repository("a", Access::Push).unwrap();
    let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let subject = repository.subject(Operation::StartUpload, "");
    let url = repository.url("blobs/uploads/");
    let call = RegistryRequest::new(&subject, Method::POST, url, &repository.scopes, Pool::Small);
    let refused = registry.attempt(&call).await.unwrap_err();
    assert_eq!(refused.status(), Some(status));
    assert!(!is_open(&registry) && !registry.is_paused());
    let reads = async {
        assert!(!repository.has_manifest(&digest).await.unwrap());
        assert!(!repository.has_blob(&digest).await.unwrap());
        registry.ping().await.unwrap_err();
    };
    let reads = tokio::time::timeout(Duration::from_secs(30), reads).await;
    reads.unwrap();
    assert_eq!((log.count("POST"), registry.traffic().pauses), (1, 1));
}

/// A probe stops waiting while the request is retried; the cause is known all the same, until the registry recovers.
#[tokio::test]
async fn the_failure_that_is_retried_is_known() {
    let is_healthy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let healthy = std::sync::Arc::clone(&is_healthy);
    let (registry, _) = registry(move |_, _| {
        if healthy.load(std::sync::atomic::Ordering::Relaxed) {
            respond(200, &[], "{}")
        } else {
            respond(500, &[], "")
        }
    })
    .await;
    let last = |operation| registry.last_failure(operation, Duration::from_mins(1));
    registry.ping().await.unwrap_err();
    let failure = last(Operation::Ping).unwrap();
    assert!(failure.detail.contains("500"), "{failure:?}");
    assert_eq!(failure.public, "the backup registry returned HTTP 500");
    assert_eq!(last(Operation::ReadManifest), None);
    is_healthy.store(true, std::sync::atomic::Ordering::Relaxed);
    registry.ping().await.unwrap();
    assert_eq!(last(Operation::Ping), None);
}
