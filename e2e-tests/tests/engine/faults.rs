//! Registries and networks that fail, lie or stall.

use crate::support::{copy_app, options, registries};
use axum::http::Method;
use bytes::Bytes;
use e2e_tests::scripted::{Action, Fake, LocationStyle, digest_of, image, noise};
use mirror_copy::{CopyError, Registries, RegistryError, Retry, TagOrDigest, Timeouts};
use std::time::Duration;

const LAYER: usize = 3_000_000;

fn layer() -> Bytes {
    noise(7, LAYER)
}

/// A source with `app:1`, which has one large layer, and an empty target.
async fn pair() -> (Fake, Fake, String) {
    let (from, to) = (Fake::start().await, Fake::start().await);
    from.put_tagged("app", "1", &image(1, &[layer()]));
    let layer = format!("/blobs/{}", digest_of(&layer()));
    (from, to, layer)
}

fn arrived(to: &Fake) -> bool {
    to.has("copy", &image(1, &[layer()])) && to.tag("copy", "1").is_some()
}

fn nothing_tagged(to: &Fake) -> bool {
    to.tags() == 0 && to.state().manifests.is_empty()
}

#[tokio::test]
async fn a_corrupt_blob_is_never_committed_even_where_nobody_checks() {
    let (from, to, layer) = pair().await;
    to.set(|knobs| knobs.verify = false);
    from.fault(Method::GET, &layer, usize::MAX, Action::Corrupt);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(matches!(error, CopyError::BlobDigest { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Permanent);
    assert_eq!(from.count(&Method::GET, &layer), 2, "one more chance");
    assert!(nothing_tagged(&to));
    let key = ("copy".to_owned(), digest_of(&self::layer()).to_string());
    assert!(!to.state().blobs.contains_key(&key));
    assert_eq!(to.state().sessions.len(), 0, "sessions are cancelled");
}

#[tokio::test]
async fn a_blob_that_was_corrupt_once_is_read_again() {
    let (from, to, layer) = pair().await;
    from.fault(Method::GET, &layer, 1, Action::Corrupt);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to));
}

#[tokio::test]
async fn a_broken_body_is_resumed_where_it_broke() {
    let (from, to, layer) = pair().await;
    from.fault(Method::GET, &layer, 2, Action::Cut(1_200_000));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to));
    let log = from.log();
    let ranges: Vec<_> = log
        .iter()
        .filter_map(|entry| entry.range.as_deref())
        .collect();
    assert_eq!(ranges, ["bytes=1200000-", "bytes=2400000-"]);
    assert_eq!(
        to.count(&Method::PUT, "/blobs/"),
        2,
        "config and layer, once each"
    );
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_past_what_is_known() {
    let (from, to, layer) = pair().await;
    from.set(|knobs| knobs.ranges = false);
    from.fault(Method::GET, &layer, 2, Action::Cut(1_200_000));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to));
}

#[tokio::test]
async fn a_wrong_range_is_not_believed() {
    let (from, to, layer) = pair().await;
    from.fault(Method::GET, &layer, 1, Action::Cut(1_200_000));
    let wrong = Action::With("content-range", "bytes 5-9/10".into());
    from.fault(Method::GET, &layer, 1, wrong);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("wrong range"), "{error}");
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn a_body_that_never_gets_anywhere_is_given_up() {
    let (from, to, layer) = pair().await;
    from.fault(Method::GET, &layer, usize::MAX, Action::Cut(1000));
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.retry().is_transient(), "{error}");
    assert_eq!(from.count(&Method::GET, &layer), 6);
    assert!(nothing_tagged(&to));
}

#[rstest::rstest]
#[case::too_long(7)]
#[case::too_short(-7)]
#[tokio::test]
async fn a_blob_of_another_size_is_refused(#[case] by: isize) {
    let (from, to, layer) = pair().await;
    to.set(|knobs| knobs.verify = false);
    from.fault(Method::GET, &layer, usize::MAX, Action::Resize(by));
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(matches!(error, CopyError::Source(_)), "{error}");
    assert!(nothing_tagged(&to));
    let key = ("copy".to_owned(), digest_of(&self::layer()).to_string());
    assert!(!to.state().blobs.contains_key(&key));
}

