//! What a copy brings over, in which order, and with how many requests.

use crate::support::{anchor_of, copied, copy_app, raw, registries, source, target};
use axum::http::Method;
use mirror_copy::{CopyOptions, Event, Progress, TagOrDigest, copy};
use std::sync::Mutex;
use testkit::scripted::{Fake, Image, blob, descriptor, image, index, noise};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Two platforms that share a layer, an attestation, a nested index, an empty layer.
fn everything() -> Vec<Image> {
    let shared = noise(1, 300_000);
    let amd = image(1, &[shared.clone(), noise(2, 70_000), blob("")]);
    let arm = image(2, &[shared, noise(3, 1)]);
    let attestation = image(3, &[blob(r#"{"_type":"in-toto"}"#)]);
    let inner = index(&[&attestation]);
    let outer = index(&[&amd, &arm, &inner]);
    vec![amd, arm, attestation, inner, outer]
}

async fn with_everything() -> (Fake, Fake, Vec<Image>) {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let images = everything();
    for image in &images {
        from.put("app", image);
    }
    from.put_tagged("app", "1", images.last().unwrap());
    (from, to, images)
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn event(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

#[tokio::test]
async fn all_platforms_arrive_byte_for_byte_and_the_tag_comes_last() {
    let (from, to, images) = with_everything().await;
    let registries = registries(&[&from, &to]);
    let heard = Heard::default();
    let report = copy(
        &source(&registries, &from, "app", "1"),
        &target(&registries, &to, "deep/er/copy", "1"),
        &CopyOptions::default(),
        &heard,
    )
    .await
    .unwrap();

    let root = images.last().unwrap();
    assert!(images.iter().all(|image| to.has("deep/er/copy", image)));
    assert_eq!(to.tag("deep/er/copy", "1"), Some(root.digest().to_string()));
    assert_eq!(
        to.tag("deep/er/copy", &anchor_of(&root.digest())),
        Some(root.digest().to_string())
    );
    assert_eq!(report.digest, root.digest());
    assert_eq!(report.manifests, 5);
    // Three configs, the shared layer once, three more layers, the attestation.
    assert_eq!(
        (
            report.blobs_copied,
            report.blobs_skipped,
            report.blobs_mounted
        ),
        (8, 0, 0)
    );
    assert_eq!(report.requests, (from.log().len() + to.log().len()) as u64);

    let pushes: Vec<_> = to
        .asked(&Method::PUT, "/manifests/")
        .iter()
        .map(|entry| entry.path.rsplit('/').next().unwrap().to_owned())
        .collect();
    let place = |image: &Image| {
        let digest = image.digest().to_string();
        pushes.iter().position(|pushed| *pushed == digest)
    };
    assert!(place(&images[2]) < place(&images[3]), "{pushes:?}");
    let tags = [anchor_of(&root.digest()), "1".to_owned()];
    assert!(pushes.ends_with(&tags), "{pushes:?}");
    let log = to.log();
    let last = log.iter().rfind(|entry| entry.method == Method::PUT);
    assert!(last.unwrap().path.ends_with("/manifests/1"));

    let heard = heard.0.into_inner().unwrap();
    let first = heard.iter().find(|event| !event.starts_with("Source"));
    assert!(first.unwrap().starts_with("Resolved"));
    assert!(heard.last().unwrap().starts_with("Tagged"));
}

#[tokio::test]
async fn copying_again_costs_two_requests_a_side_at_most() {
    let (from, to, images) = with_everything().await;
    let registries = registries(&[&from, &to]);
    copy_app(&registries, &from, &to).await.unwrap();
    from.clear_log();
    to.clear_log();
    let report = copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(report.digest, images.last().unwrap().digest());
    assert_eq!(
        (report.manifests, report.blobs_copied, report.bytes),
        (0, 0, 0)
    );
    // The tag, and what refers to the image now.
    assert_eq!((from.log().len(), to.log().len()), (2, 2));
    assert_eq!(report.requests, 4);
}

#[tokio::test]
async fn a_digest_is_taken_as_it_is_and_only_the_missing_tag_is_written() {
    let (from, to, images) = with_everything().await;
    let registries = registries(&[&from, &to]);
    copy_app(&registries, &from, &to).await.unwrap();
    from.clear_log();
    to.clear_log();
    let root = images.last().unwrap().digest();
    let source = source(&registries, &from, "app", root.as_ref());
    let target = target(&registries, &to, "copy", "other");
    let report = copy(&source, &target, &CopyOptions::default(), &())
        .await
        .unwrap();
    assert_eq!(from.count(&Method::GET, "/referrers/"), 1);
    assert_eq!(from.log().len(), 1, "the source's image is not needed");
    assert_eq!(to.count(&Method::PUT, ""), 1);
    assert_eq!(to.tag("copy", "other"), Some(root.to_string()));
    assert_eq!(report.manifests, 1);
}

#[tokio::test]
async fn without_any_tag_the_root_is_pushed_by_digest() {
    let (from, to, images) = with_everything().await;
    let registries = registries(&[&from, &to]);
    let source = source(&registries, &from, "app", "1");
    let mut target = target(&registries, &to, "copy", "1");
    (target.tag, target.anchor) = (None, None);
    copy(&source, &target, &CopyOptions::default(), &())
        .await
        .unwrap();
    assert_eq!(to.tags(), 0);
    assert!(images.iter().all(|image| to.has("copy", image)));
    to.clear_log();
    let again = copy(&source, &target, &CopyOptions::default(), &())
        .await
        .unwrap();
    assert_eq!((again.manifests, to.log().len()), (0, 1));
}

#[tokio::test]
async fn what_an_interrupted_copy_left_is_not_sent_again() {
    let (from, to, images) = with_everything().await;
    let registries = registries(&[&from, &to]);
    // The first try got one platform over, and one blob of the other.
    to.put("copy", &images[0]);
    to.put_blob("copy", &images[1].blobs[0]);
    let report = copy_app(&registries, &from, &to).await.unwrap();
    assert!(images.iter().all(|image| to.has("copy", image)));
    // The arm layer and the attestation's two blobs are not there.
    assert_eq!(report.blobs_copied, 3);
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
