//! Cases 21 to 26: digests that are missing, wrong or not kept, and bodies that break off.

use crate::support::{
    anchor_of, arrived, copy_app, nothing_tagged, pair_with, registries, source, target,
};
use axum::http::Method;
use bytes::Bytes;
use mirror_copy::{CopyError, CopyOptions, RegistryError, Retry, TagOrDigest, copy};
use testkit::scripted::{Action, Fake, digest_of, image, index, noise};

const LAYER: usize = 3_000_000;
/// Where bodies are cut: more than what counts as progress, less than half of the layer.
const CUT: usize = 1_200_000;

fn layer() -> Bytes {
    noise(7, LAYER)
}

/// A source with `app:1`, which has one large layer, an empty target, and the layer's path.
async fn pair() -> (Fake, Fake, String) {
    let (from, to) = pair_with(&[image(1, &[layer()])]).await;
    (from, to, format!("/blobs/{}", digest_of(&layer())))
}

fn whole(to: &Fake) -> bool {
    arrived(to, &[image(1, &[layer()])])
}

#[tokio::test]
async fn case_21_a_head_without_a_digest_is_hashed() {
    let app = image(1, &[noise(1, 10)]);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    for fake in [&from, &to] {
        for method in [Method::HEAD, Method::GET, Method::PUT] {
            let action = Action::Without("docker-content-digest");
            fake.fault(method, "", usize::MAX, action);
        }
    }
    let registries = registries(&[&from, &to]);
    let report = copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(report.digest, app.digest());
    assert!(arrived(&to, &[app]));
    let again = copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(again.manifests, 0);
}

#[rstest::rstest]
#[case::no_head(Action::Status(405, vec![], ""), true)]
#[case::no_digest(Action::Without("docker-content-digest"), true)]
#[case::really_missing(Action::Status(404, vec![], ""), false)]
#[tokio::test]
async fn case_21_what_head_does_not_say_is_read_by_get(#[case] head: Action, #[case] found: bool) {
    let app = image(1, &[noise(1, 10)]);
    let (from, _) = pair_with(std::slice::from_ref(&app)).await;
    from.fault(Method::HEAD, "/manifests/", usize::MAX, head);
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    let resolved = registry.resolve("app", &TagOrDigest::parse("1")).await;
    let digest = resolved.unwrap().map(|resolved| resolved.digest);
    assert_eq!(digest, found.then(|| app.digest()));
}

#[tokio::test]
async fn case_22_a_wrong_digest_of_a_tag_is_corrected_by_our_own() {
    let app = image(1, &[noise(1, 10)]);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let wrong = digest_of(b"wrong").to_string();
    for method in [Method::HEAD, Method::GET] {
        let lie = Action::With("docker-content-digest", wrong.clone());
        from.fault(method, "/manifests/1", usize::MAX, lie);
    }
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert_eq!(report.digest, app.digest());
    assert!(to.tag("copy", &anchor_of(&app.digest())).is_some());
    assert!(arrived(&to, &[app]));
}

#[tokio::test]
async fn case_22_content_that_is_not_its_digest_is_refused() {
    let app = image(1, &[noise(1, 10)]);
    let (from, _) = pair_with(std::slice::from_ref(&app)).await;
    let corrupt = Action::Corrupt;
    from.fault(Method::GET, "/manifests/sha256", usize::MAX, corrupt);
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    let reference = TagOrDigest::Digest(app.digest());
    let error = registry.manifest("app", &reference).await.unwrap_err();
    assert!(error.to_string().contains("has the digest"), "{error}");
}

