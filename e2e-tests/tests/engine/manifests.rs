//! Manifests of all formats, and those that are refused.

use crate::support::{copy_app, registries};
use axum::http::Method;
use bytes::Bytes;
use e2e_tests::scripted::{Action, Fake, Image, blob, descriptor, digest_of, image, index, noise};
use mirror_copy::{CopyError, Retry, TagOrDigest};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Copies one image with everything it names directly; answers with the target.
async fn copied(images: &[Image]) -> (Fake, Result<mirror_copy::CopyReport, CopyError>) {
    let (from, to) = (Fake::start().await, Fake::start().await);
    for image in images {
        from.put("app", image);
    }
    from.put_tagged("app", "1", images.last().unwrap());
    let result = copy_app(&registries(&[&from, &to]), &from, &to).await;
    (to, result)
}

fn raw(media_type: &str, manifest: String, blobs: Vec<Bytes>) -> Image {
    Image {
        media_type: media_type.into(),
        manifest: manifest.into(),
        blobs,
    }
}

#[tokio::test]
async fn docker_schema_2_and_its_list() {
    let (config, layer) = (blob("{}"), noise(1, 100));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{},"layers":[{}]}}"#,
        descriptor("application/vnd.docker.container.image.v1+json", &config),
        descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer),
    );
    let child = raw(DOCKER_MANIFEST, manifest, vec![config, layer]);
    let list = format!(
        r#"{{"mediaType":"{DOCKER_LIST}","manifests":[{}]}}"#,
        child.descriptor()
    );
    let list = raw(DOCKER_LIST, list, vec![]);
    let (to, result) = copied(&[child.clone(), list.clone()]).await;
    result.unwrap();
    assert!(to.has("copy", &child) && to.has("copy", &list));
}

