//! Cases 7 and 12 where somebody tries how much can be taken: what is large and real is copied, what is larger than
//! anything sane is refused for good, and says why.

use crate::support::{
    arrived, copied, copy_app, copy_app_with, nothing_tagged, pair_with, raw, registries, source,
    target,
};
use axum::http::Method;
use bytes::Bytes;
use mirror_copy::{CopyError, CopyOptions, Digest, Event, Progress, Retry, copy};
use std::sync::Mutex;
use testkit::scripted::{
    Action, Image, OCI_INDEX, OCI_MANIFEST, blob, descriptor, digest_of, image, noise, referrer,
};

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// An index of 300 images with everything that tools put into one, and what a later version may put there.
fn everything(media_type: &str) -> Vec<Image> {
    let config = blob("{}");
    let layer = noise(1, 40);
    let child = |number: usize| {
        let config = descriptor("application/vnd.oci.empty.v1+json", &config);
        let layer = format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":40,"urls":null,"annotations":{{"stargz.toc":"{}"}},"data":"{}","unknown":[{{}}]}}"#,
            digest_of(&layer),
            "x".repeat(300),
            "A".repeat(if number.is_multiple_of(100) {
                70_000
            } else {
                40
            }),
        );
        let body = format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}],"annotations":{{"n":"{number}","big":1e400}}}}"#
        );
        raw(OCI_MANIFEST, body, vec![blob("{}"), noise(1, 40)])
    };
    let mut images: Vec<_> = (0..300).map(child).collect();
    let entry = |image: &Image| {
        let descriptor = image.descriptor();
        let more = r#""platform":{"os":"linux","architecture":"amd64","os.features":["a"],"variant":7},"annotations":{"a":"b"},"artifactType":"a/b""#;
        format!("{},{more}}}", descriptor.trim_end_matches('}'))
    };
    let entries = images.iter().map(entry).collect::<Vec<_>>().join(",\n  ");
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{entries}],"annotations":{{"x":"\u00e9\n"}},"new":{{"deep":[[[[1]]]]}}}}"#
    );
    images.push(raw(media_type, body, vec![]));
    images
}

#[rstest::rstest]
#[case(OCI_INDEX)]
#[case(DOCKER_LIST)]
#[tokio::test]
async fn case_12_large_manifests_with_fields_of_all_kinds_are_copied(#[case] media_type: &str) {
    let images = everything(media_type);
    let (to, result) = copied(&images).await;
    let report = result.unwrap();
    assert!(arrived(&to, &images));
    assert_eq!(report.manifests, 301);
}