#[tokio::test]
async fn case_22_a_target_that_stored_something_else_is_caught() {
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
async fn case_23_a_corrupt_blob_is_never_committed_even_where_nobody_checks() {
    let (from, to, path) = pair().await;
    to.set(|knobs| knobs.verify = false);
    from.fault(Method::GET, &path, usize::MAX, Action::Corrupt);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(matches!(error, CopyError::BlobDigest { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Permanent);
    assert_eq!(from.count(&Method::GET, &path), 2, "one more chance");
    assert!(nothing_tagged(&to) && to.state().manifests.is_empty());
    assert_eq!(to.blob("copy", &digest_of(&layer())), None);
    assert_eq!(to.state().sessions.len(), 0, "sessions are cancelled");
}

#[tokio::test]
async fn case_23_a_blob_that_was_corrupt_once_is_read_again() {
    let (from, to, path) = pair().await;
    from.fault(Method::GET, &path, 1, Action::Corrupt);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(whole(&to));
}

#[tokio::test]
async fn case_23_a_session_that_cannot_be_cancelled_does_not_matter() {
    let (from, to, path) = pair().await;
    from.fault(Method::GET, &path, 1, Action::Corrupt);
    let no_cancel = Action::Status(405, vec![], "");
    to.fault(Method::DELETE, "/uploads/", usize::MAX, no_cancel);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(whole(&to));
}

#[tokio::test]
async fn case_24_a_broken_body_is_resumed_where_it_broke() {
    let (from, to, path) = pair().await;
    from.fault(Method::GET, &path, 2, Action::Cut(CUT));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(whole(&to));
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
async fn case_24_a_registry_without_ranges_is_read_past_what_is_known() {
    let (from, to, path) = pair().await;
    from.set(|knobs| knobs.ranges = false);
    from.fault(Method::GET, &path, 2, Action::Cut(CUT));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(whole(&to));
}

#[tokio::test]
async fn case_24_a_wrong_range_is_not_believed() {
    let (from, to, path) = pair().await;
    from.fault(Method::GET, &path, 1, Action::Cut(CUT));
    let wrong = Action::With("content-range", "bytes 5-9/10".into());
    from.fault(Method::GET, &path, 1, wrong);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("wrong range"), "{error}");
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn case_24_a_body_that_never_gets_anywhere_is_given_up() {
    let (from, to, path) = pair().await;
    from.fault(Method::GET, &path, usize::MAX, Action::Cut(1000));
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.retry().is_transient(), "{error}");
    assert!(from.count(&Method::GET, &path) < 20, "attempts are bounded");
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn case_25_a_body_without_a_length_is_counted_against_the_descriptor() {
    let (from, to, path) = pair().await;
    from.fault(Method::GET, &path, 1, Action::Resize(0));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(whole(&to));
}

#[tokio::test]
async fn case_25_a_body_that_goes_on_is_refused_before_it_is_committed() {
    let (from, to, path) = pair().await;
    to.set(|knobs| knobs.verify = false);
    from.fault(Method::GET, &path, usize::MAX, Action::Resize(20_000_000));
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CopyError::Source(RegistryError::Size { .. })),
        "{error}"
    );
    assert!(nothing_tagged(&to));
    assert_eq!(to.blob("copy", &digest_of(&layer())), None);
}

/// The target says that it has the layer (replication and garbage collection lag behind), and then it has not.
#[tokio::test]
async fn case_26_blobs_that_the_target_lost_are_sent_again_without_asking() {
    let app = image(1, &[noise(1, 100), noise(2, 100)]);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let lost = digest_of(&noise(1, 100));
    let yes = Action::Status(200, vec![], "");
    to.fault(Method::HEAD, lost.as_ref(), usize::MAX, yes);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!(from.count(&Method::GET, lost.as_ref()), 1);
}

#[tokio::test]
async fn case_26_they_are_sent_again_once_only() {
    let app = image(1, &[noise(1, 100)]);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let body = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}"#;
    let refusal = Action::Status(404, vec![], body);
    to.fault(Method::PUT, "/manifests/", usize::MAX, refusal);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("MANIFEST_BLOB_UNKNOWN"),
        "{error}"
    );
    assert!(to.count(&Method::PUT, "/manifests/") <= 2 * 8, "bounded");
    assert_eq!(
        from.count(&Method::GET, digest_of(&noise(1, 100)).as_ref()),
        2
    );
    assert!(nothing_tagged(&to));
}

/// The same for manifests: a child was seen, and when its index is pushed it is gone. What is below it may be an image,
/// or an index with an image of its own.
#[rstest::rstest]
#[case::as_the_specification_has_it(404, "MANIFEST_UNKNOWN", 1)]
#[case::with_another_status(400, "MANIFEST_UNKNOWN", 1)]
#[case::as_distribution_says_it(400, "MANIFEST_BLOB_UNKNOWN", 1)]
#[case::with_an_image_of_its_own(404, "MANIFEST_UNKNOWN", 2)]
#[tokio::test]
async fn case_26_children_that_the_target_lost_are_pushed_again(
    #[case] status: u16,
    #[case] code: &str,
    #[case] indexes: usize,
) {
    let mut images = vec![image(1, &[noise(1, 100)])];
    for _ in 0..indexes {
        let outer = index(&[images.last().unwrap()]);
        images.push(outer);
    }
    let lost = images[indexes - 1].digest().to_string();
    let (from, to) = pair_with(&images).await;
    // An older image has the tag, so the engine looks what of the new one is there.
    to.put_tagged("copy", "1", &image(2, &[noise(2, 100)]));
    let seen = vec![("docker-content-digest", lost.clone())];
    let stale = Action::Status(200, seen, "");
    to.fault(Method::HEAD, &lost, usize::MAX, stale);
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"not here"}}]}}"#);
    let refusal = Action::Status(status, vec![], body.leak());
    to.fault(Method::PUT, "/manifests/", 1, refusal);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &images));
    assert!(to.count(&Method::HEAD, &lost) > 0);
    let pushed = to.asked(&Method::PUT, "/manifests/");
    assert_eq!(pushed[0].status, status, "the index came first");
    assert!(!pushed[0].path.ends_with(&lost));
}

#[tokio::test]
async fn case_26_a_distrustful_copy_heals_a_damaged_target() {
    let app = image(1, &[noise(1, 100), noise(2, 100)]);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let registries = registries(&[&from, &to]);
    copy_app(&registries, &from, &to).await.unwrap();
    to.lose_blob("copy", &digest_of(&noise(2, 100)));
    let options = CopyOptions {
        trust_present: false,
        ..CopyOptions::default()
    };
    let source = source(&registries, &from, "app", "1");
    let target = target(&registries, &to, "copy", "1");
    let report = copy(&source, &target, &options, &()).await.unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!((report.blobs_copied, report.blobs_skipped), (1, 2));
}
