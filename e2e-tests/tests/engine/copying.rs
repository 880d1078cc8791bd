//! What a copy brings over, in which order, and with how many requests.

use crate::support::{anchor_of, copy_app, registries, source, target};
use axum::http::Method;
use e2e_tests::scripted::{Action, Fake, Image, blob, descriptor, digest_of, image, index, noise};
use mirror_copy::{CopyOptions, Digest, Event, Progress, copy};
use std::sync::Mutex;

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

    let writes: Vec<_> = to
        .log()
        .into_iter()
        .filter(|entry| entry.method == Method::PUT)
        .collect();
    let first_manifest = writes
        .iter()
        .position(|e| e.path.contains("/manifests/"))
        .unwrap();
    assert!(
        writes[first_manifest..]
            .iter()
            .all(|entry| entry.path.contains("/manifests/"))
    );
    let last: Vec<_> = writes
        .iter()
        .rev()
        .take(3)
        .map(|e| e.path.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(last[0], "1");
    assert_eq!(last[1], anchor_of(&root.digest()));
    assert_eq!(
        last[2],
        images[3].digest().to_string(),
        "the nested index after its child"
    );

    let heard = heard.0.into_inner().unwrap();
    assert!(heard.first().unwrap().starts_with("Resolved"));
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
    assert_eq!((from.log().len(), to.log().len()), (1, 2));
    assert_eq!(report.requests, 3);
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
    assert_eq!(from.log().len(), 0, "the source is not needed");
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
    assert_eq!(report.manifests, 4);
    // The shared layer and the config are there; the arm layer, the attestation's two are not.
    assert_eq!((report.blobs_skipped, report.blobs_copied), (2, 3));
    assert_eq!(from.count(&Method::GET, images[0].digest().as_ref()), 0);
}

#[tokio::test]
async fn blobs_of_the_same_registry_are_mounted() {
    let registry = Fake::start().await;
    let app = image(1, &[noise(1, 5000), noise(2, 5000)]);
    registry.put_tagged("app", "1", &app);
    let report = copy_app(&registries(&[&registry]), &registry, &registry)
        .await
        .unwrap();
    assert!(registry.has("copy", &app));
    assert_eq!(
        (report.blobs_mounted, report.blobs_copied, report.bytes),
        (3, 0, 0)
    );
    assert_eq!(registry.count(&Method::GET, "/blobs/"), 0);
    assert_eq!(registry.count(&Method::HEAD, "/blobs/"), 0);
}

#[tokio::test]
async fn within_one_repository_only_tags_are_written() {
    let registry = Fake::start().await;
    let app = image(1, &[noise(1, 5000)]);
    registry.put_tagged("app", "1", &app);
    let registries = registries(&[&registry]);
    let report = copy(
        &source(&registries, &registry, "app", "1"),
        &target(&registries, &registry, "app", "2"),
        &CopyOptions::default(),
        &(),
    )
    .await
    .unwrap();
    assert_eq!(registry.tag("app", "2"), Some(app.digest().to_string()));
    assert_eq!((report.blobs_skipped, report.blobs_copied), (2, 0));
    assert_eq!(registry.count(&Method::POST, ""), 0);
}

/// Two images that share a base layer go to two repositories.
async fn two_with_a_shared_base(to: &Fake) -> (Fake, mirror_copy::CopyReport) {
    let from = Fake::start().await;
    let base = noise(1, 50_000);
    from.put_tagged("a", "1", &image(1, &[base.clone(), noise(2, 10)]));
    let second = image(2, &[base, noise(3, 10)]);
    from.put_tagged("b", "1", &second);
    let registries = registries(&[&from, to]);
    let mut last = None;
    for name in ["a", "b"] {
        let source = source(&registries, &from, name, "1");
        let target = target(&registries, to, &format!("copy-{name}"), "1");
        last = Some(
            copy(&source, &target, &CopyOptions::default(), &())
                .await
                .unwrap(),
        );
    }
    assert!(to.has("copy-b", &second));
    (from, last.unwrap())
}

