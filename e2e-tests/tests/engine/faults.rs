//! Registries and networks that fail, lie or stall.

use crate::support::{copy_app, registries};
use axum::http::Method;
use bytes::Bytes;
use mirror_copy::{CopyError, Retry, TagOrDigest};
use testkit::scripted::{Action, Fake, digest_of, image, noise};

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
    assert!(matches!(error, CopyError::SourceMissing { .. }), "{error}");
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
