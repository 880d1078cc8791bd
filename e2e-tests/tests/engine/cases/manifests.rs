//! Cases 1 to 20: manifests of all formats, and those that are refused.

use crate::support::{
    anchor_of, arrived, copied, copy_app, copy_app_with, nothing_tagged, pair_with, raw,
    registries, source, target,
};
use axum::http::{Method, header};
use bytes::Bytes;
use mirror_copy::{CopyError, CopyOptions, Event, Progress, RegistryError, Retry, copy};
use testkit::digest;
use testkit::scripted::{
    Action, Fake, Image, OCI_INDEX, OCI_MANIFEST, blob, descriptor, digest_of, image, index, noise,
    referrer,
};

const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn case_01_schema_1_is_refused_with_its_reason() {
    let body = r#"{"schemaVersion":1,"fsLayers":[],"signatures":[]}"#;
    for media_type in [SCHEMA_1, "application/json"] {
        let (to, result) = copied(&[raw(media_type, body, vec![])]).await;
        let error = result.unwrap_err();
        assert!(error.to_string().contains("schema 1"), "{error}");
        assert_eq!(error.retry(), Retry::Permanent);
        assert!(nothing_tagged(&to));
    }
}

/// An image, wrapped in so many indexes.
fn nested(indexes: usize) -> Vec<Image> {
    let mut nested = vec![image(1, &[noise(1, 10)])];
    for _ in 0..indexes {
        let outer = index(&[nested.last().unwrap()]);
        nested.push(outer);
    }
    nested
}

#[tokio::test]
async fn case_02_nested_indexes_are_pushed_from_the_inside_and_bounded_in_depth() {
    let images = nested(7);
    let (to, result) = copied(&images).await;
    result.unwrap();
    assert!(arrived(&to, &images));
    let pushed: Vec<_> = to
        .asked(&Method::PUT, "/manifests/")
        .iter()
        .map(|entry| entry.path.rsplit('/').next().unwrap().to_owned())
        .collect();
    let root = images.last().unwrap().digest();
    let mut expected: Vec<_> = images.iter().map(|i| i.digest().to_string()).collect();
    expected.pop();
    expected.extend([anchor_of(&root), "1".to_owned()]);
    assert_eq!(pushed, expected);

    let (to, result) = copied(&nested(9)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, CopyError::Limit { .. }), "{error}");
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn case_02_what_two_indexes_name_is_read_and_pushed_once() {
    let shared = image(1, &[noise(1, 10)]);
    let (left, right) = (
        index(&[&shared]),
        index(&[&shared, &image(2, &[noise(2, 10)])]),
    );
    let other = image(2, &[noise(2, 10)]);
    let images = [shared.clone(), other, left.clone(), right.clone()];
    let root = index(&[&left, &right, &left]);
    let images: Vec<_> = images.into_iter().chain([root]).collect();
    let (from, to) = pair_with(&images).await;
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &images));
    let name = shared.digest().to_string();
    assert_eq!(from.count(&Method::GET, &format!("/manifests/{name}")), 1);
    assert_eq!(to.count(&Method::PUT, &name), 1);
}

#[tokio::test]
async fn case_03_a_blob_in_an_index_is_copied_as_a_blob() {
    let cache = noise(1, 500);
    let child = image(1, &[noise(2, 10)]);
    for media_type in [
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.buildkit.cacheconfig.v0",
    ] {
        let manifest = format!(
            r#"{{"manifests":[{},{}]}}"#,
            child.descriptor(),
            descriptor(media_type, &cache),
        );
        let list = raw(OCI_INDEX, manifest, vec![cache.clone()]);
        let images = [child.clone(), list];
        let (to, result) = copied(&images).await;
        result.unwrap();
        assert!(arrived(&to, &images), "{media_type}");
    }
}

/// An index that names an image which is nowhere.
fn sparse() -> (Vec<Image>, Image) {
    let (there, missing) = (image(1, &[noise(1, 10)]), image(2, &[noise(2, 10)]));
    let list = index(&[&there, &missing]);
    (vec![there, list], missing)
}