#[tokio::test]
async fn a_wrong_content_length_is_refused_at_once() {
    let (from, to, layer) = pair().await;
    let key = ("app".to_owned(), digest_of(&self::layer()).to_string());
    from.state().blobs.insert(key, noise(9, 1234));
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    let CopyError::Source(RegistryError::Size {
        expected, actual, ..
    }) = error
    else {
        panic!("{error}");
    };
    assert_eq!((expected, actual), (LAYER as u64, 1234));
    assert_eq!(from.count(&Method::GET, &layer), 1);
}

#[tokio::test]
async fn a_missing_blob_leaves_nothing_tagged() {
    let (from, to, _) = pair().await;
    let key = ("app".to_owned(), digest_of(&layer()).to_string());
    from.state().blobs.remove(&key);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent);
    assert!(error.to_string().contains("BLOB_UNKNOWN"), "{error}");
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn a_missing_image_is_told_apart_from_an_unreachable_registry() {
    let (from, to, _) = pair().await;
    from.state().tags.clear();
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.is_source_missing(), "{error}");
    assert!(error.to_string().contains("/app:1"), "{error}");
}

#[rstest::rstest]
#[case(Method::HEAD, "/manifests/1")]
#[case(Method::GET, "/manifests/")]
#[case(Method::GET, "/blobs/")]
#[tokio::test]
async fn passing_errors_of_the_source_pass(#[case] method: Method, #[case] part: &str) {
    let (from, to, _) = pair().await;
    for status in [500, 503] {
        from.fault(
            method.clone(),
            part,
            1,
            Action::Status(status, vec![], "busy"),
        );
    }
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to));
}

#[rstest::rstest]
#[case(Method::HEAD, "/blobs/", 502)]
#[case(Method::POST, "/uploads/", 503)]
#[case(Method::PUT, "/blobs/", 500)]
#[case::session_lost(Method::PUT, "/blobs/", 404)]
#[case(Method::PUT, "/manifests/", 504)]
#[tokio::test]
async fn passing_errors_of_the_target_pass(
    #[case] method: Method,
    #[case] part: &str,
    #[case] status: u16,
) {
    let (from, to, _) = pair().await;
    to.fault(method, part, 2, Action::Status(status, vec![], "busy"));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to));
}

#[tokio::test]
async fn attempts_are_bounded_and_final_errors_are_not_repeated() {
    let (from, to, _) = pair().await;
    let registries = registries(&[&from, &to]);
    let registry = registries.get(&from.host()).unwrap();
    from.fault(
        Method::HEAD,
        "/manifests/",
        5,
        Action::Status(503, vec![], ""),
    );
    let tag = TagOrDigest::parse("1");
    let error = registry.resolve("app", &tag).await.unwrap_err();
    assert!(error.retry().is_transient());
    assert_eq!(from.log().len(), 5);

    from.fault(
        Method::HEAD,
        "/manifests/",
        usize::MAX,
        Action::Status(
            403,
            vec![],
            r#"{"errors":[{"code":"DENIED","message":"no\u0007pe"}]}"#,
        ),
    );
    // A HEAD has no body; the code is seen on GET.
    assert_eq!(
        registry.resolve("app", &tag).await.unwrap_err().status(),
        Some(403)
    );
    assert_eq!(from.log().len(), 6);
}

#[tokio::test]
async fn the_registrys_own_words_are_shown_cleaned() {
    let (from, to, _) = pair().await;
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"no\u0007 quota\nleft"}]}"#;
    to.fault(
        Method::PUT,
        "/manifests/",
        usize::MAX,
        Action::Status(413, vec![], body),
    );
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("413"), "{text}");
    assert!(text.contains("TOOMANYREQUESTS: no  quota left"), "{text}");
    assert_eq!(error.retry(), Retry::Permanent);
}