#[tokio::test]
async fn artifacts_with_a_subject_with_blobs_and_unknown_ones() {
    let content = noise(1, 50);
    let of = descriptor("application/vnd.example", &content);
    let gone = descriptor("application/vnd.oci.image.manifest.v1+json", b"elsewhere");
    let with_subject = raw(
        "application/vnd.oci.image.manifest.v1+json",
        format!(r#"{{"artifactType":"a/b","config":{of},"layers":[],"subject":{gone}}}"#),
        vec![content.clone()],
    );
    let old = raw(
        "application/vnd.oci.artifact.manifest.v1+json",
        format!(r#"{{"blobs":[{of}]}}"#),
        vec![content],
    );
    let opaque = raw(
        "application/vnd.example.thing",
        r#"{"schemaVersion":2,"says":"what nobody here knows"}"#.into(),
        vec![],
    );
    for image in [with_subject, old, opaque] {
        let (to, result) = copied(std::slice::from_ref(&image)).await;
        result.unwrap();
        assert!(to.has("copy", &image));
    }
}

#[tokio::test]
async fn a_blob_in_an_index_is_copied_as_a_blob() {
    let cache = noise(1, 500);
    let child = image(1, &[noise(2, 10)]);
    let manifest = format!(
        r#"{{"manifests":[{},{}]}}"#,
        child.descriptor(),
        descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &cache),
    );
    let list = raw(
        "application/vnd.oci.image.index.v1+json",
        manifest,
        vec![cache],
    );
    let (to, result) = copied(&[child.clone(), list.clone()]).await;
    result.unwrap();
    assert!(to.has("copy", &child) && to.has("copy", &list));
}

#[tokio::test]
async fn sha512_is_verified_with_its_own_algorithm() {
    let layer = blob("hello");
    let sha512 = "sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043";
    let manifest = format!(r#"{{"layers":[{{"mediaType":"x","digest":"{sha512}","size":5}}]}}"#);
    let app = raw(
        "application/vnd.oci.image.manifest.v1+json",
        manifest,
        vec![],
    );
    for (content, good) in [(layer.clone(), true), (blob("jello"), false)] {
        let (from, to) = (Fake::start().await, Fake::start().await);
        from.put_tagged("app", "1", &app);
        from.state()
            .blobs
            .insert(("app".into(), sha512.into()), content);
        let result = copy_app(&registries(&[&from, &to]), &from, &to).await;
        assert_eq!(result.is_ok(), good, "{result:?}");
        let key = ("copy".to_owned(), sha512.to_owned());
        assert_eq!(to.state().blobs.contains_key(&key), good);
    }
}

#[tokio::test]
async fn schema_1_is_refused_with_its_reason() {
    let body = r#"{"schemaVersion":1,"fsLayers":[],"signatures":[]}"#;
    let by_type = raw(
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        body.into(),
        vec![],
    );
    let by_body = raw("application/json", body.into(), vec![]);
    for image in [by_type, by_body] {
        let (to, result) = copied(&[image]).await;
        let error = result.unwrap_err();
        assert!(error.to_string().contains("schema 1"), "{error}");
        assert_eq!(error.retry(), Retry::Permanent);
        assert_eq!(to.tags(), 0);
    }
}

#[tokio::test]
async fn a_type_that_the_body_denies_is_refused() {
    let mut image = image(1, &[noise(1, 10)]);
    image.media_type = "application/vnd.oci.image.index.v1+json".into();
    let (to, result) = copied(&[image]).await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains("ambiguous"), "{error}");
    assert_eq!(to.tags(), 0);
}

#[tokio::test]
async fn manifests_are_bounded_in_size_and_depth() {
    let huge = raw(
        "application/vnd.example",
        "x".repeat(8 * 1024 * 1024 + 1),
        vec![],
    );
    let error = copied(&[huge]).await.1.unwrap_err();
    assert!(
        error.to_string().contains("larger than the limit"),
        "{error}"
    );

    let mut nested = vec![image(1, &[noise(1, 10)])];
    for _ in 0..9 {
        let outer = index(&[nested.last().unwrap()]);
        nested.push(outer);
    }
    let error = copied(&nested).await.1.unwrap_err();
    assert!(matches!(error, CopyError::Limit { .. }), "{error}");
    copied(&nested[..8]).await.1.unwrap();
}

#[tokio::test]
async fn an_incomplete_index_is_named() {
    let (there, missing) = (image(1, &[noise(1, 10)]), image(2, &[noise(2, 10)]));
    let list = index(&[&there, &missing]);
    let (to, result) = copied(&[there, list]).await;
    let error = result.unwrap_err();
    assert!(error.is_source_missing());
    assert!(
        error.to_string().contains(missing.digest().as_ref()),
        "{error}"
    );
    assert_eq!(to.tags(), 0);
}

#[tokio::test]
async fn a_descriptor_with_a_wrong_size_is_refused() {
    let child = image(1, &[noise(1, 10)]);
    let wrong = child.descriptor().replace("\"size\":", "\"size\":1");
    let manifest = format!(r#"{{"manifests":[{wrong}]}}"#);
    let list = raw("application/vnd.oci.image.index.v1+json", manifest, vec![]);
    let error = copied(&[child, list]).await.1.unwrap_err();
    assert!(error.to_string().contains("descriptor says"), "{error}");
}

#[tokio::test]
async fn a_registry_that_names_no_digest_is_hashed() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let app = image(1, &[noise(1, 10)]);
    from.put_tagged("app", "1", &app);
    for fake in [&from, &to] {
        for method in [Method::HEAD, Method::GET, Method::PUT] {
            let action = Action::Without("docker-content-digest");
            fake.fault(method, "", usize::MAX, action);
        }
    }
    let registries = registries(&[&from, &to]);
    let report = copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(report.digest, app.digest());
    assert!(to.has("copy", &app));
    let again = copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(again.manifests, 0);
}

#[tokio::test]
async fn a_registry_that_names_a_wrong_digest_is_corrected() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let app = image(1, &[noise(1, 10)]);
    from.put_tagged("app", "1", &app);
    let wrong = digest_of(b"wrong").to_string();
    for method in [Method::HEAD, Method::GET] {
        let lie = Action::With("docker-content-digest", wrong.clone());
        from.fault(method, "/manifests/1", usize::MAX, lie);
    }
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert_eq!(report.digest, app.digest());
    assert!(to.has("copy", &app));
    assert!(
        to.tag("copy", &crate::support::anchor_of(&app.digest()))
            .is_some()
    );
}

#[tokio::test]
async fn a_manifest_that_is_not_its_digest_is_refused() {
    let (from, _to) = (Fake::start().await, ());
    let app = image(1, &[noise(1, 10)]);
    from.put_tagged("app", "1", &app);
    from.fault(
        Method::GET,
        "/manifests/sha256",
        usize::MAX,
        Action::Corrupt,
    );
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    let reference = TagOrDigest::Digest(app.digest());
    let error = registry.manifest("app", &reference).await.unwrap_err();
    assert!(error.to_string().contains("has the digest"), "{error}");
    assert!(
        registry
            .resolve("app", &TagOrDigest::parse("none"))
            .await
            .unwrap()
            .is_none()
    );
}

#[rstest::rstest]
#[case("../evil", "1")]
#[case("a?x=y", "1")]
#[case("a", "1/../../b")]
#[case("a", "1?x")]
#[tokio::test]
async fn names_cannot_leave_their_place_in_an_address(
    #[case] repository: &str,
    #[case] reference: &str,
) {
    let from = Fake::start().await;
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    let error = registry
        .resolve(repository, &TagOrDigest::parse(reference))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not a valid"), "{error}");
    assert_eq!(from.log().len(), 0);
}