#[tokio::test]
async fn case_04_an_incomplete_index_is_named_and_not_copied() {
    let (images, missing) = sparse();
    let (to, result) = copied(&images).await;
    let error = result.unwrap_err();
    assert!(
        matches!(error, CopyError::SourceIncomplete { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains(missing.digest().as_ref()),
        "{error}"
    );
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn case_04_a_sparse_index_is_copied_by_option_where_the_target_takes_it() {
    let (images, _) = sparse();
    let options = CopyOptions {
        allow_sparse: true,
        ..CopyOptions::default()
    };
    for takes_it in [true, false] {
        let (from, to) = pair_with(&images).await;
        to.set(|knobs| knobs.sparse = takes_it);
        let registries = registries(&[&from, &to]);
        let result = copy_app_with(&registries, &from, &to, &options).await;
        assert_eq!(result.is_ok(), takes_it, "{result:?}");
        assert_eq!(arrived(&to, &images), takes_it);
        assert_eq!(nothing_tagged(&to), !takes_it);
    }
}

/// An index with two platforms and the attestation of the first, as buildkit writes it.
fn attested() -> Vec<Image> {
    let (amd, arm) = (image(1, &[noise(1, 10)]), image(2, &[noise(2, 10)]));
    let attestation = image(3, &[blob(r#"{"_type":"in-toto"}"#)]);
    let entry = |image: &Image, os: &str, architecture: &str| {
        let platform = format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#);
        let descriptor = image.descriptor();
        format!("{}{platform}", descriptor.strip_suffix('}').unwrap())
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{},{},{}]}}"#,
        entry(&amd, "linux", "amd64"),
        entry(&arm, "linux", "arm64"),
        entry(&attestation, "unknown", "unknown"),
    );
    let root = raw(OCI_INDEX, manifest, vec![]);
    vec![amd, arm, attestation, root]
}

#[tokio::test]
async fn case_05_attestations_of_no_platform_come_along() {
    let images = attested();
    let (to, result) = copied(&images).await;
    result.unwrap();
    assert!(arrived(&to, &images));
}

#[tokio::test]
async fn case_05_only_a_platform_that_was_asked_for_is_filtered() {
    let images = attested();
    let (from, to) = pair_with(&images).await;
    let options = CopyOptions {
        platforms: vec!["linux/arm64".parse().unwrap()],
        ..CopyOptions::default()
    };
    let registries = registries(&[&from, &to]);
    let report = copy_app_with(&registries, &from, &to, &options)
        .await
        .unwrap();
    assert!(to.has("copy", &images[1]));
    assert!(!to.has("copy", &images[0]));
    // Who filters gets another image, and must be able to tell.
    assert_ne!(report.digest, images[3].digest());
    assert_eq!(to.tag("copy", "1"), Some(report.digest.to_string()));
}

fn fallback_tag(subject: &Image) -> String {
    subject.digest().to_string().replace(':', "-")
}

/// What a tag's index names.
fn entries(fake: &Fake, repository: &str, tag: &str) -> Vec<String> {
    let Some(digest) = fake.tag(repository, tag) else {
        return Vec::new();
    };
    let (media_type, bytes) = fake.state().manifests[&(repository.to_owned(), digest)].clone();
    assert_eq!(media_type, OCI_INDEX);
    let index: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry["digest"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn case_06_without_a_referrers_api_the_fallback_tag_gets_the_artifact() {
    let subject = image(1, &[noise(1, 10)]);
    let old = referrer(&subject, "example/old", &blob("old"));
    let new = referrer(&subject, "example/new", &blob("new"));
    let (from, to) = pair_with(&[subject.clone(), new.clone()]).await;
    to.set(|knobs| knobs.referrers = false);
    // Somebody else's signature is there already.
    to.put("copy", &old);
    to.put_tagged("copy", &fallback_tag(&subject), &index(&[&old]));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(to.has("copy", &new));
    let mut expected = [old.digest().to_string(), new.digest().to_string()];
    expected.sort();
    let mut entries = entries(&to, "copy", &fallback_tag(&subject));
    entries.sort();
    assert_eq!(entries, expected);
}

#[tokio::test]
async fn case_06_no_artifact_is_lost_when_several_are_copied_at_once() {
    let subject = image(1, &[noise(1, 10)]);
    let artifacts: Vec<_> = (0..6_u8)
        .map(|n| referrer(&subject, "example/sbom", &blob(&format!("sbom {n}"))))
        .collect();
    let (from, to) = (Fake::start().await, Fake::start().await);
    to.set(|knobs| knobs.referrers = false);
    for (n, artifact) in artifacts.iter().enumerate() {
        from.put_tagged("app", &n.to_string(), artifact);
    }
    let registries = registries(&[&from, &to]);
    let copies = (0..artifacts.len()).map(|n| {
        let source = source(&registries, &from, "app", &n.to_string());
        let mut target = target(&registries, &to, "copy", &n.to_string());
        target.anchor = None;
        async move { copy(&source, &target, &CopyOptions::default(), &()).await }
    });
    for result in futures_util::future::join_all(copies).await {
        result.unwrap();
    }
    let entries = entries(&to, "copy", &fallback_tag(&subject));
    assert_eq!(entries.len(), artifacts.len(), "{entries:?}");
}

#[tokio::test]
async fn case_06_the_fallback_tag_of_a_copied_image_keeps_what_is_in_it() {
    let app = image(1, &[noise(1, 10)]);
    let (new, old) = (
        referrer(&app, "example/new", &blob("new")),
        referrer(&app, "example/old", &blob("old")),
    );
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    from.put("app", &new);
    to.set(|knobs| knobs.referrers = false);
    to.put("copy", &old);
    to.put_tagged("copy", &fallback_tag(&app), &index(&[&old]));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(to.has("copy", &new));
    let entries = entries(&to, "copy", &fallback_tag(&app));
    let [old, new] = [old, new].map(|image| image.digest().to_string());
    assert!(
        entries.contains(&old) && entries.contains(&new),
        "{entries:?}"
    );
}

/// An image with two SBOMs and a signature, and the signature of one SBOM.
fn with_referrers() -> (Image, Vec<Image>) {
    let app = image(1, &[noise(1, 100)]);
    let sbom = referrer(&app, "example/sbom", &blob("sbom"));
    let referrers = vec![
        referrer(&app, "example/sbom", &blob("another sbom")),
        referrer(&app, "example/signature", &blob("signature")),
        referrer(&sbom, "example/signature", &blob("signature of the sbom")),
        sbom,
    ];
    (app, referrers)
}

#[tokio::test]
async fn case_07_referrers_come_along_from_all_pages() {
    let (app, referrers) = with_referrers();
    for page in [usize::MAX, 1] {
        let (from, to) = pair_with(std::slice::from_ref(&app)).await;
        for referrer in &referrers {
            from.put("app", referrer);
        }
        from.set(|knobs| knobs.page = page);
        copy_app(&registries(&[&from, &to]), &from, &to)
            .await
            .unwrap();
        assert!(arrived(&to, std::slice::from_ref(&app)));
        assert!(referrers.iter().all(|referrer| to.has("copy", referrer)));
    }
}

#[tokio::test]
async fn case_07_without_an_api_referrers_are_found_by_the_fallback_tag() {
    let (app, referrers) = with_referrers();
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    for fake in [&from, &to] {
        fake.set(|knobs| knobs.referrers = false);
    }
    let direct: Vec<_> = [0, 1, 3].map(|n| &referrers[n]).into();
    for referrer in &direct {
        from.put("app", referrer);
    }
    from.put_tagged("app", &fallback_tag(&app), &index(&direct));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(direct.iter().all(|referrer| to.has("copy", referrer)));
    assert_eq!(entries(&to, "copy", &fallback_tag(&app)).len(), 3);
}

#[tokio::test]
async fn case_07_digest_tags_of_cosign_come_along() {
    let app = image(1, &[noise(1, 100)]);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let mut seed = 10;
    for suffix in ["sig", "att", "sbom"] {
        seed += 1;
        let artifact = image(seed, &[noise(seed, 30)]);
        from.put_tagged(
            "app",
            &format!("{}.{suffix}", fallback_tag(&app)),
            &artifact,
        );
    }
    let other = image(20, &[noise(20, 30)]);
    from.put_tagged("app", &anchor_of(&app.digest()), &other);
    let options = CopyOptions {
        ignored_digest_tag: Some(anchor_of),
        ..CopyOptions::default()
    };
    copy_app_with(&registries(&[&from, &to]), &from, &to, &options)
        .await
        .unwrap();
    assert!(!to.has("copy", &other), "its tag is ignored");
    for suffix in ["sig", "att", "sbom"] {
        let tag = format!("{}.{suffix}", fallback_tag(&app));
        assert_eq!(to.tag("copy", &tag), from.tag("app", &tag), "{suffix}");
        assert!(to.tag("copy", &tag).is_some());
    }
}

#[tokio::test]
async fn case_07_referrers_can_be_left_out() {
    let (app, referrers) = with_referrers();
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    for referrer in &referrers {
        from.put("app", referrer);
    }
    let options = CopyOptions {
        referrers: false,
        ..CopyOptions::default()
    };
    copy_app_with(&registries(&[&from, &to]), &from, &to, &options)
        .await
        .unwrap();
    assert!(arrived(&to, std::slice::from_ref(&app)));
    assert_eq!(to.state().manifests.len(), 1);
    assert_eq!(from.count(&Method::GET, "/referrers/"), 0);
}

#[tokio::test]
async fn case_07_a_subject_that_is_nowhere_is_legal() {
    let elsewhere = image(9, &[noise(9, 10)]);
    let artifact = referrer(&elsewhere, "example/sbom", &blob("sbom"));
    let (to, result) = copied(std::slice::from_ref(&artifact)).await;
    result.unwrap();
    assert!(arrived(&to, std::slice::from_ref(&artifact)));
}

fn old_artifact() -> Image {
    let content = noise(1, 50);
    let blobs = descriptor("application/vnd.example", &content);
    let manifest = format!(r#"{{"mediaType":"{OCI_ARTIFACT}","blobs":[{blobs}]}}"#);
    raw(OCI_ARTIFACT, manifest, vec![content])
}

#[tokio::test]
async fn case_08_an_old_artifact_manifest_brings_its_blobs() {
    let artifact = old_artifact();
    let (to, result) = copied(std::slice::from_ref(&artifact)).await;
    result.unwrap();
    assert!(arrived(&to, std::slice::from_ref(&artifact)));
}

#[rstest::rstest]
#[case(400, "MANIFEST_INVALID")]
#[case(415, "UNSUPPORTED")]
#[tokio::test]
async fn case_08_a_target_that_does_not_know_the_format_is_quoted(
    #[case] status: u16,
    #[case] code: &'static str,
) {
    let (from, to) = pair_with(&[old_artifact()]).await;
    let body = match code {
        "UNSUPPORTED" => r#"{"errors":[{"code":"UNSUPPORTED","message":"artifact manifests"}]}"#,
        _ => r#"{"errors":[{"code":"MANIFEST_INVALID","message":"artifact manifests"}]}"#,
    };
    let refusal = Action::Status(status, vec![], body);
    to.fault(Method::PUT, "/manifests/", usize::MAX, refusal);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent, "{error}");
    assert!(
        matches!(error, CopyError::Target(RegistryError::Unsupported { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains(code), "{error}");
    assert_eq!(to.count(&Method::PUT, "/manifests/"), 1);
}

#[tokio::test]
async fn case_09_an_unknown_media_type_keeps_its_type_and_its_bytes() {
    let content = noise(1, 50);
    let of = descriptor("application/vnd.example", &content);
    let known = raw(
        "application/vnd.example.thing",
        format!(r#"{{"schemaVersion":2,"layers":[{of}]}}"#),
        vec![content],
    );
    let opaque = raw(
        "application/vnd.example.other",
        r#"{"schemaVersion":2,"says":"what nobody here knows"}"#,
        vec![],
    );
    for image in [known, opaque] {
        let (from, to) = pair_with(std::slice::from_ref(&image)).await;
        copy_app(&registries(&[&from, &to]), &from, &to)
            .await
            .unwrap();
        assert!(arrived(&to, std::slice::from_ref(&image)));
        let asked = from.asked(&Method::GET, "/manifests/");
        let accept = asked[0].headers[header::ACCEPT].to_str().unwrap();
        assert!(accept.ends_with("*/*"), "{accept}");
    }
}

#[tokio::test]
async fn case_10_the_answers_type_counts_where_the_body_has_none() {
    let (config, layer) = (blob("{}"), noise(1, 100));
    let of = |blob: &Bytes| descriptor("application/vnd.docker.container.image.v1+json", blob);
    let child = raw(
        DOCKER_MANIFEST,
        format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
            of(&config),
            of(&layer)
        ),
        vec![config, layer],
    );
    let list = raw(
        DOCKER_LIST,
        format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            child.descriptor()
        ),
        vec![],
    );
    let images = [child, list];
    let (to, result) = copied(&images).await;
    result.unwrap();
    assert!(arrived(&to, &images));
}

#[rstest::rstest]
#[tokio::test]
async fn case_10_a_type_that_says_nothing_is_inferred_from_the_fields(
    #[values("text/plain", "application/json; charset=utf-8")] said: &str,
) {
    let layer = noise(1, 100);
    let layers = format!(r#"{{"layers":[{}]}}"#, descriptor("x", &layer));
    let mut app = raw(said, layers, vec![layer]);
    let (to, result) = copied(std::slice::from_ref(&app)).await;
    assert_eq!(result.unwrap().media_type, OCI_MANIFEST);
    app.media_type = OCI_MANIFEST.to_owned();
    assert!(arrived(&to, std::slice::from_ref(&app)));

    let list = raw(
        said,
        format!(r#"{{"manifests":[{}]}}"#, app.descriptor()),
        vec![],
    );
    let (_, result) = copied(&[app.clone(), list]).await;
    assert_eq!(result.unwrap().media_type, OCI_INDEX);

    let both = format!(r#"{{"layers":[],"manifests":[{}]}}"#, app.descriptor());
    let (to, result) = copied(&[app, raw(said, both, vec![])]).await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains("ambiguous"), "{error}");
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn case_11_a_type_that_the_body_denies_is_refused() {
    let mut image = image(1, &[noise(1, 10)]);
    image.media_type = OCI_INDEX.into();
    let (to, result) = copied(&[image]).await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains("ambiguous"), "{error}");
    assert_eq!(error.retry(), Retry::Permanent);
    assert!(nothing_tagged(&to));
}

/// A manifest of exactly this many bytes.
fn of_size(bytes: usize) -> Image {
    let frame = r#"{"schemaVersion":2,"filler":""}"#;
    let filler = "x".repeat(bytes - frame.len());
    raw(
        "application/vnd.example",
        frame.replace(r#""""#, &format!(r#""{filler}""#)),
        vec![],
    )
}

#[tokio::test]
async fn case_12_manifests_are_read_up_to_8_mib() {
    let large = of_size(8 * MIB);
    let (to, result) = copied(std::slice::from_ref(&large)).await;
    result.unwrap();
    assert!(arrived(&to, std::slice::from_ref(&large)));

    for endless in [false, true] {
        let (from, to) = pair_with(&[of_size(8 * MIB + 1)]).await;
        if endless {
            // Nobody says how long it is.
            from.fault(
                Method::GET,
                "/manifests/",
                usize::MAX,
                Action::Resize(MIB.cast_signed()),
            );
        }
        let error = copy_app(&registries(&[&from, &to]), &from, &to)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("larger than the limit"), "{text}");
        assert_eq!(error.retry(), Retry::Permanent);
    }
}

#[tokio::test]
async fn case_12_a_target_that_finds_it_too_large_is_asked_once() {
    let (from, to) = pair_with(&[of_size(5 * MIB)]).await;
    let refusal = Action::Status(413, vec![], "too large");
    to.fault(Method::PUT, "/manifests/", usize::MAX, refusal);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("413"), "{error}");
    assert_eq!(error.retry(), Retry::Permanent);
    assert_eq!(to.count(&Method::PUT, "/manifests/"), 1);
}

#[tokio::test]
async fn case_13_a_layer_that_is_named_often_is_sent_once() {
    let shared = noise(1, 20_000);
    let twice = image(1, &[shared.clone(), shared.clone()]);
    let images = [
        twice.clone(),
        image(2, std::slice::from_ref(&shared)),
        index(&[&twice, &image(2, std::slice::from_ref(&shared))]),
    ];
    let (from, to) = pair_with(&images).await;
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &images));
    let name = digest_of(&shared).to_string();
    assert_eq!(from.count(&Method::GET, &name), 1);
    assert_eq!(to.count(&Method::PUT, &name.replace(':', "%3A")), 1);
}

/// Two images on one base, copied to one registry at the same time; the base is read so often.
async fn two_at_once(break_first: bool) -> usize {
    let base = noise(1, 200_000);
    let images = [
        image(1, &[base.clone(), noise(2, 10)]),
        image(2, &[base.clone(), noise(3, 10)]),
    ];
    let (from, to) = (Fake::start().await, Fake::start().await);
    for (name, image) in ["a", "b"].into_iter().zip(&images) {
        from.put_tagged(name, "1", image);
    }
    let name = format!("/blobs/{}", digest_of(&base));
    if break_first {
        from.fault(Method::GET, &name, 1, Action::Corrupt);
    }
    let registries = registries(&[&from, &to]);
    let copies = ["a", "b"].map(|name| {
        let source = source(&registries, &from, name, "1");
        let target = target(&registries, &to, &format!("copy-{name}"), "1");
        async move { copy(&source, &target, &CopyOptions::default(), &()).await }
    });
    for result in futures_util::future::join_all(copies).await {
        result.unwrap();
    }
    assert!(to.has("copy-a", &images[0]) && to.has("copy-b", &images[1]));
    from.count(&Method::GET, &name)
}

#[tokio::test]
async fn case_13_two_copies_at_once_read_a_shared_layer_once() {
    assert_eq!(two_at_once(false).await, 1);
}

#[tokio::test]
async fn case_13_a_failure_of_one_copy_does_not_hang_the_other() {
    assert!(two_at_once(true).await >= 2);
}

/// Whether or not the registry mounts: within one registry every blob has a place to be mounted from.
#[tokio::test]
async fn case_13_two_copies_within_one_registry_that_never_mounts_send_each_blob_once() {
    let app = image(1, &[noise(1, 200_000), noise(2, 1000)]);
    let registry = Fake::start().await;
    registry.put_tagged("app", "1", &app);
    registry.set(|knobs| knobs.mount = false);
    let registries = registries(&[&registry]);
    let copies = ["1", "2"].map(|tag| {
        let source = source(&registries, &registry, "app", "1");
        let target = target(&registries, &registry, "copy", tag);
        async move { copy(&source, &target, &CopyOptions::default(), &()).await }
    });
    for result in futures_util::future::join_all(copies).await {
        result.unwrap();
    }
    assert!(registry.has("copy", &app));
    for blob in &app.blobs {
        let name = digest_of(blob).to_string();
        assert_eq!(registry.count(&Method::GET, &format!("/blobs/{name}")), 1);
        assert_eq!(registry.count(&Method::PUT, &name.replace(':', "%3A")), 1);
    }
}

#[tokio::test]
async fn case_14_an_empty_blob_is_put_with_length_0_and_never_read() {
    let app = image(1, &[blob(""), noise(1, 10)]);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, std::slice::from_ref(&app)));
    let empty = digest_of(b"").to_string();
    assert_eq!(from.count(&Method::GET, &empty), 0);
    let puts = to.asked(&Method::PUT, &empty.replace(':', "%3A"));
    assert_eq!(puts.len(), 1);
    assert_eq!(puts[0].headers[header::CONTENT_LENGTH], "0");
}

#[tokio::test]
async fn case_14_what_says_it_is_empty_and_has_another_digest_is_refused() {
    let layer = noise(1, 10);
    let entry = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer);
    let entry = entry.replace("\"size\":10", "\"size\":0");
    let good = descriptor("application/octet-stream", &noise(2, 10));
    let manifest = format!(r#"{{"mediaType":"{OCI_MANIFEST}","layers":[{good},{entry}]}}"#);
    let app = raw(OCI_MANIFEST, manifest, vec![layer.clone(), noise(2, 10)]);
    let (to, result) = copied(&[app]).await;
    let error = result.unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent, "{error}");
    let text = error.to_string();
    assert!(text.contains(digest_of(&layer).as_ref()), "{text}");
    assert!(nothing_tagged(&to));
    for method in [Method::POST, Method::PUT, Method::PATCH] {
        assert_eq!(to.count(&method, ""), 0, "nothing is sent");
    }
}

#[tokio::test]
async fn case_14_the_empty_json_is_not_read() {
    let subject = image(1, &[noise(1, 10)]);
    let artifact = referrer(&subject, "example/sbom", &blob("sbom"));
    let (from, to) = pair_with(std::slice::from_ref(&artifact)).await;
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, std::slice::from_ref(&artifact)));
    let empty = digest_of(b"{}").to_string();
    assert_eq!(from.count(&Method::GET, &empty), 0);
}

#[tokio::test]
async fn case_15_a_manifest_of_another_size_than_its_index_says_is_refused() {
    let child = image(1, &[noise(1, 10)]);
    let wrong = child.descriptor().replace("\"size\":", "\"size\":1");
    let list = raw(OCI_INDEX, format!(r#"{{"manifests":[{wrong}]}}"#), vec![]);
    let (to, result) = copied(&[child, list]).await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains("descriptor says"), "{error}");
    assert!(nothing_tagged(&to));
}

/// The size that the registry says is wrong at once, and the size that really comes is wrong at the end.
#[rstest::rstest]
#[case::content_length(None)]
#[case::longer(Some(7))]
#[case::shorter(Some(-7))]
#[tokio::test]
async fn case_15_a_blob_of_another_size_is_never_committed(#[case] resize: Option<isize>) {
    let layer = noise(1, 300_000);
    let app = image(1, std::slice::from_ref(&layer));
    let (from, to) = pair_with(&[app]).await;
    // Whatever is committed stays, so that it would be seen.
    to.set(|knobs| knobs.verify = false);
    let (path, digest) = (format!("/blobs/{}", digest_of(&layer)), digest_of(&layer));
    if let Some(by) = resize {
        from.fault(Method::GET, &path, usize::MAX, Action::Resize(by));
    } else {
        let key = ("app".to_owned(), digest.to_string());
        from.state().blobs.insert(key, noise(9, 1234));
    }
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(matches!(error, CopyError::Source(_)), "{error}");
    if resize.is_none() {
        assert!(error.to_string().contains("1234"), "{error}");
        assert_eq!(from.count(&Method::GET, &path), 1);
    }
    assert!(nothing_tagged(&to));
    assert_eq!(to.blob("copy", &digest), None);
}

#[tokio::test]
async fn case_16_sha512_is_verified_with_its_own_algorithm() {
    let layer = blob("hello");
    let sha512 = "sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043";
    let manifest = format!(r#"{{"layers":[{{"mediaType":"x","digest":"{sha512}","size":5}}]}}"#);
    let app = raw(OCI_MANIFEST, manifest, vec![]);
    for (content, good) in [(layer.clone(), true), (blob("jello"), false)] {
        let (from, to) = pair_with(std::slice::from_ref(&app)).await;
        from.state()
            .blobs
            .insert(("app".into(), sha512.into()), content);
        let result = copy_app(&registries(&[&from, &to]), &from, &to).await;
        assert_eq!(result.is_ok(), good, "{result:?}");
        let key = ("copy".to_owned(), sha512.to_owned());
        assert_eq!(to.state().blobs.contains_key(&key), good);
    }
    // A target that refuses the algorithm: the digest is never replaced by another one.
    let (from, to) = pair_with(&[app]).await;
    from.state()
        .blobs
        .insert(("app".into(), sha512.into()), layer);
    let refusal = r#"{"errors":[{"code":"DIGEST_INVALID","message":"sha512 is not supported"}]}"#;
    let refusal = Action::Status(400, vec![], refusal);
    to.fault(Method::PUT, "/blobs/", usize::MAX, refusal);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("sha512"), "{error}");
    assert!(nothing_tagged(&to) && to.state().blobs.is_empty());
}

/// An image with a layer on somebody's web server.
fn with_foreign_layer(web: &Fake) -> (Image, Bytes) {
    let foreign = noise(77, 5000);
    let at = format!(
        r#","urls":["http://{}/v2/files/blobs/{}"]}}"#,
        web.address,
        digest_of(&foreign)
    );
    let entry = descriptor(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        &foreign,
    );
    let entry = format!("{}{at}", entry.strip_suffix('}').unwrap());
    let mut app = image(1, &[noise(1, 100)]);
    let text = String::from_utf8(app.manifest.to_vec()).unwrap();
    app.manifest = text
        .replace("\"layers\":[", &format!("\"layers\":[{entry}, "))
        .into();
    (app, foreign)
}

#[tokio::test]
async fn case_17_foreign_layers_stay_where_they_are() {
    let web = Fake::start().await;
    let (app, foreign) = with_foreign_layer(&web);
    web.put_blob("files", &foreign);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!((report.blobs_foreign, report.blobs_copied), (1, 2));
    assert_eq!(web.log().len(), 0);
}

#[tokio::test]
async fn case_17_foreign_layers_are_fetched_by_option_without_credentials() {
    use crate::support::registries_with_login;
    let web = Fake::start().await;
    let (app, foreign) = with_foreign_layer(&web);
    web.put_blob("files", &foreign);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let options = CopyOptions {
        foreign_layers: true,
        ..CopyOptions::default()
    };
    let registries = registries_with_login(&[&from, &to, &web], "robot");
    copy_app_with(&registries, &from, &to, &options)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!(to.blob("copy", &digest_of(&foreign)), Some(foreign));
    let log = web.log();
    assert!(!log.is_empty() && log.iter().all(|entry| entry.authorization.is_none()));
}

#[tokio::test]
async fn case_18_layers_are_opaque_and_asked_for_as_they_are() {
    let types = [
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
    ];
    let layers: Vec<_> = (1..).map(|n| noise(n, 1000)).take(types.len()).collect();
    let entries: Vec<_> = types
        .iter()
        .zip(&layers)
        .map(|(of, layer)| descriptor(of, layer))
        .collect();
    let manifest = format!(
        r#"{{"mediaType":"{OCI_MANIFEST}","layers":[{}]}}"#,
        entries.join(",")
    );
    let app = raw(OCI_MANIFEST, manifest, layers);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    for entry in from.asked(&Method::GET, "/v2/app/") {
        assert_eq!(entry.headers[header::ACCEPT_ENCODING], "identity");
    }
}

/// Moves the source's tag as soon as it was resolved.
struct MovesTheTag<'a>(&'a Fake, Image);

impl Progress for MovesTheTag<'_> {
    fn event(&self, event: Event<'_>) {
        if let Event::Resolved { .. } = event {
            self.0.put_tagged("app", "1", &self.1);
        }
    }
}