#[tokio::test]
async fn too_many_requests_pauses_the_whole_host_as_long_as_it_asks() {
    let (from, to, _) = pair().await;
    let registries = registries(&[&from, &to]);
    let registry = registries.get(&from.host()).unwrap();
    let wait = vec![("retry-after", "1".to_owned())];
    from.fault(
        Method::HEAD,
        "/manifests/1",
        1,
        Action::Status(429, wait, ""),
    );
    let (one, other) = (TagOrDigest::parse("1"), TagOrDigest::parse("2"));
    registry.resolve("app", &one).await.unwrap();
    registry.resolve("app", &other).await.unwrap();
    let log = from.log();
    assert_eq!(log[0].status, 429);
    assert!(log[1].at - log[0].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_pause_concerns_requests_that_were_never_refused() {
    let (from, _to, _) = pair().await;
    let mut options = options(&[&from]);
    options.retry.attempts = 1;
    let registry = Registries::new(options).unwrap().get(&from.host()).unwrap();
    let wait = vec![("retry-after", "1".to_owned())];
    from.fault(
        Method::HEAD,
        "/manifests/1",
        1,
        Action::Status(429, wait, ""),
    );
    let error = registry
        .resolve("app", &TagOrDigest::parse("1"))
        .await
        .unwrap_err();
    assert_eq!(
        error.retry(),
        Retry::Transient {
            after: Some(Duration::from_secs(1))
        }
    );
    registry.ping().await.unwrap();
    let log = from.log();
    assert!(log[1].at - log[0].at >= Duration::from_secs(1));
}

#[rstest::rstest]
#[case(LocationStyle::Absolute)]
#[case(LocationStyle::WithQuery)]
#[tokio::test]
async fn upload_locations_of_all_shapes_work(#[case] style: LocationStyle) {
    let (from, to, _) = pair().await;
    to.set(|knobs| knobs.location = style);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to));
}

#[tokio::test]
async fn a_missing_upload_location_is_an_error() {
    let (from, to, _) = pair().await;
    to.fault(Method::POST, "", usize::MAX, Action::Without("location"));
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no upload location"), "{error}");
}

#[tokio::test]
async fn an_early_refusal_is_heard_while_sending() {
    let (from, to, _) = pair().await;
    to.fault(Method::PUT, "/blobs/", usize::MAX, Action::Early(403));
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    // Closing while we still send may be seen as a reset; that is retried, and never a success.
    assert!(matches!(error, CopyError::Target(_)), "{error}");
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn another_digest_in_the_answer_is_an_error() {
    let (from, to, _) = pair().await;
    let other = digest_of(b"other").to_string();
    let lie = Action::With("docker-content-digest", other);
    to.fault(Method::PUT, "/manifests/", usize::MAX, lie);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CopyError::Target(RegistryError::Digest { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_stalled_source_is_given_up() {
    let (from, to, layer) = pair().await;
    from.fault(Method::GET, &layer, usize::MAX, Action::Hang);
    let mut options = options(&[&from, &to]);
    options.timeouts = Timeouts {
        idle: Duration::from_millis(50),
        ..Timeouts::default()
    };
    options.retry.attempts = 2;
    let registries = Registries::new(options).unwrap();
    let error = copy_app(&registries, &from, &to).await.unwrap_err();
    assert!(
        matches!(error, CopyError::Source(RegistryError::Timeout { .. })),
        "{error}"
    );
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn a_target_that_never_answers_the_upload_is_given_up() {
    let (from, to, _) = pair().await;
    to.fault(Method::PUT, "/blobs/", usize::MAX, Action::Hang);
    let mut options = options(&[&from, &to]);
    let short = Duration::from_millis(100);
    options.timeouts = Timeouts {
        idle: short,
        commit: short,
        ..Timeouts::default()
    };
    options.retry.attempts = 2;
    let registries = Registries::new(options).unwrap();
    let error = copy_app(&registries, &from, &to).await.unwrap_err();
    assert!(
        matches!(error, CopyError::Target(RegistryError::Timeout { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn an_unreachable_registry_is_a_passing_trouble() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = Fake::unserved(listener.local_addr().unwrap());
    drop(listener);
    let registries = registries(&[&gone]);
    let registry = registries.get(&gone.host()).unwrap();
    let error = registry.ping().await.unwrap_err();
    assert!(error.retry().is_transient());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_dropped_copy_stops_and_leaves_no_tag() {
    let (from, to, layer) = pair().await;
    from.fault(Method::GET, &layer, usize::MAX, Action::Hang);
    let registries = registries(&[&from, &to]);
    let copying = tokio::spawn({
        let (from, to) = (from.clone(), to.clone());
        async move { copy_app(&registries, &from, &to).await }
    });
    while from.count(&Method::GET, &layer) == 0 {
        tokio::task::yield_now().await;
    }
    copying.abort();
    assert!(copying.await.unwrap_err().is_cancelled());
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn a_blob_is_read_as_a_verified_stream() {
    let (from, _to, _) = pair().await;
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    let mut reader = registry
        .blob("app", &digest_of(&layer()), LAYER as u64)
        .await
        .unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes, layer());
}