#[tokio::test]
async fn a_base_layer_crosses_the_wire_once_per_registry() {
    let to = Fake::start().await;
    let (from, second) = two_with_a_shared_base(&to).await;
    assert_eq!((second.blobs_mounted, second.blobs_copied), (1, 2));
    let base = digest_of(&noise(1, 50_000));
    assert_eq!(from.count(&Method::GET, base.as_ref()), 1);
}

#[tokio::test]
async fn the_session_of_a_refused_mount_is_used() {
    let to = Fake::start().await;
    to.set(|knobs| knobs.mount = false);
    let (_from, second) = two_with_a_shared_base(&to).await;
    assert_eq!((second.blobs_mounted, second.blobs_copied), (0, 3));
    // Three blobs for either image, one POST each.
    assert_eq!(to.count(&Method::POST, "/blobs/uploads/"), 6);
}

#[rstest::rstest]
#[case(400)]
#[case(403)]
#[case(404)]
#[case(405)]
#[tokio::test]
async fn a_registry_that_knows_no_mount_gets_the_blob(#[case] status: u16) {
    let to = Fake::start().await;
    to.fault(
        Method::POST,
        "mount=",
        1,
        Action::Status(status, vec![], "no"),
    );
    let (_from, second) = two_with_a_shared_base(&to).await;
    assert_eq!((second.blobs_mounted, second.blobs_copied), (0, 3));
}

#[tokio::test]
async fn foreign_layers_stay_where_they_are() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let mut app = image(1, &[noise(1, 100)]);
    let foreign = descriptor(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        b"on somebody's web server",
    );
    let text = String::from_utf8(app.manifest.to_vec()).unwrap();
    app.manifest = text
        .replace("\"layers\":[", &format!("\"layers\":[{foreign}, "))
        .into();
    from.put_tagged("app", "1", &app);
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(to.has("copy", &app));
    assert_eq!((report.blobs_foreign, report.blobs_copied), (1, 2));
}

#[tokio::test]
async fn blobs_that_the_target_lost_are_sent_again() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let app = image(1, &[noise(1, 100), noise(2, 100)]);
    from.put_tagged("app", "1", &app);
    // It says that it has the layer, and then it has not.
    let lost = digest_of(&noise(1, 100));
    to.fault(
        Method::HEAD,
        lost.as_ref(),
        1,
        Action::Status(200, vec![], ""),
    );
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(to.has("copy", &app));
}

#[tokio::test]
async fn a_distrustful_copy_heals_a_damaged_target() {
    let (from, to, images) = with_everything().await;
    let registries = registries(&[&from, &to]);
    copy_app(&registries, &from, &to).await.unwrap();
    let lost: Digest = digest_of(&noise(2, 70_000));
    to.state()
        .blobs
        .remove(&("copy".to_owned(), lost.to_string()));
    let options = CopyOptions {
        trust_present: false,
        ..CopyOptions::default()
    };
    let source = source(&registries, &from, "app", "1");
    let target = target(&registries, &to, "copy", "1");
    let report = copy(&source, &target, &options, &()).await.unwrap();
    assert!(images.iter().all(|image| to.has("copy", image)));
    assert_eq!((report.blobs_copied, report.blobs_skipped), (1, 7));
}

#[tokio::test]
async fn a_moved_tag_is_overwritten_and_the_anchor_stays() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let registries = registries(&[&from, &to]);
    let (old, new) = (image(1, &[noise(1, 10)]), image(2, &[noise(2, 10)]));
    from.put_tagged("app", "1", &old);
    copy_app(&registries, &from, &to).await.unwrap();
    from.put_tagged("app", "1", &new);
    copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(to.tag("copy", "1"), Some(new.digest().to_string()));
    assert_eq!(
        to.tag("copy", &anchor_of(&old.digest())),
        Some(old.digest().to_string())
    );
}