#[tokio::test]
async fn case_19_a_tag_that_moves_meanwhile_gives_one_image_not_two_halves() {
    let app = image(1, &[noise(1, 1000)]);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let moves = MovesTheTag(&from, image(2, &[noise(2, 1000)]));
    let registries = registries(&[&from, &to]);
    let report = copy(
        &source(&registries, &from, "app", "1"),
        &target(&registries, &to, "copy", "1"),
        &CopyOptions::default(),
        &moves,
    )
    .await
    .unwrap();
    assert_eq!(report.digest, app.digest());
    assert!(arrived(&to, &[app]));
    let by_tag = |method: &Method| from.count(method, "/manifests/1");
    assert_eq!(by_tag(&Method::HEAD) + by_tag(&Method::GET), 1);
}

#[tokio::test]
async fn case_20_a_moved_tag_is_overwritten_and_the_anchor_stays() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let registries = registries(&[&from, &to]);
    let (old, new) = (image(1, &[noise(1, 10)]), image(2, &[noise(2, 10)]));
    for image in [&old, &new] {
        from.put_tagged("app", "1", image);
        copy_app(&registries, &from, &to).await.unwrap();
    }
    assert_eq!(to.tag("copy", "1"), Some(new.digest().to_string()));
    assert_eq!(
        to.tag("copy", &anchor_of(&old.digest())),
        Some(old.digest().to_string())
    );
}