fn layers(entry: &str, times: usize) -> String {
    let entries = vec![entry; times].join(",");
    format!(r#"{{"schemaVersion":2,"layers":[{entries}]}}"#)
}

fn long_fields() -> [(String, &'static str); 5] {
    let long = "x".repeat(300);
    let layer = descriptor("a/b", b"a");
    [
        (
            format!(r#"{{"schemaVersion":2,"mediaType":"{long}","layers":[]}}"#),
            "field mediaType is longer than 255 bytes",
        ),
        (
            layers(
                &format!(r#"{{"mediaType":"{long}","digest":"a:b","size":1}}"#),
                1,
            ),
            "field layers.mediaType is longer than 255 bytes",
        ),
        (
            layers(&format!(r#"{{"digest":"sha256:{long}","size":1}}"#), 1),
            "field layers.digest is longer than 256 bytes",
        ),
        (layers(&layer, 10_001), "names more than 10000 objects"),
        (
            format!(
                r#"{{"schemaVersion":2,"layers":[],"x":{}{}}}"#,
                "[".repeat(64),
                "]".repeat(64)
            ),
            "nested deeper than 64 levels",
        ),
    ]
}

#[tokio::test]
async fn case_12_what_exceeds_a_limit_names_it_and_is_final() {
    let odd = [
        (
            r#"{"schemaVersion":2,"mediaType":"a\nERROR b","layers":[]}"#,
            "field mediaType has characters",
        ),
        (
            r#"{"schemaVersion":2,"layers":[7]}"#,
            "field layers is not an object",
        ),
        (
            r#"{"schemaVersion":2,"layers":[["a","sha256:00",1]]}"#,
            "field layers is not an object",
        ),
        (
            r#"{"schemaVersion":2,"config":{"digest":"sha256:\n00","size":1}}"#,
            "field config.digest is not a digest",
        ),
        (
            r#"{"schemaVersion":2,"config":{"size":1}}"#,
            "field config.digest is missing",
        ),
    ];
    let odd = odd.map(|(body, words)| (body.to_owned(), words));
    for (body, words) in long_fields().into_iter().chain(odd) {
        let (from, to) = pair_with(&[raw(OCI_MANIFEST, body, vec![])]).await;
        let error = copy_app(&registries(&[&from, &to]), &from, &to).await;
        let error = error.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words), "{text}");
        assert!(
            text.len() < 1000 && !text.contains(char::is_control),
            "{text}"
        );
        assert_eq!(error.retry(), Retry::Permanent);
        assert_eq!(from.count(&Method::GET, "/manifests/"), 1, "{words}");
        assert!(nothing_tagged(&to));
    }
}

/// Errors about what was left out.
#[derive(Default)]
struct LeftOut(Mutex<Vec<String>>);

impl Progress for LeftOut {
    fn event(&self, event: Event<'_>) {
        if let Event::ReferrerLeftOut { error, .. } = event {
            self.0.lock().unwrap().push(error.to_string());
        }
    }
}

/// A list that names this digest, among many entries that name nothing.
fn list(odd: usize, digest: &Digest, size: usize) -> &'static str {
    let entry = r#"{"digest":"sha256:\nERROR forged","size":1,"annotations":[{"":0}]}"#;
    let mut entries = vec![entry.to_owned(); odd];
    entries.push(format!(
        r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{size}}}"#
    ));
    let entries = entries.join(",");
    format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#).leak()
}

#[rstest::rstest]
#[case(999, 1, "999 entries")]
#[case(1000, 0, "1000 entries")]
#[case(10_000, 0, "1000 entries")]
#[tokio::test]
async fn case_07_unusable_entries_are_counted_and_reported_once(
    #[case] odd: usize,
    #[case] brought: u64,
    #[case] words: &str,
) {
    let app = image(1, &[noise(1, 10)]);
    let signature = referrer(&app, "example/signature", &blob("signature"));
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    from.put("app", &signature);
    let answer = list(odd, &signature.digest(), signature.manifest.len());
    let answer = Action::Status(200, vec![("content-type", OCI_INDEX.to_owned())], answer);
    from.fault(
        Method::GET,
        &format!("/referrers/{}", app.digest()),
        1,
        answer,
    );
    let registries = registries(&[&from, &to]);
    let left_out = LeftOut::default();
    let report = copy(
        &source(&registries, &from, "app", "1"),
        &target(&registries, &to, "copy", "1"),
        &CopyOptions::default(),
        &left_out,
    )
    .await
    .unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!((report.referrers, report.referrers_left_out), (brought, 1));
    let left_out = left_out.0.into_inner().unwrap();
    let [error] = left_out.as_slice() else {
        panic!("{left_out:?}")
    };
    assert!(
        error.contains(words) && !error.contains("forged"),
        "{error}"
    );
}

/// The image comes first: what refers to it gets what it leaves of the limit.
#[rstest::rstest]
#[case(0, None)]
#[case(11, Some(0))]
#[case(12, Some(1))]
#[tokio::test]
async fn case_07_what_does_not_fit_beside_the_image_is_left_out(
    #[case] beside: u64,
    #[case] expected: Option<u64>,
) {
    let app = image(1, &[noise(1, 1000)]);
    // With a config of two bytes.
    let large = referrer(&app, "example/large", &Bytes::from(vec![b'l'; 10_000]));
    let small = referrer(&app, "example/small", &Bytes::from(vec![b's'; 10]));
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    from.put("app", &large);
    from.put("app", &small);
    let size: usize = app.blobs.iter().map(Bytes::len).sum();
    let options = CopyOptions {
        max_bytes: Some(size as u64 + beside - u64::from(expected.is_none())),
        ..CopyOptions::default()
    };
    let result = copy_app_with(&registries(&[&from, &to]), &from, &to, &options).await;
    let Some(expected) = expected else {
        assert!(
            matches!(result, Err(CopyError::TooLarge { .. })),
            "{result:?}"
        );
        return;
    };
    let report = result.unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!(
        (report.referrers, report.referrers_left_out),
        (expected, 2 - expected)
    );
    assert_eq!(to.has("copy", &small), expected == 1);
    assert!(!to.has("copy", &large));
}