#[rstest::rstest]
#[case(
    409,
    r#"{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}"#
)]
#[case(
    400,
    r#"{"errors":[{"code":"TAG_INVALID","message":"The image tag '1' already exists and cannot be overwritten because the repository is immutable."}]}"#
)]
#[case(
    403,
    r#"{"errors":[{"code":"ImageTagAlreadyExistsException","message":"The image tag already exists"}]}"#
)]
#[case(
    405,
    r#"{"errors":[{"code":"UNSUPPORTED","message":"The operation is disallowed: changes that already exist are locked"}]}"#
)]
#[tokio::test]
async fn case_20_an_immutable_tag_is_a_final_error_in_the_registrys_words(
    #[case] status: u16,
    #[case] body: &'static str,
) {
    let (from, to) = pair_with(&[image(1, &[noise(1, 10)])]).await;
    let old = image(2, &[noise(2, 10)]);
    to.put_tagged("copy", "1", &old);
    let refusal = Action::Status(status, vec![], body);
    to.fault(Method::PUT, "/manifests/1", usize::MAX, refusal);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent, "{error}");
    assert!(
        matches!(error, CopyError::Target(RegistryError::ImmutableTag { .. })),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("immutable") || text.contains("exist"),
        "{text}"
    );
    assert_eq!(to.count(&Method::PUT, "/manifests/1"), 1);
    assert_eq!(to.tag("copy", "1"), Some(digest::of(&old.manifest)));
}

/// All platforms count, each layer once, before anything of them is read.
#[rstest::rstest]
#[case(None, true)]
#[case(Some(172), true)]
#[case(Some(171), false)]
#[tokio::test]
async fn an_image_beyond_the_limit_is_refused_before_its_blobs_are_read(
    #[case] max_bytes: Option<u64>,
    #[case] copied: bool,
) {
    let shared = noise(3, 70);
    let (left, right) = (
        image(1, &[noise(1, 10), shared.clone()]),
        image(2, &[shared]),
    );
    let root = index(&[&left, &right]);
    let (from, to) = pair_with(&[left, right, root]).await;
    let options = CopyOptions {
        max_bytes,
        ..CopyOptions::default()
    };
    let result = copy_app_with(&registries(&[&from, &to]), &from, &to, &options).await;
    assert_eq!(result.is_ok(), copied, "{result:?}");
    if let Err(error) = result {
        assert!(
            matches!(error, CopyError::TooLarge { limit: 171, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("raise the limit"), "{error}");
        assert_eq!(error.retry(), Retry::Permanent);
        assert!(from.asked(&Method::GET, "/blobs/").is_empty());
        assert!(nothing_tagged(&to));
    }
}
